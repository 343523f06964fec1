"""What must not leave the host: the token of the store and the passwords of peers, taken out of whatever is told.

Nothing that is collected should have one to begin with. This is for the day on which some program's log quotes one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.ports import Entry
    from controller.settings import Settings

HIDDEN: Final = "***"
#: Something shorter is part of too many words: taking it out of them would tell what it is.
_SHORTEST: Final = 4
#: In any record, also one that cannot be decoded.
_PASSWORD: Final = re.compile(rb'"password"\s*:\s*("(?:[^"\\]|\\.)*")')
_USER_IN_ADDRESS: Final = re.compile(r"//[^/@]*@")


class Secrets:
    """Texts that are known to be secret, in each form in which programs write them."""

    def __init__(self) -> None:
        self._forms: set[bytes] = set()

    def know(self, secret: str | None) -> None:
        """Take this out of everything from now on."""
        if secret is None or len(secret) < _SHORTEST:
            return
        plain = secret.encode(errors="surrogateescape")
        escaped = json.dumps(secret)[1:-1].encode()
        self._forms |= {plain, escaped, base64.b64encode(plain)}  # ExaBGP's configuration has them in base64

    def know_settings(self, settings: Settings) -> None:
        """Know the token, and a password in the store's address."""
        with contextlib.suppress(RefusedError):  # a file that cannot be read is told by nobody
            self.know(settings.token())
        if settings.consul_token is not None:
            self.know(settings.consul_token.get_secret_value())
        password = urlsplit(settings.consul_address).password
        self.know(password)
        self.know(password and unquote(password))

    def know_records(self, entries: Mapping[str, Entry]) -> None:
        """Know the password in each record that has one."""
        for entry in entries.values():
            for quoted in _PASSWORD.findall(entry.value):
                try:
                    self.know(json.loads(quoted))
                except ValueError:
                    self.know(quoted[1:-1].decode(errors="surrogateescape"))

    def without(self, text: bytes) -> bytes:
        """Return a text with each secret hidden, of two that overlap the longer one."""
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, HIDDEN.encode())
        return text


def shown_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings in force as they may be told."""
    shown = {name: _shown(getattr(settings, name)) for name in type(settings).model_fields}
    return {**shown, "consul_address": _USER_IN_ADDRESS.sub(f"//{HIDDEN}@", settings.consul_address)}


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return HIDDEN
    return value if value is None or isinstance(value, bool | int | float | dict) else str(value)

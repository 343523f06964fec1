"""Where Consul is and how to prove who asks; checked here, so that a mistake shows before the first request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from controller.errors import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

_DEFAULT_PORT = 8500
#: What to do when Consul's access control lists forbid something.
WAY_OUT_OF_DENIAL: Final = (
    "give this program's token, or the anonymous one if it has none, the policy of its part: `tortiectl consul-policy "
    "--help` shows how"
)


@dataclass(frozen=True, slots=True)
class ConsulAccess:
    """How to reach Consul's HTTP API. `ca_file` is trusted beside the system's authorities; all files are PEM."""

    address: str = "http://127.0.0.1:8500"
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    datacenter: str | None = None

    def __post_init__(self) -> None:
        """Raise `RefusedError` unless the address is `http[s]://HOST[:PORT]` and the rest can be used."""
        try:
            parts = urlsplit(self.address)
            sound = parts.scheme in ("http", "https") and parts.hostname and not (parts.path.strip("/") or parts.query)
            sound = sound and "@" not in parts.netloc and parts.port != 0
        except ValueError:
            sound = False
        if not sound:
            raise RefusedError(f"{self.address!r} is no address of Consul: write http://HOST:PORT or https://HOST:PORT")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token):
            raise RefusedError("Consul's token is empty or holds a character that no token has: set it anew")
        if (self.cert_file is None) != (self.key_file is None):
            raise RefusedError("Consul's client certificate and its key come together: name both files or neither")

    @property
    def scheme(self) -> str:
        """The scheme, `http` or `https`."""
        return urlsplit(self.address).scheme

    @property
    def host(self) -> str:
        """The host as it stands in a URL, an IPv6 address in brackets."""
        host = urlsplit(self.address).hostname or ""
        return f"[{host}]" if ":" in host else host

    @property
    def port(self) -> int:
        """The port, 8500 unless the address names one."""
        return urlsplit(self.address).port or _DEFAULT_PORT

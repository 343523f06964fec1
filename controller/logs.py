"""Logging: one line an event, a constant message and its fields as `key=value` (logfmt)."""

from __future__ import annotations

import json
import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Formats a record as time, severity, logger, message and the fields given as `extra`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the standard library's name
        """Return the line with the record's own fields behind the message."""
        own = ((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        fields = "".join(f" {name}={_quoted(_text(value))}" for name, value in own)
        return super().formatMessage(record) + fields


def configure(level: str) -> None:
    """Send this process's log to standard error, from the given severity on."""
    stream = logging.StreamHandler()
    stream.setFormatter(FieldFormatter())
    logging.basicConfig(level=level.upper(), handlers=[stream])
    # Each request of the HTTP servers is of interest to debugging only.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _text(value: object) -> str:
    """Return a value as people write it; the members of a sequence are separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _quoted(value: str) -> str:
    """Return a value that cannot be taken for another field or another line."""
    plain = value and value.isprintable() and not any(character in ' "=' for character in value)
    return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())

"""Logging: one line an event, a constant message and its fields, as `key=value` (logfmt) or as one JSON object."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Form: TypeAlias = Literal["text", "json"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Formats a record as time, severity, logger, message and the fields given as `extra`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the standard library's name
        """Return the line with the record's own fields behind the message."""
        fields = "".join(f" {name}={_quoted(_text(value))}" for name, value in _own(record))
        return super().formatMessage(record) + fields


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object a line: `time` (RFC 3339, UTC), `severity`, `logger`, `message`, its fields.

    A traceback is in `traceback`. A field of one of these names gets an underscore behind it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        for name, value in _own(record):
            entry[f"{name}_" if name in entry else name] = _jsonable(value)
        return json.dumps(entry)  # in ASCII: no character can break the line or be refused by the stream


def configure(level: str, form: Form = "text") -> None:
    """Send this process's log to standard error, from the given severity on."""
    stream = logging.StreamHandler()
    stream.setFormatter(JsonFormatter() if form == "json" else FieldFormatter())
    logging.basicConfig(level=level.upper(), handlers=[stream])
    # Each request of the HTTP servers is of interest to debugging only.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _own(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Yield the fields that the event was logged with."""
    return ((name, value) for name, value in vars(record).items() if name not in _STANDARD)


def _jsonable(value: object) -> object:
    """Return a value as JSON has it: numbers as they are, sequences member by member, anything else as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_jsonable(each) for each in value] if isinstance(value, tuple | list) else str(value)


def _text(value: object) -> str:
    """Return a value as people write it; the members of a sequence are separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _quoted(value: str) -> str:
    """Return a value that cannot be taken for another field or another line."""
    plain = value and value.isprintable() and not any(character in ' "=' for character in value)
    return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())

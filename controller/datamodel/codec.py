"""How every record is written: one JSON object, the same bytes for the same values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from controller.errors import MalformedRecord
from ipam.errors import IpamError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Made once: a block is encoded for every assignment. Records are trees, so no circle is looked for.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True, check_circular=False)


def encoded(fields: dict[str, Any]) -> bytes:
    """Return the record of these fields."""
    return _ENCODER.encode(fields).encode()


def decoded(key: str, value: bytes, build: Callable[[dict[str, Any]], T]) -> T:
    """Return what `build` makes of a record's fields; raises `MalformedRecord` where it cannot."""
    try:
        fields = json.loads(value)
        if not isinstance(fields, dict):
            raise MalformedRecord(key, "not a JSON object")
        return build(fields)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, IpamError) as error:
        raise MalformedRecord(key, f"{type(error).__name__}: {error}") from error

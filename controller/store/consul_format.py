"""Operations as Consul's transaction API takes them, and its answers as ours; text in, text out.

Sources: https://developer.hashicorp.com/consul/api-docs/txn and .../api-docs/kv. Beyond what they say:
- `delete-cas` of a key that does not exist succeeds whatever index it names. A deletion that expects a version is
  therefore a `check-index` and a `delete`; both see the same state, since a transaction is one Raft log entry.
- `cas` with index 0 writes only where there is no key.
- A `get` of a missing key fails its whole transaction, and servers before 1.14 know no verb that forgives it.
  `get-tree` does: it returns what starts with the key, the key itself among it or not.
- An empty value comes back as null.
- Consul copies a value many times on its way into the log, and collects the garbage: a write of 16 KB has a 99th
  percentile of three times that of one of 200 bytes. Blocks, which are large and much alike, are therefore stored
  compressed. The number that Consul keeps beside each value for its clients, `Flags`, says so.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Final, TypeAlias

from controller.errors import ConflictError, StoreDenied, StoreUnavailable
from controller.ports import ABSENT, MAX_VALUE_BYTES, Delete, Entry, Put, Version
from controller.store.consul_access import WAY_OUT_OF_DENIAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from controller.ports import Operation

_Step: TypeAlias = dict[str, str | int]

_DENIALS = ("Permission denied", "ACL not found")
#: The `Flags` of a value stored compressed (RFC 1950): `zlib` in ASCII.
_COMPRESSED: Final = 0x7A6C6962
#: Smaller values are stored as they are, for people to read: everything but the block of a node with workloads.
_COMPRESSED_FROM_BYTES: Final = 1024
#: The fastest level; a higher one makes no block smaller by more than a few per cent.
_COMPRESSION_LEVEL: Final = 1


def transaction(operations: Iterable[Operation]) -> str:
    """Return the request body that applies the operations."""
    return json.dumps([{"KV": step} for operation in operations for step in _steps(operation)])


def reading(keys: Iterable[str]) -> str:
    """Return the request body that reads the keys, whether or not they exist."""
    return json.dumps([{"KV": {"Verb": "get-tree", "Key": key}} for key in keys])


def entries(body: str) -> dict[str, Entry]:
    """Return the entries of a listing."""
    try:
        return {row["Key"]: _entry(row) for row in json.loads(body)}
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(body) from error


def entries_read(body: str) -> dict[str, Entry]:
    """Return the entries that the answer to a transaction holds."""
    try:
        return {row["KV"]["Key"]: _entry(row["KV"]) for row in json.loads(body)["Results"]}
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(body) from error


def versions(body: str, operations: Iterable[Operation]) -> dict[str, Version]:
    """Return the versions of the keys that the operations wrote, out of the answer to their transaction."""
    written = {key: entry.version for key, entry in entries_read(body).items()}
    try:
        return {operation.key: written[operation.key] for operation in operations if isinstance(operation, Put)}
    except KeyError as error:
        raise _foreign(body) from error


def step_keys(operations: Iterable[Operation]) -> list[str]:
    """Return the key of every step of the operations' transaction."""
    return [operation.key for operation in operations for _ in _steps(operation)]


def failure(body: str, keys: Sequence[str]) -> ConflictError | StoreDenied:
    """Return the error that the answer to a transaction which was not applied stands for; a key for each step."""
    try:
        rows = [(keys[row["OpIndex"]], str(row["What"])) for row in json.loads(body)["Errors"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _foreign(body) from error
    for key, what in rows:
        if any(denial in what for denial in _DENIALS):
            return StoreDenied(f"Consul refuses {key}: {what}; {WAY_OUT_OF_DENIAL}")
    return ConflictError([key for key, _ in rows])


def _steps(operation: Operation) -> list[_Step]:
    key, expected = operation.key, operation.expected
    check: _Step = {"Verb": "check-index", "Key": key, "Index": expected or ABSENT}
    if isinstance(operation, Put):
        put: _Step = {"Key": key, **_stored(operation.value)}
        return [{"Verb": "set", **put} if expected is None else {"Verb": "cas", "Index": expected, **put}]
    if isinstance(operation, Delete) and expected != ABSENT:
        delete: _Step = {"Verb": "delete", "Key": key}
        return [delete] if expected is None else [check, delete]
    return [check] if expected else [{"Verb": "check-not-exists", "Key": key}]


def _entry(row: dict[str, str | int | None]) -> Entry:
    value = base64.b64decode(str(row["Value"] or ""))
    return Entry(_expanded(value) if row.get("Flags") == _COMPRESSED else value, Version(int(row["ModifyIndex"] or 0)))


def _stored(value: bytes) -> _Step:
    if len(value) < _COMPRESSED_FROM_BYTES:
        return {"Value": base64.b64encode(value).decode()}
    return {"Value": base64.b64encode(zlib.compress(value, _COMPRESSION_LEVEL)).decode(), "Flags": _COMPRESSED}


def _expanded(value: bytes) -> bytes:
    """Return what was compressed, or the value as it is if no writer of ours can have made it.

    Consul's own pages keep the flags of a value that a person overwrites; what it is worth is for its reader.
    """
    expansion = zlib.decompressobj()
    try:
        # A few bytes may stand for gigabytes.
        expanded = expansion.decompress(value, MAX_VALUE_BYTES)
    except zlib.error:
        return value
    return expanded if expansion.eof else value


def _foreign(body: str) -> StoreUnavailable:
    return StoreUnavailable(f"what answers is not Consul, or a Consul unknown to us; it says {body[:200]!r}")

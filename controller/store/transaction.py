"""What every store demands of a transaction before it looks at any version, so that all of them take the same ones.

Consul's limits are everybody's (https://developer.hashicorp.com/consul/api-docs/txn): 64 operations, and a request of
512 KiB in which the values stand in base64. Keys travel in URL paths when a prefix is listed, and Go's HTTP server
folds `//`, `/./` and `/../` there: such keys could be written but never be found again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from controller.errors import ConflictError, RefusedError, TooManyOperations
from controller.ports import MAX_OPERATIONS, MAX_VALUE_BYTES, Delete, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from controller.ports import Operation, Version

#: The largest request that Consul takes for one transaction, in bytes.
MAX_REQUEST_BYTES: Final = 512 * 1024
#: What the JSON of one operation takes beside its key and value, in bytes, rounded up.
_OPERATION_OVERHEAD_BYTES: Final = 128


def check_operations(operations: Sequence[Operation]) -> None:
    """Raise `TooManyOperations` or `RefusedError` unless every store could take these operations together."""
    count = operation_count(operations)
    if count > MAX_OPERATIONS:
        raise TooManyOperations(
            f"a transaction of {count} operations (a guarded deletion counts as two); at most {MAX_OPERATIONS} go into "
            f"one, so split it"
        )
    seen: set[str] = set()
    request_bytes = 0
    for operation in operations:
        check_keys([operation.key])
        if operation.key in seen:
            raise RefusedError(
                f"two operations of one transaction name the key {operation.key!r}; write one operation for a key"
            )
        seen.add(operation.key)
        request_bytes += _OPERATION_OVERHEAD_BYTES + len(operation.key.encode())
        if isinstance(operation, Put):
            _check_value(operation)
            request_bytes += (len(operation.value) + 2) // 3 * 4
    if request_bytes > MAX_REQUEST_BYTES:
        raise TooManyOperations(
            f"a transaction of about {request_bytes} bytes; at most {MAX_REQUEST_BYTES} go into one, so split it"
        )


def operation_count(operations: Iterable[Operation]) -> int:
    """Return how many of MAX_OPERATIONS they use; a `Delete` that expects a version uses two."""
    return sum(2 if isinstance(operation, Delete) and operation.expected else 1 for operation in operations)


def check_keys(keys: Iterable[str]) -> None:
    """Raise `RefusedError` unless each key is parts joined by `/`, printable, none of them empty, `.` or `..`."""
    for key in keys:
        if not key.isprintable() or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise RefusedError(
                f"{key!r} is no key: write printable parts joined by '/', none of them empty, '.' or '..'"
            )


def check_prefix(prefix: str) -> None:
    """Raise `RefusedError` unless some key could start with the prefix; the empty prefix is every key's."""
    if prefix:
        check_keys([prefix.removesuffix("/")])


def check_versions(operations: Sequence[Operation], version_of: Callable[[str], Version]) -> None:
    """Raise `ConflictError` with every key whose version, ABSENT if it does not exist, is not the expected one."""
    moved = [
        operation.key
        for operation in operations
        if operation.expected is not None and version_of(operation.key) != operation.expected
    ]
    if moved:
        raise ConflictError(moved)


def _check_value(put: Put) -> None:
    if len(put.value) > MAX_VALUE_BYTES:
        raise RefusedError(
            f"the value of {put.key} has {len(put.value)} bytes; at most {MAX_VALUE_BYTES} fit into one key"
        )

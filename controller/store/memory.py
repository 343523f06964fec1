"""The store in the memory of one process: for tests and trials, gone with the process.

It is the shortest reading of the port; the other two must not be told apart from it through the port.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from controller.errors import StoreUnavailable
from controller.ports import ABSENT, Delete, Entry, Put, Version
from controller.store.difference import Delivered
from controller.store.transaction import check_keys, check_operations, check_prefix, check_versions
from controller.store.wakes import Wakes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

    from controller.ports import Operation, WatchEvent


class MemoryStore:
    """A `Store` that one event loop uses. Writing the value a key already has leaves its version as it is.

    It begins with these entries, of another store's perhaps, and their versions.
    """

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self._entries = dict(entries or {})
        self._revision = max((entry.version for entry in self._entries.values()), default=0)
        self._wakes = Wakes()
        self._closed = False

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries of those keys that exist."""
        check_keys(keys)
        await self._open()
        return {key: self._entries[key] for key in keys if key in self._entries}

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Return every entry whose key starts with the prefix, sorted by key."""
        check_prefix(prefix)
        await self._open()
        return self._under(prefix)

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Apply all operations or none, and return the version of every key written."""
        check_operations(operations)
        await self._open()
        check_versions(operations, self._version)
        self._revision += 1
        versions: dict[str, Version] = {}
        for operation in operations:
            if isinstance(operation, Put):
                versions[operation.key] = self._put(operation)
            elif isinstance(operation, Delete):
                self._entries.pop(operation.key, None)
        self._wakes.written([operation.key for operation in operations])
        return versions

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Deliver a `Snapshot` of the prefix, then `Changes`; ends when the store is closed."""
        check_prefix(prefix)
        delivered = Delivered()
        with self._wakes.following(prefix) as wake:
            while not self._closed:
                wake.clear()
                event = delivered.advance(self._under(prefix))
                if event is not None:
                    yield event
                await wake.wait()

    async def close(self) -> None:
        """Forget everything and end the watches."""
        self._closed = True
        self._entries.clear()
        self._wakes.all()

    async def _open(self) -> None:
        # Every real store lets other tasks run while it is asked; what must hold across that is seen here too.
        await asyncio.sleep(0)
        if self._closed:
            raise StoreUnavailable("the store was closed; open another one")

    def _version(self, key: str) -> Version:
        entry = self._entries.get(key)
        return ABSENT if entry is None else entry.version

    def _under(self, prefix: str) -> dict[str, Entry]:
        return {key: self._entries[key] for key in sorted(key for key in self._entries if key.startswith(prefix))}

    def _put(self, put: Put) -> Version:
        present = self._entries.get(put.key)
        if present is None or present.value != put.value:
            present = self._entries[put.key] = Entry(put.value, Version(self._revision))
        return present.version

"""A store that counts what goes through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

    from controller.ports import Entry, Operation, Store, Version, WatchEvent


class CountingStore:
    """The store underneath, with the keys and bytes read and the conflicts met since it was made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.key_count = 0
        self.byte_count = 0
        self.conflict_count = 0

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Read keys."""
        return self._counted(await self._store.get(keys))

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Read a prefix."""
        return self._counted(await self._store.list(prefix))

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Commit."""
        try:
            return await self._store.commit(operations)
        except ConflictError:
            self.conflict_count += 1
            raise

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Watch; what it delivers is not counted."""
        return self._store.watch(prefix)

    async def close(self) -> None:
        """Close the store underneath."""
        await self._store.close()

    def _counted(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        self.key_count += len(entries)
        self.byte_count += sum(len(key) + len(entry.value) for key, entry in entries.items())
        return dict(entries)

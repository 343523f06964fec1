"""No transaction of one node that was left unanswered is applied after the node has looked.

A request whose answer did not come in time may still be under way: a server holds it while there is no leader (Consul:
`rpc_hold_timeout`, 7 s), the kernel sends it again once a cut is healed. Applied after the node read that nothing had
happened, it would undo what was decided since, as long as the blocks it names have not changed: an address released
and assigned again to the same workload would be free, one that was given up would be held by nobody. So every
transaction rests on one key of the node as well, its fence, and after an unanswered one that key is written anew before
anything is read: what is still under way then meets a version that has moved. The same is done at the start, for what
an agent that died on this node may have left under way.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from controller.datamodel.codec import encoded
from controller.errors import ConflictError, RefusedError, StoreDenied, StoreUnavailable
from controller.ports import ABSENT, MAX_OPERATIONS, Check, Put

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from controller.ports import Entry, Operation, Store, Version, WatchEvent

#: How many operations are left for a transaction beside the fence.
MAX_FENCED_OPERATIONS: Final = MAX_OPERATIONS - 1


async def renew_fence(store: Store, fence: str) -> Version:
    """Write a fence anew and return its version: no transaction that rests on it and is under way is applied later."""
    try:
        versions = await store.commit([Put(fence, encoded({"fence": secrets.token_hex(8)}), None)])
    except ConflictError as conflict:
        raise StoreUnavailable(f"an unconditional write was refused: {conflict}") from conflict
    return versions[fence]


class FencedStore:
    """A `Store` of one writer over another one, with a fence of its own; one task uses it at a time."""

    def __init__(self, store: Store, fence: str) -> None:
        self._store = store
        self._fence = fence
        self._version = ABSENT
        self._in_doubt = True

    async def get(self, wanted: Collection[str]) -> dict[str, Entry]:
        """Do as `Store.get`; nothing that was asked for before changes anything afterwards."""
        await self._settle()
        return await self._store.get(wanted)

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Do as `Store.list`; nothing that was asked for before changes anything afterwards."""
        await self._settle()
        return await self._store.list(prefix)

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Do as `Store.commit` for up to MAX_FENCED_OPERATIONS operations."""
        await self._settle()
        try:
            return await self._commit(operations)
        except ConflictError as conflict:
            if conflict.keys != {self._fence}:
                raise
            # It came into being or went with the node's record, or a late fence arrived: nothing that was decided on.
            entry = (await self._store.get([self._fence])).get(self._fence)
            self._version = ABSENT if entry is None else entry.version
        return await self._commit(operations)

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Do as `Store.watch`."""
        return self._store.watch(prefix)

    async def close(self) -> None:
        """Close the store behind."""
        await self._store.close()

    async def _commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        self._in_doubt = True  # whatever ends this but an answer, a cancellation too
        try:
            versions = await self._store.commit([*operations, Check(self._fence, self._version)])
        except (ConflictError, RefusedError, StoreDenied):
            self._in_doubt = False
            raise
        self._in_doubt = False
        return versions

    async def _settle(self) -> None:
        """Write the fence anew if a transaction may be under way."""
        if self._in_doubt:
            self._version = await renew_fence(self._store, self._fence)
            self._in_doubt = False

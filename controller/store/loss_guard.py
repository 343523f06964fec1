"""A store that lost its contents counts as away, not as empty.

A server that comes back with a wiped disk answers that no node, pool or block exists. Taken at its word, every host
would remove the routes of containers that run. The cluster's anchor is written with the first resource, once, and has a
value that is these contents' own: where it was seen, and is gone or another one, nothing that the store says can be
believed until its contents are restored. So resources that an operator, or what applies them every hour, writes into
the emptied store convince nobody. No agent writes it, for a node's token that may write it may delete it, which would
stop all the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final

from controller.datamodel import keys
from controller.errors import ConflictError, StoreUnavailable
from controller.ports import Interrupted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from controller.ports import Entry, Operation, Store, Version, WatchEvent

_RETRY_SECONDS: Final = 1.0
LOST: Final = (
    "the store answers but has lost its contents; everything stays as it is. Restore its backup; or, to begin anew, "
    "drain the node and restart its agent"
)


class LossGuard:
    """A `Store` over another one: what comes after the loss of its contents is held back until they are restored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: bytes | None = None

    async def get(self, wanted: Collection[str]) -> dict[str, Entry]:
        """Do as `Store.get`; raises `StoreUnavailable` after a loss too."""
        found = await self._store.get({*wanted, keys.CLUSTER_ANCHOR})
        self._check(found.get(keys.CLUSTER_ANCHOR))
        return {key: entry for key, entry in found.items() if key in wanted}

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Do as `Store.list`; raises `StoreUnavailable` after a loss too."""
        found = await self._store.list(prefix)
        await self.get(())  # after the reading, for the loss may come in between
        return found

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Do as `Store.commit`; a conflict after a loss is `StoreUnavailable`.

        What rests on the version of anything that was lost conflicts by itself, so a good commit costs nothing more.
        """
        try:
            return await self._store.commit(operations)
        except ConflictError:
            await self.get(())
            raise

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Do as `Store.watch`; a loss is one `Interrupted`, and a new `Snapshot` comes once it is over."""
        while True:
            doubt = None
            async with contextlib.aclosing(self._store.watch(prefix)) as events:
                async for event in events:
                    doubt = None if isinstance(event, Interrupted) else await self._doubt()
                    if doubt is not None:
                        break
                    yield event
            if doubt is None:
                return
            yield Interrupted(doubt)
            while await self._doubt() is not None:  # noqa: ASYNC110  no event tells that the store is back
                await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  spreads retries

    async def close(self) -> None:
        """Close the store behind."""
        await self._store.close()

    async def _doubt(self) -> str | None:
        """Return why what was just delivered cannot be believed, or None."""
        try:
            await self.get(())
        except StoreUnavailable as error:
            return str(error)
        return None

    def _check(self, anchor: Entry | None) -> None:
        value = None if anchor is None else anchor.value
        if self._seen not in (None, value):
            raise StoreUnavailable(LOST)
        self._seen = value

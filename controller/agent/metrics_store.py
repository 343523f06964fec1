"""A store whose requests are timed."""

from __future__ import annotations

import time
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from controller.errors import ConflictError, StoreUnavailable, TortieError
from controller.ports import Interrupted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence

    from controller.ports import Entry, Operation, Store, Version, WatchEvent

#: Is told of each request its operation, how many seconds it took, and why it failed. A conflict is an answer like any
#: other. A watch that is interrupted has failed after no time.
Witness: TypeAlias = "Callable[[str, float, TortieError | None], None]"


class TimedStore:
    """A `Store` over another one, with a witness of each request that ended."""

    def __init__(self, store: Store, witness: Witness) -> None:
        self._store = store
        self._witness = witness

    async def get(self, wanted: Collection[str]) -> dict[str, Entry]:
        """Do as `Store.get`."""
        with self._timed("get"):
            return await self._store.get(wanted)

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Do as `Store.list`."""
        with self._timed("list"):
            return await self._store.list(prefix)

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Do as `Store.commit`."""
        with self._timed("commit"):
            return await self._store.commit(operations)

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Do as `Store.watch`."""
        async with aclosing(self._store.watch(prefix)) as events:
            async for event in events:
                if isinstance(event, Interrupted):
                    self._witness("watch", 0.0, StoreUnavailable(event.reason))
                yield event

    async def close(self) -> None:
        """Close the store behind."""
        await self._store.close()

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        started = time.monotonic()
        failure: TortieError | None = None
        try:
            yield
        except ConflictError:
            raise
        except TortieError as error:
            failure = error
            raise
        finally:
            self._witness(operation, time.monotonic() - started, failure)

"""A store whose requests are timed is the store it was, and each of them has a witness."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from controller.agent.metrics_store import TimedStore
from controller.errors import ConflictError, StoreDenied, StoreUnavailable, TortieError
from controller.ports import ABSENT, Interrupted, Put, Snapshot
from controller.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from controller.ports import Entry, WatchEvent


class Troubled(MemoryStore):
    """A store of which a reading fails, and a watch is interrupted."""

    failure: TortieError = StoreUnavailable("staged")

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Fail."""
        assert keys
        raise self.failure

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Deliver an interruption first."""
        yield Interrupted("staged")
        async for event in super().watch(prefix):
            yield event


async def test_every_request_is_told_once_with_its_outcome() -> None:
    """What succeeds, what fails and why; a conflict is an answer as any other."""
    seen: list[tuple[str, str | None]] = []

    def witness(operation: str, seconds: float, error: TortieError | None) -> None:
        assert seconds >= 0
        seen.append((operation, None if error is None else str(error)))

    behind = Troubled()
    store = TimedStore(behind, witness)
    versions = await store.commit([Put("a/k", b"v", ABSENT)])
    with pytest.raises(ConflictError):
        await store.commit([Put("a/k", b"v", ABSENT)])
    assert (await store.list("a/"))["a/k"].version == versions["a/k"]
    with pytest.raises(StoreUnavailable):
        await store.get(["a/k"])
    behind.failure = StoreDenied("no")
    with pytest.raises(StoreDenied):
        await store.get(["a/k"])
    async with aclosing(store.watch("a/")) as events:
        assert await anext(events) == Interrupted("staged")
        assert isinstance(await anext(events), Snapshot)
    assert seen == [
        ("commit", None),
        ("commit", None),
        ("list", None),
        ("get", "staged"),
        ("get", "no"),
        ("watch", "staged"),
    ]
    await store.close()
    with pytest.raises(StoreUnavailable):
        await behind.list("a/")

"""A store that lost its contents counts as away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from controller.datamodel import keys
from controller.errors import StoreUnavailable
from controller.ports import ABSENT, Changes, Delete, Interrupted, Put, Snapshot
from controller.store.loss_guard import LossGuard
from controller.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NODE = keys.node("one")


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    """Return a store that holds the anchor and a node."""
    store = MemoryStore()
    await store.commit([Put(keys.CLUSTER_ANCHOR, b"{}", ABSENT), Put(NODE, b"1", ABSENT)])
    yield store
    await store.close()


async def wipe(store: MemoryStore) -> None:
    """Delete everything, as a server does whose disk is new."""
    await store.commit([Delete(key, None) for key in await store.list("")])


async def test_an_empty_store_that_never_had_anything_is_a_new_one() -> None:
    """The first agent of a cluster finds no anchor, and writes it."""
    guard = LossGuard(MemoryStore())
    assert await guard.get([NODE]) == {}
    await guard.commit([Put(NODE, b"1", ABSENT)])
    assert set(await guard.list("")) == {NODE}
    await guard.close()


async def test_after_a_loss_nothing_is_believed_and_nothing_written(store: MemoryStore) -> None:
    """Reading, listing and writing fail until the contents are back."""
    guard = LossGuard(store)
    version = (await guard.get([NODE]))[NODE].version
    await wipe(store)
    with pytest.raises(StoreUnavailable, match="lost its contents"):
        await guard.get([NODE])
    with pytest.raises(StoreUnavailable, match="lost its contents"):
        await guard.list("")
    with pytest.raises(StoreUnavailable, match="lost its contents"):
        await guard.commit([Put(NODE, b"2", version)])
    await store.commit([Put(keys.CLUSTER_ANCHOR, b"{}", ABSENT)])
    assert await guard.get([NODE]) == {}


async def test_a_watch_is_interrupted_by_a_loss_and_begins_anew_after_it(store: MemoryStore) -> None:
    """That everything is gone is never delivered."""
    async with asyncio.timeout(10), contextlib.aclosing(LossGuard(store).watch(keys.CLUSTER)) as events:
        assert isinstance(await anext(events), Snapshot)
        await store.commit([Put(NODE, b"2", None)])
        assert isinstance(await anext(events), Changes)
        await wipe(store)
        assert isinstance(await anext(events), Interrupted)
        await store.commit([Put(keys.CLUSTER_ANCHOR, b"{}", ABSENT), Put(NODE, b"3", ABSENT)])
        event = await anext(events)
        assert isinstance(event, Snapshot)
        assert set(event.entries) == {keys.CLUSTER_ANCHOR, NODE}

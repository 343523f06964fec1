"""A store that lost its contents counts as away."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.agent.registration import register
from controller.cli.planning import Mode
from controller.cli.wishes import Wish
from controller.cli.writing import write_resources
from controller.datamodel import keys
from controller.datamodel.records import Node
from controller.errors import StoreUnavailable
from controller.ports import ABSENT, Changes, Delete, Interrupted, Put, Snapshot
from controller.store.loss_guard import LossGuard
from controller.store.memory import MemoryStore
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NODE = keys.node("one")
NODE_ONE = Node("one", 64512, IPv4Address("192.0.2.1"), None)
POOL = Pool("default", ip_network("10.65.0.0/16"), 26)


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
    """The agents of a cluster that has no resources yet find no anchor, and go on."""
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


async def test_what_operators_wrote_after_the_start_is_missed_too() -> None:
    """The first resource brings the anchor along, so an agent that was there before knows that it is lost."""
    store = MemoryStore()
    guard = LossGuard(store)
    async with asyncio.timeout(10), contextlib.aclosing(guard.watch(keys.CLUSTER)) as events:
        assert await register(guard, NODE_ONE)
        assert isinstance(await anext(events), Snapshot)
        await write_resources(store, [Wish(POOL, "here")], Mode.CREATE)
        assert isinstance(await anext(events), Changes)
        await wipe(store)
        assert isinstance(await anext(events), Interrupted)
    await store.close()


async def test_an_agent_that_starts_after_a_loss_convinces_nobody(store: MemoryStore) -> None:
    """A host that reboots then finds a new store and registers; the others go on waiting for the contents."""
    before, after = LossGuard(store), LossGuard(store)
    assert await before.get([NODE])
    await wipe(store)
    assert await register(after, NODE_ONE)
    with pytest.raises(StoreUnavailable, match="lost its contents"):
        await before.get([NODE])


async def test_resources_that_are_applied_after_a_loss_convince_nobody() -> None:
    """Whoever applies them every hour does not know of it; the contents that come back do, and so does a new start."""
    store = MemoryStore()
    await write_resources(store, [Wish(POOL, "here")], Mode.CREATE)
    guard, contents = LossGuard(store), await store.list("")
    assert await guard.list(keys.POOLS)
    await wipe(store)
    await write_resources(store, [Wish(POOL, "here")], Mode.APPLY)
    with pytest.raises(StoreUnavailable, match="lost its contents"):
        await guard.list(keys.POOLS)
    assert await LossGuard(store).list(keys.POOLS)
    await store.commit([Put(key, entry.value, None) for key, entry in contents.items()])
    assert await guard.list(keys.POOLS)
    await store.close()

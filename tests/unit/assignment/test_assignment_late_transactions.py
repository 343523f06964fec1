"""A transaction that was given up and is applied late changes nothing that was decided since."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from controller.assignment.assigner import Assigner
from controller.assignment.node_deletion import delete_node
from controller.datamodel import keys
from controller.errors import ConflictError, StoreUnavailable
from controller.ports import Check, Put

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence

    from controller.ports import Entry, Operation, Store, Version, WatchEvent
    from tests.unit.assignment.conftest import World


class LateStore:
    """A store that can hold back a transaction: its writer is told that nothing is known of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._holds_back = False
        self.held_back: list[Sequence[Operation]] = []
        self.is_held_back = asyncio.Event()
        self.is_given_up = asyncio.Event()

    def hold_back(self) -> None:
        """Keep the next transaction."""
        self._holds_back = True

    async def deliver(self) -> None:
        """Apply what was held back, as a server does that had it in its hands all along."""
        for operations in self.held_back:
            with suppress(ConflictError):
                await self._store.commit(operations)

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Read keys."""
        return await self._store.get(keys)

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Read a prefix."""
        return await self._store.list(prefix)

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Commit, or hold back."""
        if self._holds_back:
            self._holds_back = False
            self.held_back.append(operations)
            self.is_held_back.set()
            await self.is_given_up.wait()
            raise StoreUnavailable("no answer came")
        return await self._store.commit(operations)

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Watch the store."""
        return self._store.watch(prefix)

    async def close(self) -> None:
        """Leave the store underneath open."""


async def _given_up(store: LateStore, request: Coroutine[object, object, object]) -> None:
    """Let the request's transaction be held back, and the caller give it up meanwhile."""
    store.hold_back()
    task = asyncio.ensure_future(request)
    await store.is_held_back.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    store.is_given_up.set()


@pytest.fixture
async def late(world: World) -> LateStore:
    """Give a store with a pool."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    return LateStore(world.store)


async def test_a_late_release_does_not_take_an_address_assigned_since(world: World, late: LateStore) -> None:
    """The workload came back under the same handle and was told its address: it keeps it."""
    assigner = Assigner(late, "n1", lambda: 1000.0)
    await assigner.start()
    first = await assigner.assign(world.request("a"))
    await _given_up(late, assigner.release("a"))
    assert await assigner.assign(world.request("a")) == first
    await late.deliver()
    assert await world.check() == {"a": [("n1", first.addresses[0])]}
    await assigner.close()


async def test_a_late_assignment_is_held_by_nobody(world: World, late: LateStore) -> None:
    """The release that followed was told that nothing was held; so it stays."""
    assigner = Assigner(late, "n1", lambda: 1000.0)
    await assigner.start()
    await assigner.assign(world.request("a"))
    await _given_up(late, assigner.assign(world.request("b")))
    assert await assigner.release("b") == ()
    await late.deliver()
    assert set(await world.check()) == {"a"}
    await assigner.close()


async def test_what_a_dead_agent_left_under_way_does_not_come_after_its_successor(
    world: World, late: LateStore
) -> None:
    """An agent that starts makes sure of it before it reads what the node holds."""
    dead = Assigner(late, "n1", lambda: 1000.0)
    await dead.start()
    first = await dead.assign(world.request("a"))
    await _given_up(late, dead.release("a"))
    await dead.close()
    async with world.started("n1") as successor:
        assert await successor.assign(world.request("a")) == first
        await late.deliver()
        assert await world.check() == {"a": [("n1", first.addresses[0])]}


async def test_every_transaction_rests_on_the_fence(late: LateStore, world: World) -> None:
    """Also the first one of a node that never wrote anything."""
    assigner = Assigner(late, "n1", lambda: 1000.0)
    await assigner.start()
    await _given_up(late, assigner.assign(world.request("a")))
    [operations] = late.held_back
    assert any(isinstance(operation, Check) and operation.key == keys.fence("n1") for operation in operations)
    assert not any(isinstance(operation, Put) and operation.key == keys.fence("n1") for operation in operations)
    await assigner.close()


async def test_what_a_dead_agent_left_under_way_does_not_come_after_its_nodes_deletion(
    world: World, late: LateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even between the last look for what the node holds and the deletion of its record."""
    agent = Assigner(late, "n1", lambda: world.now)
    await agent.start()
    await world.feed_rules(agent)
    await _given_up(late, agent.assign(world.request("a")))
    await agent.close()
    listing = world.store.list

    async def list_late(prefix: str) -> dict[str, Entry]:
        found = await listing(prefix)
        await late.deliver()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "list", list_late)
        assert await delete_node(world.store, "n1") == ()
    assert await world.store.list(keys.BLOCKS) == await world.store.list(keys.SHARES) == {}

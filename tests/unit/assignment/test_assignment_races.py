"""Every order in which two nodes can reach the store, and every failure at every point of it.

Each run follows one schedule: whenever all nodes stand before an operation on the store, the schedule says whose
happens next and what becomes of it. All schedules are run, and after every single operation what must hold is checked.
"""

from __future__ import annotations

import asyncio
from itertools import count as numbers
from itertools import islice, product
from typing import TYPE_CHECKING, Final

import pytest

from controller.assignment.assigner import MAX_CONFLICTS
from controller.assignment.knowledge import Rules
from controller.datamodel import keys
from controller.datamodel.records import decode_pool
from controller.errors import StoreUnavailable, TransientError
from ipam.errors import PoolExhausted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from controller.assignment.assigner import Assigner
    from ipam.address import IPAddress
    from ipam.pool import Pool
    from tests.unit.assignment.conftest import Fault, World

#: One node's steps: `+h` assigns to handle h, `-h` releases it, `?h` assigns and, if the store fails, releases.
Steps = tuple[str, ...]
#: How often a step that the store failed is taken again.
_TRIES: Final = 6


class Stage:
    """Holds every operation of every node back until it is told what becomes of it."""

    def __init__(self, fault: type[Fault]) -> None:
        self._fault = fault
        self.open = True
        self.arrived = asyncio.Event()
        self.held: dict[str, tuple[str, asyncio.Future[Fault]]] = {}

    def decider(self, node: str) -> Callable[[str], Awaitable[Fault]]:
        """Return what decides for one node."""

        async def decide(operation: str) -> Fault:
            if self.open:
                return self._fault.NONE
            future: asyncio.Future[Fault] = asyncio.get_running_loop().create_future()
            self.held[node] = (operation, future)
            self.arrived.set()
            return await future

        return decide

    def options(self, faults_left: int) -> list[tuple[str, Fault]]:
        """Return what could happen next."""
        options = [(node, self._fault.NONE) for node in sorted(self.held)]
        if faults_left:
            for node, (operation, _) in sorted(self.held.items()):
                possible = list(self._fault)[1:] if operation == "commit" else [self._fault.UNAVAILABLE_BEFORE]
                options += [(node, fault) for fault in possible]
        return options

    def release(self, node: str, fault: Fault) -> None:
        """Let a node's operation happen this way."""
        _, future = self.held.pop(node)
        future.set_result(fault)


class Schedule:
    """One path through the tree of choices; `next_path` leads through all of them, depth first."""

    def __init__(self, path: list[int]) -> None:
        self._path = path
        self._taken: list[tuple[int, int]] = []

    def choose(self, count: int) -> int:
        """Return which of so many options this schedule takes."""
        depth = len(self._taken)
        chosen = self._path[depth] if depth < len(self._path) else 0
        self._taken.append((chosen, count))
        return chosen

    def next_path(self) -> list[int] | None:
        """Return the path after this one, or None after the last."""
        taken = list(self._taken)
        while taken:
            chosen, count = taken.pop()
            if chosen + 1 < count:
                return [step for step, _ in taken] + [chosen + 1]
        return None


def _nodes_that_meet(pool: Pool, count: int) -> list[str]:
    """Return names of nodes that all try the blocks of the pool in the same order."""
    first = next(pool.candidates("n0", frozenset()))
    names = (f"n{number}" for number in numbers())
    return list(islice((name for name in names if next(pool.candidates(name, frozenset())) == first), count))


async def _take_steps(assigner: Assigner, world: World, steps: Steps, held: dict[str, tuple[IPAddress, ...]]) -> None:
    """Take a node's steps, each again while the store fails, and note which handle was told which addresses."""
    for step in steps:
        handle = step[1:]
        for attempt in range(_TRIES):
            try:
                if step[0] == "+" or (step[0] == "?" and attempt == 0):
                    held[handle] = (await assigner.assign(world.request(handle))).addresses
                else:
                    await assigner.release(handle)
                    held.pop(handle, None)
                break
            except PoolExhausted:
                held.pop(handle, None)
                break
            except TransientError:
                assert attempt + 1 < _TRIES


async def _run(world: World, schedule: Schedule, steps_by_node: dict[str, Steps], faults_left: int) -> set[str]:
    """Run one schedule, checking after every operation, and return the handles that hold an address at the end."""
    stage = Stage(world.Fault)
    (entry,) = (await world.store.list(keys.POOLS)).values()
    pool = decode_pool(keys.pool("p"), entry.value)
    held: dict[str, tuple[IPAddress, ...]] = {}
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        running: dict[str, asyncio.Task[None]] = {}
        assigners: dict[str, Assigner] = {}
        contexts = [(node, world.started(node, stage.decider(node))) for node in steps_by_node]
        for node, context in contexts:
            assigners[node] = await context.__aenter__()
            assigners[node].set_rules(Rules({"p": (pool, entry.version)}))
        stage.open = False
        for node, steps in steps_by_node.items():
            running[node] = group.create_task(_take_steps(assigners[node], world, steps, held))
        while any(not task.done() for task in running.values()):
            if any(not task.done() and node not in stage.held for node, task in running.items()):
                await asyncio.sleep(0)
                continue
            options = stage.options(faults_left)
            node, fault = options[schedule.choose(len(options))]
            faults_left -= fault is not world.Fault.NONE
            stage.release(node, fault)
            await asyncio.sleep(0)
            await world.check()
        stage.open = True
        for _, context in contexts:
            await context.__aexit__(None, None, None)
    in_store = await world.check()
    assert {handle: tuple(address for _, address in found) for handle, found in in_store.items()} == held
    for node, assigner in assigners.items():
        mine = {address for found in in_store.values() for holder, address in found if holder == node}
        assert set(assigner.holders()) == mine
    return set(held)


def _schedules() -> Iterator[Schedule]:
    path: list[int] | None = []
    while path is not None:
        schedule = Schedule(path)
        yield schedule
        path = schedule.next_path()


async def _run_all(
    new_world: Callable[[], World], block_prefix_length: int, steps: tuple[Steps, ...], fault_count: int
) -> list[set[str]]:
    """Run every schedule on a world of its own with a pool of four addresses."""
    ends = []
    for schedule in _schedules():
        world = new_world()
        pool = await world.add_pool("p", "10.0.0.0/30", block_prefix_length)
        nodes = _nodes_that_meet(pool, len(steps))
        ends.append(await _run(world, schedule, dict(zip(nodes, steps, strict=True)), fault_count))
        await world.store.close()
    return ends


@pytest.mark.parametrize("block_prefix_length", [30, 31, 32])
@pytest.mark.parametrize(
    "steps",
    [
        (("+a", "+b"), ("+c", "+d")),
        (("+a", "-a", "+b"), ("+c", "+d")),
        (("+a", "+a", "-a"), ("+b", "-b", "-b")),
    ],
)
async def test_every_interleaving_of_two_nodes(
    world: World, block_prefix_length: int, steps: tuple[Steps, Steps]
) -> None:
    """In whatever order two nodes with the same first choice reach the store, nothing is held twice, lost or leaked."""
    ends = await _run_all(type(world), block_prefix_length, steps, 0)
    assert len(ends) > 1


@pytest.mark.parametrize(
    ("block_prefix_length", "steps"),
    [
        *product((30, 31, 32), [(("+a", "-a", "+b"),), (("+a",), ("+b",))]),
        *product((31,), [(("+a", "+b"), ("+c",)), (("+a", "-a"), ("+b",))]),
    ],
)
async def test_every_failure_at_every_point(world: World, block_prefix_length: int, steps: tuple[Steps, ...]) -> None:
    """One conflict or outage, before or after the store has applied, anywhere: what was answered is what is stored."""
    ends = await _run_all(type(world), block_prefix_length, steps, 1)
    assert len(ends) > 1


async def test_every_pair_of_failures_of_one_node(world: World) -> None:
    """Two failures, also one upon the other's repair, leave what was answered and nothing else."""
    ends = await _run_all(type(world), 31, (("+a", "+b", "-a"),), 2)
    assert all(end == {"b"} for end in ends)


async def test_what_a_failed_request_may_have_got_can_be_released(world: World) -> None:
    """A request that failed because the store did not answer leaves nothing once its handle is released."""
    ends = await _run_all(type(world), 31, (("+a", "?b"),), 2)
    assert {frozenset(end) for end in ends} == {frozenset("a"), frozenset("ab")}


async def test_the_last_addresses_go_to_whoever_comes_first(world: World) -> None:
    """With more requests than addresses every address is held in every order, and the rest are refused."""
    ends = await _run_all(type(world), 32, (("+a", "+b", "+c"), ("+d", "+e")), 0)
    assert {len(end) for end in ends} == {4}
    assert len({frozenset(end) for end in ends}) > 1


async def test_a_request_cancelled_during_its_commit_is_whole(world: World) -> None:
    """Cancelled while the store is asked, a request for two families holds both, and its handle frees them."""
    await world.add_pool("p", "10.0.0.0/30", 31)
    await world.add_pool("q", "fd00::/126", 127)
    stage = Stage(world.Fault)
    async with world.started("n1", stage.decider("n1")) as assigner, asyncio.timeout(60):
        await assigner.assign(world.request("warm"))
        stage.open = False
        cancelled = asyncio.ensure_future(assigner.assign(world.request("a", (4, 6))))
        await stage.arrived.wait()
        assert stage.held["n1"][0] == "commit"
        stage.release("n1", world.Fault.NONE)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        stage.open = True
        await assigner.assign(world.request("b"))
        assert len((await world.check())["a"]) == 2
        await assigner.release("a")
    assert set(await world.check()) == {"warm", "b"}


async def test_closing_fails_who_waits(world: World) -> None:
    """A request that waits when the assigner is closed gets an error that says so, and is not left waiting."""
    await world.add_pool("p", "10.0.0.0/30", 31)
    stage = Stage(world.Fault)
    async with world.started("n1", stage.decider("n1")) as assigner, asyncio.timeout(60):
        stage.open = False
        waiting = asyncio.ensure_future(assigner.assign(world.request("a")))
        await stage.arrived.wait()
        await assigner.close()
        with pytest.raises(TransientError, match="was stopped"):
            await waiting


async def test_endless_conflicts_end_in_an_error_that_says_what_was_tried(world: World) -> None:
    """A node that is overtaken each time gives up, names itself and the number of tries, and holds nothing."""
    await world.add_pool("p", "10.0.0.0/30", 31)

    conflicts = False

    async def decide(operation: str) -> Fault:
        return world.Fault.CONFLICT if operation == "commit" and conflicts else world.Fault.NONE

    async with world.started("n1", decide) as assigner:
        conflicts = True
        with pytest.raises(TransientError, match=f"node n1: {MAX_CONFLICTS} transactions in a row"):
            await assigner.assign(world.request("a"))
    assert await world.check() == {}


async def test_what_a_failed_request_got_is_known_without_another_request(world: World) -> None:
    """A request given up although its second try was applied: the address is shown as held as soon as can be read."""
    await world.add_pool("p", "10.0.0.0/30", 31)
    none = world.Fault.NONE  # for the fence, at the start and after each fault
    faults = [none, world.Fault.UNAVAILABLE_BEFORE, none, world.Fault.UNAVAILABLE_AFTER]
    known = asyncio.Event()

    async def decide(operation: str) -> Fault:
        return faults.pop(0) if operation == "commit" and faults else world.Fault.NONE

    async with world.started("n1", decide) as assigner, asyncio.timeout(60):
        assigner.on_change(known.set)
        with pytest.raises(StoreUnavailable):
            await assigner.assign(world.request("a"))
        await known.wait()
        assert [holder.handle for holder in assigner.holders().values()] == ["a"]


async def test_a_store_that_is_gone_fails_requests_and_nothing_else(world: World) -> None:
    """With the store down requests fail at once, and are served again when it is back."""
    await world.add_pool("p", "10.0.0.0/30", 31)
    down = False

    async def decide(_operation: str) -> Fault:
        return world.Fault.UNAVAILABLE_BEFORE if down else world.Fault.NONE

    async with world.started("n1", decide) as assigner:
        first = await assigner.assign(world.request("a"))
        down = True
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await assigner.assign(world.request("b"))
        assert set(assigner.holders()) == set(first.addresses)
        down = False
        await assigner.assign(world.request("b"))
    assert set(await world.check()) == {"a", "b"}

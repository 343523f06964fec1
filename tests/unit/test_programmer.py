"""The route programmer over a table in memory that can refuse, forget and fail."""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.errors import KernelRefused, KernelUnavailable
from controller.ports import ForeignRoute, KernelRoute, NextHop, RouteFailure, RouteKind
from controller.reconcile.programmer import DesiredRoutes, RouteProgrammer, Sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Container, Iterable, Iterator

    from ipam.address import IPNetwork


class FakeFib:
    """A kernel's table in memory, with a journal of what it was asked."""

    def __init__(self) -> None:
        self.table: dict[IPNetwork, KernelRoute] = {}
        self.refused: set[IPNetwork] = set()
        self.broken = False
        self.others: list[ForeignRoute] = []
        self.journal: list[str] = []

    def expect(self, routes: Iterable[KernelRoute]) -> None:
        """Have no use for it."""

    def foreign(self, link_indexes: Collection[int]) -> list[ForeignRoute]:
        """Return the foreign routes of these links."""
        return [route for route in self.others if route.link_index in link_indexes]

    def dump(self) -> dict[IPNetwork, KernelRoute]:
        """Return the table, unless broken."""
        self._check()
        self.journal.append("dump")
        return dict(self.table)

    def apply(
        self,
        upserts: Iterable[KernelRoute],
        removals: Iterable[KernelRoute],
        *,
        replaceable: Container[IPNetwork] = (),
    ) -> list[RouteFailure]:
        """Write, unless broken, what is not refused."""
        self._check()
        failures = []
        for route in upserts:
            if route.prefix in self.refused:
                failures.append(RouteFailure(route.prefix, errno.ENETUNREACH, "unreachable"))
                continue
            if route.prefix in self.table and route.prefix not in replaceable:
                failures.append(RouteFailure(route.prefix, errno.EEXIST, "in the way"))
                continue
            self.journal.append(f"add {route.prefix}")
            self.table[route.prefix] = route
        for route in removals:
            self.journal.append(f"remove {route.prefix}")
            self.table.pop(route.prefix, None)
        return failures

    def _check(self) -> None:
        if self.broken:
            raise KernelUnavailable("no answer")


def local(number: int) -> KernelRoute:
    """Return a workload's route."""
    return KernelRoute(ip_network(f"10.0.0.{number}/32"), RouteKind.UNICAST, (NextHop(None, 7),))


def desired(*numbers: int, sweep: Sweep = Sweep.EVERYTHING) -> DesiredRoutes:
    """Return these workloads' routes."""
    return DesiredRoutes({local(number).prefix: local(number) for number in numbers}, sweep)


@pytest.fixture
def fib() -> FakeFib:
    """Return an empty table."""
    return FakeFib()


@pytest.fixture
def programmer(fib: FakeFib) -> Iterator[RouteProgrammer]:
    """Return a programmer that is not running."""
    made = RouteProgrammer(fib)
    try:
        yield made
    finally:
        made.close()


@asynccontextmanager
async def running(programmer: RouteProgrammer) -> AsyncIterator[None]:
    """Run the loop meanwhile."""
    task = asyncio.create_task(programmer.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def in_sync(programmer: RouteProgrammer) -> None:
    """Wait until the kernel has what is desired."""
    await asyncio.wait_for(programmer.in_sync.wait(), 10)


async def test_nothing_is_done_before_anything_is_desired(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """A programmer that does not know what is wanted touches nothing, whatever the kernel hints."""
    fib.table = {local(1).prefix: local(1)}
    programmer.kernel_changed()
    await programmer.iterate()
    assert fib.journal == []
    assert not programmer.in_sync.is_set()


async def test_a_restart_writes_nothing(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """With an identical desired set the first pass is a dump and no write."""
    fib.table = dict(desired(1, 2).routes)
    programmer.set(desired(1, 2))
    await programmer.iterate()
    assert fib.journal == ["dump"]
    assert programmer.in_sync.is_set()


async def test_added_before_removed(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """Whatever takes a route's place is there before the route goes."""
    fib.table = dict(desired(1).routes)
    programmer.set(desired(2))
    await programmer.iterate()
    assert fib.journal == ["dump", "add 10.0.0.2/32", "remove 10.0.0.1/32"]
    assert (programmer.table.programmed_count, programmer.table.removed_count) == (1, 1)


async def test_an_ordinary_change_costs_no_dump(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """What the kernel has is remembered."""
    programmer.set(desired(1))
    await programmer.iterate()
    fib.journal.clear()
    programmer.set(desired(1, 2))
    await programmer.iterate()
    assert fib.journal == ["add 10.0.0.2/32"]


async def test_a_repair_is_counted(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """What somebody took away comes back after a hint, and only that counts as repaired."""
    programmer.set(desired(1, 2))
    await programmer.iterate()
    del fib.table[local(1).prefix]
    programmer.kernel_changed()
    assert not programmer.in_sync.is_set()
    programmer.set(desired(1, 2, 3))
    await programmer.iterate()
    assert fib.table == desired(1, 2, 3).routes
    assert (programmer.table.repaired_count, programmer.table.resync_count) == (1, 2)


async def test_a_programmed_route_is_there_on_return(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """The caller may tell its workload that it is connected, and later passes keep the route."""
    programmer.set(desired(1))
    await programmer.iterate()
    await programmer.program([local(2)])
    assert local(2).prefix in fib.table
    await programmer.iterate()
    assert fib.table == desired(1, 2).routes
    programmer.set(desired(1))
    await programmer.iterate()
    assert fib.table == desired(1).routes


async def test_a_refused_programmed_route_is_told_and_kept(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """The caller learns why; the route stays desired and comes once the kernel takes it."""
    programmer.set(desired(1))
    await programmer.iterate()
    fib.refused = {local(2).prefix}
    with pytest.raises(KernelRefused, match="unreachable"):
        await programmer.program([local(2)])
    assert set(programmer.failures) == {local(2).prefix}
    fib.refused = set()
    await programmer.iterate()
    assert fib.table == desired(1, 2).routes
    assert programmer.failures == {}


async def test_a_lost_answer_makes_it_look_again(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """When it is not known what was written the next pass starts with a dump."""
    programmer.set(desired(1))
    await programmer.iterate()
    fib.broken = True
    with pytest.raises(KernelUnavailable):
        await programmer.program([local(2)])
    fib.broken = False
    fib.journal.clear()
    await programmer.iterate()
    assert fib.journal == ["dump", "add 10.0.0.2/32"]


async def test_refused_routes_hold_up_nothing(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """The others are programmed, the refusal is on record, and the state counts as in sync."""
    fib.refused = {local(1).prefix}
    programmer.set(desired(1, 2))
    await programmer.iterate()
    assert fib.table == desired(2).routes
    assert programmer.failures[local(1).prefix].error_number == errno.ENETUNREACH
    assert programmer.in_sync.is_set()


async def test_the_loop_retries_what_was_refused(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """Without any hint a refused route comes by itself once the kernel takes it."""
    fib.refused = {local(1).prefix}
    async with running(programmer):
        programmer.set(desired(1))
        await in_sync(programmer)
        fib.refused = set()
        async with asyncio.timeout(10):
            while fib.table != desired(1).routes:  # noqa: ASYNC110  the state is another thread's
                await asyncio.sleep(0.01)


async def test_the_loop_outlives_a_broken_kernel(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """An error is counted and the loop goes on; what is desired comes when the kernel answers again."""
    fib.broken = True
    async with running(programmer):
        programmer.set(desired(1))
        async with asyncio.timeout(10):
            while not programmer.error_count:  # noqa: ASYNC110  a counter wakes nobody
                await asyncio.sleep(0.01)
        fib.broken = False
        await in_sync(programmer)
    assert fib.table == desired(1).routes


async def test_the_loop_resyncs_by_itself(fib: FakeFib) -> None:
    """A change of which no event tells is found by the periodic dump."""
    programmer = RouteProgrammer(fib, resync_seconds=0.05)
    try:
        async with running(programmer):
            programmer.set(desired(1))
            await in_sync(programmer)
            fib.table.clear()
            async with asyncio.timeout(10):
                while fib.table != desired(1).routes:  # noqa: ASYNC110  the state is another thread's
                    await asyncio.sleep(0.01)
    finally:
        programmer.close()


async def test_what_was_dropped_goes_though_the_kernel_was_silent(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """A route dropped on purpose goes under any sweep, also when the first attempt got no answer."""
    programmer.set(desired(1, 2))
    await programmer.iterate()
    programmer.set(desired(1, sweep=Sweep.NOTHING))
    fib.broken = True
    with pytest.raises(KernelUnavailable):
        await programmer.iterate()
    fib.broken = False
    await programmer.iterate()
    assert fib.table == desired(1).routes

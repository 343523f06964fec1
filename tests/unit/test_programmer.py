"""The route programmer over a table in memory that can refuse, forget and fail."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.errors import KernelRefused, KernelUnavailable
from controller.ports import ForeignRoute, KernelRoute, NextHop, RouteFailure, RouteKind
from controller.reconcile.programmer import DesiredRoutes, RouteProgrammer, Sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Container, Iterable, Iterator

    from ipam.address import IPAddress, IPNetwork


class FakeFib:
    """A kernel's table in memory, with a journal of what it was asked."""

    def __init__(self) -> None:
        self.table: dict[IPNetwork, KernelRoute] = {}
        self.refused: set[IPNetwork] = set()
        self.broken = False
        self.silent_about_links = False
        self.others: list[ForeignRoute] = []
        self.dumping = threading.Event()
        self.may_dump = threading.Event()
        self.may_dump.set()
        self.journal: list[str] = []

    def expect(self, routes: Iterable[KernelRoute]) -> None:
        """Have no use for it."""

    def foreign(self, link_indexes: Collection[int]) -> list[ForeignRoute]:
        """Return the foreign routes of these links."""
        return [route for route in self.others if route.link_index in link_indexes and route.protocol == 3]

    def foreign_on(self, link_index: int) -> list[ForeignRoute]:
        """Return what else is foreign on this link, unless it does not answer that."""
        if self.silent_about_links:
            raise KernelUnavailable("no answer")
        return [route for route in self.others if route.link_index == link_index and route.protocol != 3]

    def read(self) -> list[KernelRoute]:
        """Return the table, unless broken."""
        self._check()
        self.journal.append("dump")
        found = list(self.table.values())
        self.dumping.set()
        assert self.may_dump.wait(10)
        return found

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


class FakeConnections:
    """A table of connections that notes which addresses it forgot."""

    def __init__(self) -> None:
        self.flushed: list[IPAddress] = []
        self.failures: list[KernelUnavailable] = []
        self.failed = threading.Event()

    def flush(self, addresses: Collection[IPAddress]) -> int:
        """Take note, unless it is to fail."""
        if self.failures:
            self.failed.set()
            raise self.failures.pop()
        self.flushed += sorted(addresses, key=int)
        return len(addresses)


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


async def test_a_hint_has_what_was_refused_tried_again(fib: FakeFib) -> None:
    """An uplink that comes back shows no routes, as expected while it was away: they are written all the same."""
    programmer = RouteProgrammer(fib, clock=lambda: 0.0)  # so that no retry is ever due
    fib.refused = {local(1).prefix}
    programmer.set(desired(1, 2))
    try:
        await programmer.iterate()
        fib.refused = set()
        programmer.kernel_changed()
        await programmer.iterate()
    finally:
        programmer.close()
    assert fib.table == desired(1, 2).routes
    assert programmer.failures == {}


async def test_nothing_that_happens_postpones_a_retry(fib: FakeFib) -> None:
    """News of other routes come more often than the pause lasts, and the refused route comes when it is over."""
    seconds = 0.0
    programmer = RouteProgrammer(fib, clock=lambda: seconds)
    fib.refused = {local(1).prefix}
    programmer.set(desired(1, 2))
    try:
        await programmer.iterate()
        fib.refused = set()
        for _ in range(5):
            seconds += 0.3  # the first pause is 1.25 s at most
            programmer.routes_changed({local(2).prefix: local(2)})
            await programmer.iterate()
    finally:
        programmer.close()
    assert fib.table == desired(1, 2).routes


async def test_the_pauses_between_retries_begin_anew_with_a_hint(fib: FakeFib) -> None:
    """However long the kernel has refused a route: what changed may come in two steps, and the second tells nothing."""
    seconds = 0.0
    programmer = RouteProgrammer(fib, clock=lambda: seconds)
    fib.refused = {local(1).prefix}
    programmer.set(desired(1))
    try:
        for _ in range(10):
            await programmer.iterate()
            seconds += 75
        programmer.kernel_changed()
        await programmer.iterate()
        fib.refused = set()
        seconds += 1.25
        await programmer.iterate()
    finally:
        programmer.close()
    assert fib.table == desired(1).routes


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


async def test_an_addition_does_not_wait_for_a_dump(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """It is in the kernel while the dump still runs, and is lost neither to that dump nor to the pass after it."""
    programmer.set(desired(1, 2))
    await programmer.iterate()
    del fib.table[local(1).prefix]
    fib.may_dump.clear()
    fib.dumping.clear()
    programmer.kernel_changed()
    resync = asyncio.create_task(programmer.iterate())
    assert await asyncio.to_thread(fib.dumping.wait, 10)
    await asyncio.wait_for(programmer.program([local(3)]), 10)
    assert local(3).prefix in fib.table
    assert not resync.done()
    fib.may_dump.set()
    await resync
    assert fib.table == desired(1, 2, 3).routes
    assert programmer.table.route_count == 3
    fib.journal.clear()
    programmer.set(desired(1, 2))  # the addition is known, so what is not wanted any more goes
    await programmer.iterate()
    assert fib.journal == ["remove 10.0.0.3/32"]


async def test_an_addition_that_a_set_overtook_is_looked_at_again(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """Whichever of the two threads writes last, the kernel ends up with what is desired."""
    programmer.set(desired(1))
    await programmer.iterate()
    late = asyncio.create_task(programmer.program([local(2)]))
    await asyncio.sleep(0)
    programmer.set(desired(1))
    await late
    assert not programmer.in_sync.is_set()
    await programmer.iterate()
    assert fib.table == desired(1).routes


async def test_what_an_event_tells_is_repaired_without_a_dump(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """A route that went comes back, one that changed is put right, one that nobody wants goes."""
    programmer.set(desired(1, 2))
    await programmer.iterate()
    fib.journal.clear()
    changed = KernelRoute(local(2).prefix, RouteKind.BLACKHOLE)
    del fib.table[local(1).prefix]
    fib.table |= {changed.prefix: changed, local(3).prefix: local(3)}
    programmer.routes_changed({local(1).prefix: None, changed.prefix: changed, local(3).prefix: local(3)})
    await programmer.iterate()
    assert fib.table == desired(1, 2).routes
    assert fib.journal == ["add 10.0.0.1/32", "add 10.0.0.2/32", "remove 10.0.0.3/32"]
    assert programmer.table.repaired_count == 2
    assert programmer.in_sync.is_set()


async def test_news_that_are_old_do_no_harm(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """A route said to be gone that is there again is found to be ours."""
    programmer.set(desired(1))
    await programmer.iterate()
    programmer.routes_changed({local(1).prefix: None})
    await programmer.iterate()
    assert fib.table == desired(1).routes
    assert programmer.failures == {}


async def test_a_conflict_is_looked_into_and_logged_once(
    programmer: RouteProgrammer, fib: FakeFib, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign route in the way is on record for as long as it is there, and costs one dump in all."""

    class Foreign(FakeFib):
        """Its dump shows nothing: what is in the way is not ours."""

        def read(self) -> list[KernelRoute]:
            """Return none of ours."""
            self.journal.append("dump")
            return []

    foreign = Foreign()
    foreign.table = dict(desired(1).routes)
    other = RouteProgrammer(foreign)
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                other.set(desired(1))
                await other.iterate()
        assert foreign.journal.count("dump") == 2  # the first of all, and the one that looks into it
        assert other.failures[local(1).prefix].error_number == errno.EEXIST
        assert [record.message for record in caplog.records] == ["the kernel refused routes"]
    finally:
        other.close()
    assert fib.journal == []
    assert programmer.failures == {}


async def test_routes_refused_together_are_told_together(
    programmer: RouteProgrammer, fib: FakeFib, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each of the kernel's reasons, with a few examples, and none for what is tried again."""
    numbers = range(1, 201)
    fib.refused = {local(number).prefix for number in numbers}
    programmer.set(desired(*numbers))
    with caplog.at_level(logging.WARNING):
        await programmer.iterate()
        programmer.kernel_changed()
        await programmer.iterate()
    [record] = caplog.records
    assert (vars(record)["count"], vars(record)["reason"]) == (200, "unreachable")
    assert vars(record)["examples"] == [f"10.0.0.{number}/32" for number in range(1, 6)]


async def test_connections_of_a_moved_address_are_flushed(fib: FakeFib) -> None:
    """Led elsewhere, or taken away: flushed. New, unchanged, repaired, or a whole block: not."""
    connections = FakeConnections()
    programmer = RouteProgrammer(fib, connections=connections)
    block = KernelRoute(ip_network("10.1.0.0/26"), RouteKind.BLACKHOLE)
    elsewhere = {
        number: KernelRoute(local(number).prefix, RouteKind.UNICAST, (NextHop(None, 8),)) for number in (2, 4, 5)
    }
    try:
        programmer.set(DesiredRoutes({**desired(1, 2, 3, 4).routes, block.prefix: block}, Sweep.EVERYTHING))
        await programmer.iterate()
        fib.table[local(4).prefix] = elsewhere[4]
        programmer.kernel_changed()
        await programmer.iterate()
        programmer.set(DesiredRoutes({**desired(1, 4).routes, elsewhere[2].prefix: elsewhere[2]}, Sweep.EVERYTHING))
        await programmer.iterate()
        await programmer.program([local(5)])
        await programmer.program([elsewhere[5]])
    finally:
        programmer.close()  # ends once everything is flushed
    assert connections.flushed == [ip_address(f"10.0.0.{number}") for number in (2, 3, 5)]


async def test_a_flush_that_failed_is_made_up_for(fib: FakeFib, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its addresses are flushed together with the next that move."""
    monkeypatch.setattr("controller.reconcile.programmer._FAILED_FLUSH_REST_SECONDS", 0)
    connections = FakeConnections()
    connections.failures = [KernelUnavailable("no answer")]
    programmer = RouteProgrammer(fib, connections=connections)
    try:
        for left in ((1, 2, 3), (1, 2), (1,)):
            programmer.set(desired(*left))
            await programmer.iterate()
            assert left == (1, 2, 3) or await asyncio.to_thread(connections.failed.wait, 10)
    finally:
        programmer.close()
    assert sorted(connections.flushed, key=int) == [ip_address("10.0.0.2"), ip_address("10.0.0.3")]


async def test_connections_of_an_address_that_left_with_its_link_are_flushed(fib: FakeFib) -> None:
    """That the kernel took the route away together with the link changes nothing."""
    connections = FakeConnections()
    programmer = RouteProgrammer(fib, connections=connections)
    try:
        programmer.set(desired(1, 2))
        await programmer.iterate()
        del fib.table[local(1).prefix]
        programmer.routes_changed({local(1).prefix: None})
        programmer.set(desired(2))
        await programmer.iterate()
    finally:
        programmer.close()
    assert connections.flushed == [ip_address("10.0.0.1")]


async def test_foreign_routes_on_workload_links_are_reported(
    programmer: RouteProgrammer, fib: FakeFib, caplog: pytest.LogCaptureFixture
) -> None:
    """People's and daemons', each logged once and on record until it is gone."""
    here = [ForeignRoute(ip_network("10.9.0.0/24"), 7, 3), ForeignRoute(ip_network("10.7.0.0/24"), 7, 12)]
    fib.others = [*here, ForeignRoute(ip_network("10.8.0.0/24"), 99, 3)]
    programmer.set(desired(1))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            programmer.kernel_changed()
            await programmer.iterate()
    assert programmer.foreign == tuple(here)
    assert [(vars(record)["protocol"], vars(record)["examples"]) for record in caplog.records] == [
        (3, ["10.9.0.0/24"]),
        (12, ["10.7.0.0/24"]),
    ]
    fib.others = []
    programmer.kernel_changed()
    await programmer.iterate()
    assert not programmer.foreign


async def test_looking_for_foreign_routes_holds_up_nothing(programmer: RouteProgrammer, fib: FakeFib) -> None:
    """That the kernel does not answer about others' routes is no reason to write ours anew."""
    fib.silent_about_links = True
    programmer.set(desired(1))
    await programmer.iterate()
    assert fib.table == desired(1).routes
    assert programmer.in_sync.is_set()

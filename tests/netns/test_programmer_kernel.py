"""The route programmer with the real FIB and the monitor's events, in a namespace."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from controller.kernel.monitor import KernelChange, KernelMonitor
from controller.kernel.routes import KernelFib
from controller.ports import KernelRoute, NextHop, RouteKind
from controller.reconcile.programmer import DesiredRoutes, RouteProgrammer, Sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from ipam.address import IPNetwork

pytestmark = pytest.mark.usefixtures("host")


@asynccontextmanager
async def running(fib: KernelFib, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[RouteProgrammer]:
    """Run a programmer that the monitor wakes whenever routes may have changed."""
    made = RouteProgrammer(fib, clock=clock)
    monitor = KernelMonitor(
        fib.port_id,
        lambda change: None if change is KernelChange.ADDRESSES else made.kernel_changed(),
        made.routes_changed,
    )
    monitor.start(asyncio.get_running_loop())
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        monitor.close()
        made.close()


@pytest_asyncio.fixture
async def programmer(fib: KernelFib) -> AsyncIterator[RouteProgrammer]:
    """Run a programmer."""
    async with running(fib) as made:
        yield made


@pytest_asyncio.fixture
async def timeless(fib: KernelFib) -> AsyncIterator[RouteProgrammer]:
    """Run a programmer for which no time passes: no retry and no resync is ever due, only events wake it."""
    async with running(fib, clock=lambda: 0.0) as made:
        yield made


def desired(count: int) -> DesiredRoutes:
    """Return routes of all forms: so many via a gateway, a workload's and a blackhole for each family."""
    index = socket.if_nametoindex("up0")
    direct = (NextHop(None, index),)
    routes = [
        KernelRoute(
            ip_network(f"10.{n >> 8}.{n & 255}.0/26"), RouteKind.UNICAST, (NextHop(ip_address("192.0.2.2"), index),)
        )
        for n in range(count)
    ]
    routes += [KernelRoute(ip_network(text), RouteKind.UNICAST, direct) for text in ("10.200.0.1/32", "fd03::1/128")]
    routes += [KernelRoute(ip_network(text), RouteKind.BLACKHOLE) for text in ("10.201.0.0/26", "fd04::/122")]
    return DesiredRoutes({route.prefix: route for route in routes}, Sweep.EVERYTHING)


async def until(done: Callable[[], bool]) -> None:
    """Wait for a state of the kernel."""
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110  the kernel sets no event of ours
            await asyncio.sleep(0.002)


async def synced(programmer: RouteProgrammer) -> None:
    """Wait until the programmer says so."""
    await asyncio.wait_for(programmer.in_sync.wait(), 10)


async def test_a_removed_route_comes_back(
    programmer: RouteProgrammer, fib: KernelFib, ip: Callable[[str], str]
) -> None:
    """Whoever removes one of our routes, of either family, the event brings it back."""
    wanted = desired(10)
    programmer.set(wanted)
    await synced(programmer)
    for prefix in ("10.200.0.1/32", "10.0.1.0/26", "fd03::1/128", "blackhole 10.201.0.0/26"):
        ip(f"route del {prefix}")
        await until(lambda: fib.dump() == wanted.routes)
    assert programmer.table.repaired_count == 4


async def test_a_changed_route_is_put_right(
    programmer: RouteProgrammer, fib: KernelFib, ip: Callable[[str], str]
) -> None:
    """A route with our mark that leads elsewhere is led back, and one that nobody wants goes."""
    wanted = desired(1)
    programmer.set(wanted)
    await synced(programmer)
    ip("route replace 10.0.0.0/26 via 192.0.2.77 proto 116 metric 1024")
    await until(lambda: fib.dump() == wanted.routes)
    ip("route add 10.55.0.0/26 via 192.0.2.77 proto 116 metric 1024")
    await until(lambda: fib.dump() == wanted.routes)


async def test_a_foreign_replacement_is_reported_and_outlived(
    programmer: RouteProgrammer, fib: KernelFib, ip: Callable[[str], str]
) -> None:
    """A foreign route that takes our place is left alone and reported; ours is back soon after it goes."""
    wanted = desired(1)
    programmer.set(wanted)
    await synced(programmer)
    ip("route replace 10.0.0.0/26 via 192.0.2.77 proto 120 metric 1024")
    await until(lambda: ip_network("10.0.0.0/26") in programmer.failures)
    ip("route del 10.0.0.0/26")
    await until(lambda: fib.dump() == wanted.routes and not programmer.failures)


async def test_routes_come_back_with_their_link(
    timeless: RouteProgrammer, fib: KernelFib, ip: Callable[[str], str]
) -> None:
    """A link that goes down takes its routes along in silence; the event of its return brings them back."""
    wanted = desired(10)
    timeless.set(wanted)
    await synced(timeless)
    ip("link set up0 down")
    await until(lambda: bool(timeless.failures))
    ip("link set up0 up")
    await until(lambda: fib.dump() == wanted.routes and not timeless.failures)


async def test_routes_come_back_with_their_address(
    timeless: RouteProgrammer, fib: KernelFib, ip: Callable[[str], str]
) -> None:
    """The last address of a link takes the link's routes along in silence; the event of its return brings them back."""
    wanted = desired(10)
    timeless.set(wanted)
    await synced(timeless)
    ip("address del 192.0.2.1/24 dev up0")
    await until(lambda: bool(timeless.failures))
    ip("address add 192.0.2.1/24 dev up0")
    await until(lambda: fib.dump() == wanted.routes and not timeless.failures)


async def test_own_writes_and_foreign_routes_wake_nobody(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """Only what others do to routes of ours is a hint."""
    seen: list[KernelChange] = []
    told: list[Mapping[IPNetwork, KernelRoute | None]] = []
    monitor = KernelMonitor(fib.port_id, seen.append, told.append)
    monitor.start(asyncio.get_running_loop())
    try:
        routes = list(desired(2000).routes.values())
        fib.apply(routes, [])
        fib.apply([], routes)
        ip("route add 10.77.0.0/16 dev far0 proto 120")
        ip("route del 10.77.0.0/16")
        ip("route add 10.78.0.0/16 dev far0 proto 116 table 55")
        # One path, in order: a hint of what was before would come first.
        ip("address add 198.51.100.1/24 dev far0")
        await until(lambda: bool(seen))
        assert (seen, told) == ([KernelChange.ADDRESSES, KernelChange.ROUTES], [])
        ip("route add blackhole 10.79.0.0/16 proto 116 metric 1024")
        await until(lambda: bool(told))
        prefix = ip_network("10.79.0.0/16")
        assert told == [{prefix: KernelRoute(prefix, RouteKind.BLACKHOLE)}]
    finally:
        monitor.close()


async def test_lost_events_are_a_hint(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """When the kernel had more to say than there was room for, anything may have changed."""
    seen: list[KernelChange] = []
    told: list[Mapping[IPNetwork, KernelRoute | None]] = []
    monitor = KernelMonitor(fib.port_id, seen.append, told.append)
    monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    other = KernelFib()
    try:
        other.apply(desired(500).routes.values(), [])
        monitor.start(asyncio.get_running_loop())
        await until(lambda: KernelChange.EVERYTHING in seen)
        told.clear()
        ip("route del 10.200.0.1/32")
        await until(lambda: {ip_network("10.200.0.1/32"): None} in told)
    finally:
        other.close()
        monitor.close()


async def test_links_are_hints_when_routes_may_be_gone(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """Down, up and gone are hints; a new link, and a workload's link that goes, are none."""
    seen: list[KernelChange] = []
    told: list[Mapping[IPNetwork, KernelRoute | None]] = []
    monitor = KernelMonitor(fib.port_id, seen.append, told.append)
    monitor.start(asyncio.get_running_loop())
    try:
        ip("link add torab type bridge")
        ip("link del torab")
        ip("link add extra0 type bridge")
        ip("address add 198.51.100.1/32 dev lo")
        await until(lambda: bool(seen))
        assert seen == [KernelChange.ADDRESSES, KernelChange.ROUTES]
        for number, command in enumerate(("link set up0 down", "link set up0 up", "link del extra0"), 1):
            ip(command)
            await until(lambda: seen.count(KernelChange.LINKS) >= number)  # noqa: B023  awaited in its round
    finally:
        monitor.close()

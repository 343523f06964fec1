"""What a programmer with a data centre's routes does not do: write what is there, or let a container wait."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from ipaddress import IPv4Network, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.kernel.netlink import messages
from controller.kernel.route_messages import RTM_DELROUTE, RTM_NEWROUTE, RTMSG
from controller.kernel.routes import KernelFib
from controller.ports import ROUTE_PROTOCOL, KernelRoute, NextHop, RouteKind
from controller.reconcile.programmer import DesiredRoutes, RouteProgrammer, Sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("host")

COUNT = 65_536
ROUTE_EVENTS = 0x40 | 0x400


def learned(count: int) -> DesiredRoutes:
    """Return other nodes' blocks, each time as new objects, as a restart has them."""
    hops = (NextHop(ip_address("192.0.2.2"), socket.if_nametoindex("up0")),)
    first = int(ip_address("10.0.0.0"))
    blocks = (IPv4Network((first + 64 * number, 26)) for number in range(count))
    return DesiredRoutes({block: KernelRoute(block, RouteKind.UNICAST, hops) for block in blocks}, Sweep.EVERYTHING)


def workload(number: int) -> KernelRoute:
    """Return a workload's route."""
    hops = (NextHop(None, socket.if_nametoindex("up0")),)
    return KernelRoute(ip_network(f"172.16.0.{number}/32"), RouteKind.UNICAST, hops)


@contextmanager
def programming(fib: KernelFib) -> Iterator[RouteProgrammer]:
    """Yield a programmer that is not running."""
    made = RouteProgrammer(fib)
    try:
        yield made
    finally:
        made.close()


def counted(events: socket.socket) -> dict[int, int]:
    """Return how many routes of ours came and went since the socket was bound, by kind of event."""
    counts = {RTM_NEWROUTE: 0, RTM_DELROUTE: 0}
    while True:
        try:
            datagram = events.recv(65536)
        except BlockingIOError:
            return counts
        for kind, _, _, body in messages(datagram):
            counts[kind] += RTMSG.unpack_from(body)[5] == ROUTE_PROTOCOL


async def test_a_restart_with_65536_routes_writes_none(fib: KernelFib) -> None:
    """The kernel, which reports every write of anybody, reports none while a second programmer takes over."""
    with programming(fib) as first:
        first.set(learned(COUNT))
        await first.iterate()
        assert (first.table.programmed_count, first.failures) == (COUNT, {})
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events,
        programming(fresh := KernelFib()) as second,
    ):
        events.bind((0, ROUTE_EVENTS))
        events.setblocking(False)
        try:
            second.set(learned(COUNT))
            await second.iterate()
            assert second.in_sync.is_set()
            assert second.table.route_count == COUNT
            second.kernel_changed()
            await second.iterate()
            assert second.table.resync_count == 2
            assert counted(events) == {RTM_NEWROUTE: 0, RTM_DELROUTE: 0}
            await second.program([workload(1)])  # the listening itself works
            assert counted(events) == {RTM_NEWROUTE: 1, RTM_DELROUTE: 0}
        finally:
            fresh.close()


async def test_a_route_is_added_while_all_are_read(fib: KernelFib) -> None:
    """A resync that runs meanwhile loses none of the additions, and takes none of them for unwanted."""
    with programming(fib) as programmer:
        programmer.set(learned(COUNT))
        await programmer.iterate()
        programmer.kernel_changed()
        resync = asyncio.create_task(programmer.iterate())
        await asyncio.sleep(0)  # it has begun
        added = [workload(number) for number in range(1, 9)]
        for route in added:
            await programmer.program([route])
        await resync
        assert fib.dump().keys() >= {route.prefix for route in added}
        assert programmer.table.route_count == COUNT + len(added)
        await programmer.iterate()
        assert programmer.table.removed_count == 0

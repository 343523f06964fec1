"""What the kernel tells of routes, and what it does without a word."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.kernel.monitor import KernelChange, KernelMonitor
from controller.kernel.netlink import messages
from controller.kernel.route_messages import RTM_DELROUTE, RTMSG
from controller.ports import ROUTE_PROTOCOL, KernelRoute, NextHop, RouteKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from controller.kernel.routes import KernelFib
    from ipam.address import IPNetwork

pytestmark = pytest.mark.usefixtures("host")

V4 = ip_network("10.1.0.0/26")
V6 = ip_network("fd01::/122")


class Told:
    """What a monitor told."""

    def __init__(self) -> None:
        self.changes: list[KernelChange] = []
        self.routes: list[dict[IPNetwork, KernelRoute | None]] = []

    def take_routes(self, routes: Mapping[IPNetwork, KernelRoute | None]) -> None:
        """Note what was told of routes."""
        self.routes.append(dict(routes))


@contextmanager
def monitoring(fib: KernelFib) -> Iterator[Told]:
    """Watch the namespace of the test."""
    told = Told()
    monitor = KernelMonitor(fib.port_id, told.changes.append, told.take_routes)
    monitor.start(asyncio.get_running_loop())
    try:
        yield told
    finally:
        monitor.close()


def via(prefix: IPNetwork, *gateways: str) -> KernelRoute:
    """Return a route out of `up0`."""
    index = socket.if_nametoindex("up0")
    return KernelRoute(prefix, RouteKind.UNICAST, tuple(NextHop(ip_address(gateway), index) for gateway in gateways))


async def until(done: Callable[[], bool]) -> None:
    """Wait for a state."""
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110  the kernel sets no event of ours
            await asyncio.sleep(0.002)


async def test_a_changed_route_is_told_as_it_is_now(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """Gone, led elsewhere, or replaced by somebody else's: each is told of its prefix, and nothing else is."""
    fib.apply([via(V4, "192.0.2.2"), via(V6, "2001:db8::2")], [])
    steps: list[tuple[str, IPNetwork, KernelRoute | None]] = [
        (f"route del {V4}", V4, None),
        (f"route add {V4} via 192.0.2.3 proto 116 metric 1024", V4, via(V4, "192.0.2.3")),
        (f"route replace {V4} dev far0 proto 120 metric 1024", V4, None),
        (f"-6 route del {V6}", V6, None),
        (
            f"-6 route add {V6} proto 116 metric 1024 nexthop via 2001:db8::2 nexthop via 2001:db8::3",
            V6,
            via(V6, "2001:db8::2", "2001:db8::3"),
        ),
        (f"route add blackhole {V4} proto 116 metric 7", V4, None),
        (
            "route add blackhole 10.7.0.0/26 proto 116 metric 1024",
            ip_network("10.7.0.0/26"),
            KernelRoute(ip_network("10.7.0.0/26"), RouteKind.BLACKHOLE),
        ),
    ]
    with monitoring(fib) as told:
        for command, prefix, route in steps:
            ip(command)
            if "metric 7" in command:  # not ours, for its metric
                continue
            await until(lambda: bool(told.routes))
            assert told.routes == [{prefix: route}], command
            told.routes.clear()


async def test_many_changes_at_once_ask_for_a_dump(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """One dump costs less than a thousand single repairs."""
    prefixes = [ip_network(f"10.{n >> 8}.{n & 255}.0/26") for n in range(1000)]
    fib.apply([via(prefix, "192.0.2.2") for prefix in prefixes], [])
    with monitoring(fib) as told:
        ip("route flush proto 116")
        await until(lambda: KernelChange.ROUTES in told.changes)
        assert sum(map(len, told.routes)) < len(prefixes)


def deletions(events: socket.socket) -> set[int]:
    """Return the families of our routes of whose deletion the kernel told."""
    families: set[int] = set()
    while True:
        try:
            datagram = events.recv(65536)
        except BlockingIOError:
            return families
        for kind, _, _, body in messages(datagram):
            family, *_, protocol, _, _, _ = RTMSG.unpack_from(body)
            if kind == RTM_DELROUTE and protocol == ROUTE_PROTOCOL:
                families.add(family)


@pytest.mark.parametrize("command", ["link set up0 down", "link del up0"])
def test_ipv4_routes_go_with_their_link_without_a_word(fib: KernelFib, ip: Callable[[str], str], command: str) -> None:
    """The kernel tells of IPv6 routes alone; that is why a link's events are hints that routes may be gone."""
    fib.apply([via(V4, "192.0.2.2"), via(V6, "2001:db8::2")], [])
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
        events.bind((0, 0x40 | 0x400))
        events.setblocking(False)
        ip(command)
        assert fib.dump() == {}
        assert deletions(events) == {socket.AF_INET6}


async def test_a_workloads_link_is_a_hint_when_it_comes_back(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """It goes down whenever a container ends, which concerns nobody; up again, it lacks its routes."""
    ip("link add torab type veth peer name torcd")
    ip("link set torab up")
    ip("link set torcd up")
    with monitoring(fib) as told:

        async def hinted_by(command: str) -> bool:
            told.changes.clear()
            ip(command)
            # One path, in order: a hint of what was before would come first.
            ip("address add 198.51.100.1/32 dev lo")
            ip("address del 198.51.100.1/32 dev lo")
            await until(lambda: KernelChange.ADDRESSES in told.changes)
            return KernelChange.LINKS in told.changes

        assert not await hinted_by("link set torab down")
        assert await hinted_by("link set torab up")
        assert not await hinted_by("link del torab")
        assert await hinted_by("link set far0 down")

"""Routes over several next hops, changed while they are used; and which routes a dump asks the kernel for."""

from __future__ import annotations

import errno
import socket
import subprocess
import threading
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.errors import KernelRefused
from controller.kernel.netlink import NetlinkSocket
from controller.kernel.route_messages import RTM_GETROUTE, RTMSG, dump_request
from controller.ports import ForeignRoute, KernelRoute, NextHop, RouteKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.kernel.routes import KernelFib

pytestmark = pytest.mark.usefixtures("host")
FAMILIES = pytest.mark.parametrize(
    ("prefix", "gateway", "inside"),
    [("10.1.0.0/26", "192.0.2.{}", "10.1.0.7"), ("fd01::/122", "2001:db8::{}", "fd01::7")],
)


def via(prefix: str, *gateways: str) -> KernelRoute:
    """Return a route out of `up0`."""
    index = socket.if_nametoindex("up0")
    return KernelRoute(
        ip_network(prefix), RouteKind.UNICAST, tuple(NextHop(ip_address(gateway), index) for gateway in gateways)
    )


@FAMILIES
def test_replacing_leaves_no_gap(fib: KernelFib, prefix: str, gateway: str, inside: str) -> None:
    """At no instant is there no route, whatever number of next hops follows whatever other."""
    paths = [[2], [3], [2, 3], [3, 4], [2, 3, 4, 5], [2], [5, 4], [4]]
    forms = [via(prefix, *(gateway.format(number) for number in numbers)) for numbers in paths]
    fib.apply(forms[:1], [])
    missing: list[OSError] = []
    over = threading.Event()

    def look_up() -> None:
        family = socket.AF_INET6 if ":" in inside else socket.AF_INET
        while not over.is_set():
            with socket.socket(family, socket.SOCK_DGRAM) as looking:
                try:
                    looking.connect((inside, 9))
                except OSError as error:
                    missing.append(error)

    thread = threading.Thread(target=look_up)
    thread.start()
    try:
        for form in forms * 50:
            assert fib.apply([form], [], replaceable={form.prefix}) == []
            assert fib.dump() == {form.prefix: form}
    finally:
        over.set()
        thread.join()
    assert missing == []


@FAMILIES
def test_a_lost_path_shows(fib: KernelFib, ip: Callable[[str], str], prefix: str, gateway: str, inside: str) -> None:
    """Somebody who takes one next hop away, or gives it a weight, leaves a route that equals none of ours."""
    assert inside
    version = ip_network(prefix).version
    wanted = via(prefix, gateway.format(2), gateway.format(3))
    fib.apply([wanted], [])
    nexthops = f"nexthop via {gateway.format(2)} weight 5 nexthop via {gateway.format(3)}"
    ip(f"-{version} route replace {prefix} proto 116 metric 1024 {nexthops}")
    assert fib.dump() != {wanted.prefix: wanted}
    fib.apply([wanted], [], replaceable={wanted.prefix})
    assert fib.dump() == {wanted.prefix: wanted}
    ip(f"-{version} route replace {prefix} proto 116 metric 1024 via {gateway.format(3)}")
    assert fib.dump() == {wanted.prefix: via(prefix, gateway.format(3))}


def test_an_ipv6_path_removed_alone_shows(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """IPv6 knows each next hop as a route of its own; a dump shows what is left of them as one."""
    fib.apply([via("fd01::/122", "2001:db8::2", "2001:db8::3", "2001:db8::4")], [])
    ip("-6 route del fd01::/122 via 2001:db8::3")
    assert list(fib.dump().values()) == [via("fd01::/122", "2001:db8::2", "2001:db8::4")]


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_filters_dumps(fib: KernelFib, ip: Callable[[str], str], version: int) -> None:
    """Another daemon's hundred thousand routes must not reach us; the kernel checks the request strictly."""
    prefix, other = ("10.1.0.0/26", "10.2.0.0/26") if version == 4 else ("fd01::/122", "fd02::/122")
    fib.apply([via(prefix, "192.0.2.2" if version == 4 else "2001:db8::2")], [])
    ip(f"-{version} route add {other} dev far0 proto 120")
    ip(f"-{version} route add {other} dev far0 proto 116 table 55")
    opened = NetlinkSocket()
    try:
        (body,) = opened.dump(RTM_GETROUTE, dump_request(version))
        assert RTMSG.unpack_from(body)[:2] == (dump_request(version)[0], ip_network(prefix).prefixlen)
        # A filter that the kernel does not know is refused, and not passed over.
        unknown = bytearray(dump_request(version))
        unknown[1] = 24
        with pytest.raises(KernelRefused) as refused:
            opened.dump(RTM_GETROUTE, bytes(unknown))
        assert refused.value.error_number == errno.EINVAL
    finally:
        opened.close()


def test_foreign_routes_are_those_made_by_hand_on_these_links(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """Ours, the kernel's own, a daemon's, and those on other links are not among them; nothing is changed."""
    fib.apply([via("10.1.0.0/26", "192.0.2.2")], [])
    ip("route add 10.2.0.0/26 dev up0")
    ip("-6 route add fd02::/122 dev up0 proto static")
    ip("route add 10.3.0.0/26 dev up0 proto 120")
    ip("route add 10.4.0.0/26 dev far0")
    index = socket.if_nametoindex("up0")
    before = ip("route show") + ip("-6 route show")
    assert fib.foreign({index}) == [
        ForeignRoute(ip_network("10.2.0.0/26"), index, 3),
        ForeignRoute(ip_network("fd02::/122"), index, 4),
    ]
    assert fib.foreign(set()) == []
    assert ip("route show") + ip("-6 route show") == before


def test_a_daemons_routes_are_found_link_by_link(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """Neither ours nor the kernel's own nor those made by hand; one of several paths counts, and nothing is changed."""
    fib.apply([via("10.1.0.0/26", "192.0.2.2")], [])
    ip("route add 10.2.0.0/26 dev up0")
    ip("route add 10.3.0.0/26 dev up0 proto bird")
    ip("route add 10.4.0.0/26 dev far0 proto bird")
    ip("route add 10.5.0.0/26 proto zebra nexthop dev up0 nexthop dev far0")
    ip("-6 route add fd02::/122 dev up0 proto dhcp")
    index = socket.if_nametoindex("up0")
    before = ip("route show") + ip("-6 route show")
    assert fib.foreign_on(index) == [
        ForeignRoute(ip_network("10.3.0.0/26"), index, 12),
        ForeignRoute(ip_network("10.5.0.0/26"), index, 11),
        ForeignRoute(ip_network("fd02::/122"), index, 16),
    ]
    assert fib.foreign_on(9999) == []
    assert ip("route show") + ip("-6 route show") == before


def test_a_link_with_very_many_routes_of_a_daemon_is_told_by_some(fib: KernelFib) -> None:
    """Whoever has so many needs no list of all."""
    command = "".join(f"route add 10.{n >> 8}.{n & 255}.0/24 dev up0 proto bird\n" for n in range(1500))
    subprocess.run(["ip", "-batch", "-"], input=command, text=True, check=True)
    found = fib.foreign_on(socket.if_nametoindex("up0"))
    assert len(found) == len(set(found)) == 1000

"""The FIB against the real kernel, in a namespace."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.kernel.routes import KernelFib
from controller.ports import KernelRoute, NextHop, RouteKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipam.address import IPNetwork

pytestmark = pytest.mark.usefixtures("host")


def via(prefix: str, *gateways: str) -> KernelRoute:
    """Return a route out of `up0`, directly where no gateway is given."""
    index = socket.if_nametoindex("up0")
    hops = tuple(NextHop(ip_address(gateway), index) for gateway in gateways) or (NextHop(None, index),)
    return KernelRoute(ip_network(prefix), RouteKind.UNICAST, hops)


def blackhole(prefix: str) -> KernelRoute:
    """Return a blackhole."""
    return KernelRoute(ip_network(prefix), RouteKind.BLACKHOLE)


def by_prefix(*routes: KernelRoute) -> dict[IPNetwork, KernelRoute]:
    """Return routes as a dump does."""
    return {route.prefix: route for route in routes}


def every_form() -> list[KernelRoute]:
    """Return one route of each form there is."""
    return [
        via("10.1.0.0/26", "192.0.2.2"),
        via("10.2.0.0/26", "192.0.2.2", "192.0.2.3"),
        via("10.3.0.1/32"),
        blackhole("10.4.0.0/26"),
        via("10.5.0.0/26", "2001:db8::2"),
        via("fd01::/122", "2001:db8::2"),
        via("fd02::/122", "2001:db8::2", "2001:db8::3"),
        via("fd03::1/128"),
        blackhole("fd04::/122"),
    ]


def test_what_is_added_is_dumped(fib: KernelFib) -> None:
    """Every form of route comes back from the kernel as it was given, both families."""
    assert fib.apply(every_form(), []) == []
    assert fib.dump() == by_prefix(*every_form())


def test_a_fresh_namespace_is_empty(fib: KernelFib) -> None:
    """No routes of ours is an answer, not an error."""
    assert fib.dump() == {}


def test_the_kernel_sees_marked_routes(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """Protocol, metric and scope are what operators are told to expect."""
    fib.apply([via("10.3.0.1/32"), via("fd01::/122", "2001:db8::2")], [])
    assert ip("-4 route show proto 116") == "10.3.0.1 dev up0 scope link metric 1024"
    assert ip("-6 route show proto 116") == "fd01::/122 via 2001:db8::2 dev up0 metric 1024 pref medium"


@pytest.mark.parametrize("family", ["10.1.0.0/26 192.0.2.2 192.0.2.3", "fd01::/122 2001:db8::2 2001:db8::3"])
def test_replacing_goes_between_any_two_forms(fib: KernelFib, family: str) -> None:
    """A route changes from any form into any other and there is one route of the prefix afterwards."""
    prefix, one, two = family.split()
    forms = [via(prefix, one), via(prefix, two), via(prefix, one, two), blackhole(prefix), via(prefix)]
    for before in forms:
        for after in forms:
            assert fib.apply([before], [], replaceable={before.prefix}) == []
            assert fib.apply([after], [], replaceable={after.prefix}) == []
            assert fib.dump() == by_prefix(after), (before, after)


def test_only_what_is_known_to_be_ours_is_replaced(fib: KernelFib) -> None:
    """A route that is there already is left as it is, unless the caller knows that it is ours."""
    before = [via("10.1.0.0/26", "192.0.2.2"), via("fd01::/122", "2001:db8::2")]
    fib.apply(before, [])
    after = [via("10.1.0.0/26", "192.0.2.3"), via("fd01::/122", "2001:db8::3")]
    assert [failure.error_number for failure in fib.apply(after, [])] == [errno.EEXIST] * 2
    assert fib.dump() == by_prefix(*before)
    assert fib.apply(after, [], replaceable=fib.dump()) == []
    assert fib.dump() == by_prefix(*after)


@pytest.mark.parametrize("prefix", ["10.1.0.0/26", "fd01::/122"])
def test_a_foreign_route_is_left_alone(fib: KernelFib, ip: Callable[[str], str], prefix: str) -> None:
    """A route of somebody else with our metric is neither replaced nor removed; the failure says what to do."""
    version = ip_network(prefix).version
    ip(f"-{version} route add {prefix} dev far0 proto 120 metric 1024")
    before = ip(f"-{version} route show {prefix}")
    (failure,) = fib.apply([via(prefix)], [])
    assert (failure.prefix, failure.error_number) == (ip_network(prefix), errno.EEXIST)
    assert "another metric" in failure.reason
    assert fib.apply([], [via(prefix)]) == []
    assert ip(f"-{version} route show {prefix}") == before
    assert fib.dump() == {}


def test_a_foreign_route_that_took_our_place_is_left_alone(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """Once a dump has shown that the route is no longer ours it is not replaced any more."""
    fib.apply([via("10.1.0.0/26")], [])
    ip("route replace 10.1.0.0/26 dev far0 proto 120 metric 1024")
    assert fib.dump() == {}
    assert [failure.error_number for failure in fib.apply([via("10.1.0.0/26")], [])] == [errno.EEXIST]
    assert "proto 120" in ip("route show 10.1.0.0/26")


def test_only_our_metric_and_mark_are_dumped(fib: KernelFib, ip: Callable[[str], str]) -> None:
    """A route with our mark but another metric, or the other way round, is not ours."""
    ip("route add 10.1.0.0/26 dev far0 proto 116 metric 7")
    ip("route add 10.2.0.0/26 dev far0 proto 120 metric 1024")
    assert fib.dump() == {}


def test_each_failure_names_its_prefix(fib: KernelFib) -> None:
    """Of a batch with bad routes all others are there, and each bad one is reported with the kernel's reason."""
    good = [via(f"10.{high}.{low}.0/26", "192.0.2.2") for high in range(1, 7) for low in range(200)]
    bad = [via("10.100.0.0/26", "203.0.113.1"), via("10.101.0.0/26", "203.0.113.1")]
    failures = fib.apply([*good[:700], bad[0], *good[700:], bad[1]], [])
    assert [(failure.prefix, failure.error_number) for failure in failures] == [
        (route.prefix, errno.ENETUNREACH) for route in bad
    ]
    assert "gateway" in failures[0].reason
    assert fib.dump() == by_prefix(*good)


def test_removing_what_is_gone_is_success(fib: KernelFib) -> None:
    """A removal promises that the route is not there; twice is as good as once."""
    fib.apply(every_form(), [])
    assert fib.apply([], every_form()) == []
    assert fib.apply([], every_form()) == []
    assert fib.dump() == {}


def test_unchanged_routes_are_the_same_objects(fib: KernelFib) -> None:
    """A dump builds objects for changed routes only; that is what makes a resync of many routes cheap."""
    fib.apply(every_form(), [])
    first = fib.dump()
    fib.apply([via("10.1.0.0/26", "192.0.2.3")], [], replaceable=first)
    second = fib.dump()
    changed = ip_network("10.1.0.0/26")
    assert all((second[prefix] is route) is (prefix != changed) for prefix, route in first.items())


def test_expected_routes_are_not_read_anew(fib: KernelFib) -> None:
    """After a restart a dump gives back the very objects that were expected, of every form and both families."""
    fib.apply(every_form(), [])
    expected = every_form()
    fresh = KernelFib()
    try:
        fresh.expect(expected)
        assert {id(route) for route in fresh.read()} == {id(route) for route in expected}
    finally:
        fresh.close()

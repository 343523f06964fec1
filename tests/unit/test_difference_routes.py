"""The difference between desired and actual routes."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.ports import KernelRoute, NextHop, RouteKind
from controller.reconcile.difference import DesiredRoutes, Sweep, to_remove, to_write

if TYPE_CHECKING:
    from ipam.address import IPNetwork


def unicast(number: int, *gateways: str | None) -> KernelRoute:
    """Return a route out of link 7."""
    hops = tuple(NextHop(None if gateway is None else IPv4Address(gateway), 7) for gateway in gateways)
    return KernelRoute(ip_network(f"10.0.{number}.0/24"), RouteKind.UNICAST, hops)


def blackhole(number: int) -> KernelRoute:
    """Return a blackhole."""
    return KernelRoute(ip_network(f"10.0.{number}.0/24"), RouteKind.BLACKHOLE)


def by_prefix(*routes: KernelRoute) -> dict[IPNetwork, KernelRoute]:
    """Return routes as a table."""
    return {route.prefix: route for route in routes}


ROUTES = st.builds(
    lambda number, form: (blackhole(number), unicast(number, None), unicast(number, "192.0.2.1"))[form],
    st.integers(0, 9),
    st.integers(0, 2),
)
TABLES = st.lists(ROUTES).map(lambda routes: by_prefix(*routes))


@given(TABLES, TABLES)
def test_applying_it_gives_what_is_desired(
    desired: dict[IPNetwork, KernelRoute], actual: dict[IPNetwork, KernelRoute]
) -> None:
    """After the difference the actual routes are the desired ones, and there is no difference any more."""
    wanted = DesiredRoutes(desired, Sweep.EVERYTHING)
    after = {**actual, **by_prefix(*to_write(desired.values(), actual))}
    for route in to_remove(actual.values(), wanted):
        del after[route.prefix]
    assert after == desired
    assert to_write(desired.values(), after) == []
    assert to_remove(after.values(), wanted) == []


def test_the_order_of_next_hops_means_nothing() -> None:
    """The kernel sorts ECMP paths its own way; that is no reason to write."""
    desired = unicast(1, "192.0.2.1", "192.0.2.2")
    actual = unicast(1, "192.0.2.2", "192.0.2.1")
    assert to_write([desired], by_prefix(actual)) == []


def test_a_path_more_or_less_is_a_difference() -> None:
    """A lost path is written again."""
    desired = unicast(1, "192.0.2.1", "192.0.2.2")
    assert to_write([desired], by_prefix(unicast(1, "192.0.2.2"))) == [desired]


@pytest.mark.parametrize(
    ("sweep", "removed"), [(Sweep.NOTHING, set()), (Sweep.LOCAL, {1, 2}), (Sweep.EVERYTHING, {1, 2, 3})]
)
def test_only_what_the_sweep_allows_goes(sweep: Sweep, removed: set[int]) -> None:
    """Before BGP is in sync learned routes stay, before the store is everything stays."""
    actual = [unicast(1, None), blackhole(2), unicast(3, "192.0.2.1")]
    found = to_remove(actual, DesiredRoutes({}, sweep))
    assert {route.prefix for route in found} == {ip_network(f"10.0.{number}.0/24") for number in removed}


def test_what_was_dropped_goes_under_any_sweep() -> None:
    """That a route is not desired any more is a decision, not ignorance."""
    dropped, unknown = unicast(1, "192.0.2.1"), unicast(2, "192.0.2.1")
    assert to_remove([dropped, unknown], DesiredRoutes({}, Sweep.NOTHING), {dropped.prefix}) == [dropped]


@pytest.mark.parametrize("spared", ["10.0.1.0/24", "10.0.0.0/23", "10.0.1.5/32"])
def test_what_is_spared_stays_under_any_sweep(spared: str) -> None:
    """Routes of a network of which too little is known stay, unless it was decided that they go."""
    within, beside = unicast(1, None), unicast(2, None)
    desired = DesiredRoutes({}, Sweep.EVERYTHING, spared=(ip_network("fd00::/64"), ip_network(spared)))
    assert to_remove([within, beside], desired) == [beside]
    assert to_remove([within], desired, {within.prefix}) == [within]

"""Messages that are packed together are the ones that are packed one by one."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from controller.kernel.netlink import HEADER, NLM_F_REQUEST, messages
from controller.kernel.route_messages import (
    RTM_DELROUTE,
    RTM_NEWROUTE,
    addition_series,
    additions,
    heard,
    removal_series,
)
from controller.kernel.series import Series, portions, repeated
from controller.ports import KernelRoute, NextHop, RouteKind

if TYPE_CHECKING:
    from collections.abc import Iterable

HOPS = [
    (NextHop(ip_address("192.0.2.1"), 7),),
    (NextHop(None, 8),),
    (NextHop(ip_address("192.0.2.1"), 7), NextHop(ip_address("192.0.2.2"), 7)),
]
PREFIXES = st.one_of(
    st.builds(lambda number, length: ip_network((number << 8, length), strict=False), st.integers(1, 9), st.just(26)),
    st.builds(lambda number: ip_network((0x0A000000 + number, 32)), st.integers(0, 9)),
    st.builds(lambda number: ip_network((0xFD << 120 | number << 6, 122)), st.integers(0, 9)),
)
ROUTES = st.one_of(
    st.builds(lambda prefix: KernelRoute(prefix, RouteKind.BLACKHOLE), PREFIXES),
    st.builds(lambda prefix, hops: KernelRoute(prefix, RouteKind.UNICAST, hops), PREFIXES, st.sampled_from(HOPS)),
)


def unpacked(series: Iterable[Series]) -> list[tuple[int, int, int, bytes]]:
    """Return the messages as the kernel takes them apart: type, flags, number and body."""
    found: list[tuple[int, int, int, bytes]] = []
    for each in portions(series):
        message = HEADER.pack(HEADER.size + len(each.body), each.kind, each.flags | NLM_F_REQUEST, 0, 0) + each.body
        found += messages(bytes(repeated(message, each, len(found) + 1)))
    return found


@given(st.lists(st.tuples(ROUTES, st.sampled_from([0x500, 0x600])), max_size=40))
def test_additions_are_those_packed_one_by_one(wanted: list[tuple[KernelRoute, int]]) -> None:
    """Whatever follows what: next hops, lengths, IP versions, kinds and flags change from one route to the next."""
    routes, flags = [route for route, _ in wanted], [flag for _, flag in wanted]
    expected = [
        (RTM_NEWROUTE, flag | NLM_F_REQUEST, number, body)
        for number, (flag, body) in enumerate(zip(flags, additions(routes), strict=True), start=1)
    ]
    assert unpacked(addition_series(routes, flags)) == expected


@given(st.lists(PREFIXES, max_size=40))
def test_removals_name_each_prefix_in_its_order(prefixes: list[object]) -> None:
    """Nothing but prefix, table, metric and protocol say which route is to go."""
    found = unpacked(removal_series(prefixes))  # type: ignore[arg-type]  # networks, of a union that strategies do not tell
    assert [kind for kind, _, _, _ in found] == [RTM_DELROUTE] * len(prefixes)
    assert [number for _, _, number, _ in found] == list(range(1, len(prefixes) + 1))
    assert [heard(body)[0] for _, _, _, body in found] == prefixes


def test_a_long_series_is_cut_where_no_socket_is_overwhelmed() -> None:
    """All requests are there in their order, none in a portion of more than 64 KiB."""
    values = b"".join(number.to_bytes(4, "big") for number in range(5000))
    cut = list(portions([Series(1, 0, bytes(36), 8, 4, values)]))
    assert b"".join(each.values for each in cut) == values
    assert max(each.request_count * 52 for each in cut) <= 64 * 1024
    assert len(cut) > 1

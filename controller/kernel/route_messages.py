"""Routes of ours as rtnetlink bodies, and back; pure.

A route's identity in the kernel is its prefix and metric; the protocol number only marks whose it is. So additions are
exclusive or replace, as the caller asks, and removals match on protocol and metric: nobody else's route can be hit
(net/ipv4/fib_trie.c, net/ipv6/route.c).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from controller.kernel.netlink import attribute, attributes
from controller.kernel.series import Series
from controller.ports import ROUTE_METRIC, ROUTE_PROTOCOL, KernelRoute, NextHop, RouteKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipam.address import IPAddress, IPNetwork

# include/uapi/linux/rtnetlink.h
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RT_TABLE_MAIN: Final = 254
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_HOST: Final = 254
RT_SCOPE_NOWHERE: Final = 255
RTN_UNICAST: Final = 1
RTN_BLACKHOLE: Final = 6
RTA_DST: Final = 1
RTA_SRC: Final = 2
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_MULTIPATH: Final = 9
RTA_TABLE: Final = 15
RTA_CACHEINFO: Final = 12
RTA_VIA: Final = 18
RTA_PREF: Final = 20
# Attributes that no route of ours has: a preferred source, and metrics such as an MTU.
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
#: rtmsg: family, prefix length, source prefix length, TOS, table, protocol, scope, type, flags.
RTMSG: Final = struct.Struct("=BBBBBBBBI")
_NEXT_HOP: Final = struct.Struct("=HBBi")
_FAMILY: Final = struct.Struct("=H")
_INDEX: Final = struct.Struct("=I")
#: One attribute of four bytes.
_LINK: Final = struct.Struct("=HHI")
#: What every addition starts with: rtmsg, table, head of the prefix.
_HEAD: Final = struct.Struct("=BBBBBBBBI HHI HH")
_METRIC_ATTRIBUTE: Final = attribute(RTA_PRIORITY, _INDEX.pack(ROUTE_METRIC))

#: How every IPv6 route ends in a dump: nothing is cached, medium preference (net/ipv6/route.c, rt6_fill_node).
_IPV6_TAIL: Final = attribute(RTA_CACHEINFO, bytes(32)) + attribute(RTA_PREF, bytes(1))
_LOOPBACK: Final = _LINK.pack(8, RTA_OIF, 1)

_FAMILY_BY_VERSION: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}


def dump_request(version: int, protocol: int = ROUTE_PROTOCOL) -> bytes:
    """Return the body that asks for the main table's routes of a protocol; strict checking lets the kernel filter."""
    return RTMSG.pack(_FAMILY_BY_VERSION[version], 0, 0, 0, RT_TABLE_MAIN, protocol, 0, 0, 0)


def link_dump_request(version: int, link_index: int) -> bytes:
    """Return the body that asks for the main table's routes out of one link, whoever made them; it filters likewise."""
    head = RTMSG.pack(_FAMILY_BY_VERSION[version], 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    return head + attribute(RTA_OIF, _INDEX.pack(link_index))


def additions(routes: Iterable[KernelRoute]) -> list[bytes]:
    """Return the body of RTM_NEWROUTE for each route, with its attributes in the order in which a dump shows them."""
    # Many routes lead through few next hops; those live as long as this call, so their identity is theirs alone.
    ends_by_hop: dict[tuple[int, int, int], tuple[bytes, bytes]] = {}
    hops_before: tuple[NextHop, ...] = ()
    version = length = 0
    bodies = []
    for route in routes:
        prefix, _, hops = route
        if len(hops) != 1:
            ends, hops_before = _ends(route), ()
        elif hops is not hops_before or prefix.prefixlen != length or prefix.version != version:
            hops_before, version, length = hops, prefix.version, prefix.prefixlen
            key = (version, length, id(hops[0]))
            found = ends_by_hop.get(key)
            ends = ends_by_hop[key] = _ends(route) if found is None else found
        bodies.append(prefix.network_address.packed.join(ends))
    return bodies


def addition_series(routes: Iterable[KernelRoute], flags: Iterable[int]) -> Iterator[Series]:
    """Yield RTM_NEWROUTE for each route with its flags, in their order; the bodies are those of `additions`."""
    hops: tuple[NextHop, ...] | None = None
    mask = kind = its_flags = None
    addresses: list[IPAddress] = []
    first: KernelRoute | None = None
    for route, asked in zip(routes, flags, strict=True):
        prefix, its_kind, its_hops = route
        # Objects that many routes share tell runs of them apart; equal ones that are others make a run end early.
        if its_hops is not hops or prefix.netmask is not mask or its_kind is not kind or asked != its_flags:
            if first is not None:
                yield _series(RTM_NEWROUTE, its_flags or 0, addresses, *_ends(first))
            first, addresses = route, []
            hops, mask, kind, its_flags = its_hops, prefix.netmask, its_kind, asked
        addresses.append(prefix.network_address)
    if first is not None:
        yield _series(RTM_NEWROUTE, its_flags or 0, addresses, *_ends(first))


def removal_series(prefixes: Iterable[IPNetwork]) -> Iterator[Series]:
    """Yield RTM_DELROUTE for our route of each prefix, in their order, whatever its kind and next hops."""
    mask = None
    addresses: list[IPAddress] = []
    first: IPNetwork | None = None
    for prefix in prefixes:
        if prefix.netmask is not mask:
            if first is not None:
                yield _series(RTM_DELROUTE, 0, addresses, *_removal_ends(first))
            first, mask, addresses = prefix, prefix.netmask, []
        addresses.append(prefix.network_address)
    if first is not None:
        yield _series(RTM_DELROUTE, 0, addresses, *_removal_ends(first))


def _series(kind: int, flags: int, addresses: list[IPAddress], before: bytes, after: bytes) -> Series:
    if addresses[0].version == 4:  # noqa: PLR2004  the version of IP
        values, size = struct.pack(f">{len(addresses)}I", *map(int, addresses)), 4
    else:
        values, size = b"".join([address.packed for address in addresses]), 16
    return Series(kind, flags, before + bytes(size) + after, len(before), size, values)


def _ends(route: KernelRoute) -> tuple[bytes, bytes]:
    """Return what comes before the prefix's address in an addition, and what comes after it."""
    version, hops = route.prefix.version, route.next_hops
    kind, scope, how = RTN_UNICAST, RT_SCOPE_UNIVERSE, b""
    if route.kind is RouteKind.BLACKHOLE:
        kind = RTN_BLACKHOLE
    elif len(hops) == 1:
        how = _only(version, hops[0])
        if hops[0].gateway is None and version == 4:  # noqa: PLR2004  IPv6 routes have no scope
            scope = RT_SCOPE_LINK
    else:
        how = attribute(RTA_MULTIPATH, b"".join(_path(version, hop) for hop in hops))
    head = _HEAD.pack(
        _FAMILY_BY_VERSION[version], route.prefix.prefixlen, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, kind, 0,
        8, RTA_TABLE, RT_TABLE_MAIN,
        4 + route.prefix.max_prefixlen // 8, RTA_DST,
    )  # fmt: skip
    return head, _METRIC_ATTRIBUTE + how


def _only(version: int, hop: NextHop) -> bytes:
    link = _LINK.pack(8, RTA_OIF, hop.link_index)
    return link if hop.gateway is None else _gateway(version, hop.gateway) + link


def likely_dumps(routes: Iterable[KernelRoute], added: Iterable[bytes]) -> list[bytes]:
    """Return the bodies by which a dump most likely shows these routes, whose additions are `added`.

    A kernel that shows another body is understood as well, only more slowly (net/ipv4/fib_semantics.c, fib_dump_info;
    net/ipv6/route.c, rt6_fill_node).
    """
    return [
        body
        if route.prefix.version == 4  # noqa: PLR2004  the version of IP
        else body + (_LOOPBACK if route.kind is RouteKind.BLACKHOLE else b"") + _IPV6_TAIL
        for route, body in zip(routes, added, strict=True)
    ]


def _removal_ends(prefix: IPNetwork) -> tuple[bytes, bytes]:
    """Return what comes before the prefix's address in a removal, and what comes after it."""
    family = _FAMILY_BY_VERSION[prefix.version]
    head = _HEAD.pack(
        family, prefix.prefixlen, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, RT_SCOPE_NOWHERE, 0, 0,
        8, RTA_TABLE, RT_TABLE_MAIN,
        4 + prefix.max_prefixlen // 8, RTA_DST,
    )  # fmt: skip
    return head, _METRIC_ATTRIBUTE


def parsed(body: bytes) -> KernelRoute | None:
    """Return the route a dumped body describes, or None if it is not one of ours.

    A route with our mark of a form we never make (somebody changed it) has no next hops, and so equals none we want.
    """
    return heard(body)[1]


def heard(body: bytes) -> tuple[IPNetwork | None, KernelRoute | None]:
    """Return the prefix whose place in our routes a body describes, and the route if it is one of ours.

    Without a prefix the body is about something that is no concern of ours: another table or metric.
    """
    family, length, _, tos, table, protocol, _, kind, _ = RTMSG.unpack_from(body)
    found = dict(attributes(body, RTMSG.size))
    metric = _INDEX.unpack(found.get(RTA_PRIORITY, bytes(4)))[0]
    if (table, metric, tos) != (RT_TABLE_MAIN, ROUTE_METRIC, 0):
        return None, None
    prefix = _prefix(family, length, found)
    if protocol != ROUTE_PROTOCOL:
        return prefix, None
    if kind == RTN_BLACKHOLE:  # IPv6 shows blackholes on `lo`
        return prefix, KernelRoute(prefix, RouteKind.BLACKHOLE)
    if kind != RTN_UNICAST or RTA_PREFSRC in found or RTA_METRICS in found:
        return prefix, KernelRoute(prefix, RouteKind.UNICAST)
    hops = _paths(found[RTA_MULTIPATH]) if RTA_MULTIPATH in found else [_next_hop(found, _index(found))]
    return prefix, KernelRoute(prefix, RouteKind.UNICAST, tuple(sorted(hops, key=_order)))


def links_of(body: bytes) -> tuple[IPNetwork, frozenset[int]]:
    """Return the prefix of any route of the main table, and the links it leads out of."""
    found = dict(attributes(body, RTMSG.size))
    hops = _paths(found[RTA_MULTIPATH]) if RTA_MULTIPATH in found else [_next_hop(found, _index(found))]
    return _prefix(body[0], body[1], found), frozenset(hop.link_index for hop in hops)


class MainRoute(NamedTuple):
    """A route of the main table, whoever made it."""

    prefix: IPNetwork
    protocol: int
    metric: int
    next_hops: tuple[NextHop, ...]


def main_route(body: bytes) -> MainRoute:
    """Return what a dumped body says of a route of the main table; hops of a form we never make are left out."""
    family, length, _, _, _, protocol, _, _, _ = RTMSG.unpack_from(body)
    found = dict(attributes(body, RTMSG.size))
    hops = _paths(found[RTA_MULTIPATH]) if RTA_MULTIPATH in found else [_next_hop(found, _index(found))]
    metric = _INDEX.unpack(found.get(RTA_PRIORITY, bytes(4)))[0]
    return MainRoute(_prefix(family, length, found), protocol, metric, tuple(sorted(hops, key=_order)))


def _prefix(family: int, length: int, found: dict[int, bytes]) -> IPNetwork:
    if family == socket.AF_INET:
        return ipaddress.IPv4Network((found.get(RTA_DST, bytes(4)), length))
    return ipaddress.IPv6Network((found.get(RTA_DST, bytes(16)), length))


def _gateway(version: int, gateway: IPAddress) -> bytes:
    if gateway.version == version:
        return attribute(RTA_GATEWAY, gateway.packed)
    return attribute(RTA_VIA, _FAMILY.pack(_FAMILY_BY_VERSION[gateway.version]) + gateway.packed)


def _path(version: int, hop: NextHop) -> bytes:
    gateway = b"" if hop.gateway is None else _gateway(version, hop.gateway)
    return _NEXT_HOP.pack(_NEXT_HOP.size + len(gateway), 0, 0, hop.link_index) + gateway


def _paths(data: bytes) -> list[NextHop]:
    hops = []
    offset = 0
    while offset + _NEXT_HOP.size <= len(data):
        length, _, weight, link_index = _NEXT_HOP.unpack_from(data, offset)
        if weight:  # none of ours has one
            return []
        hops.append(_next_hop(dict(attributes(data[offset : offset + length], _NEXT_HOP.size)), link_index))
        offset += max((length + 3) & ~3, _NEXT_HOP.size)
    return hops


def _index(found: dict[int, bytes]) -> int:
    return int(_INDEX.unpack(found.get(RTA_OIF, bytes(4)))[0])


def _next_hop(found: dict[int, bytes], link_index: int) -> NextHop:
    # RTA_VIA holds a family of two bytes, then the address.
    packed = found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[_FAMILY.size :]
    return NextHop(ipaddress.ip_address(packed) if packed else None, link_index)


def _order(hop: NextHop) -> tuple[bytes, int]:
    return (hop.gateway.packed if hop.gateway else b"", hop.link_index)

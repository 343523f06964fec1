"""The routes in a workload's namespace, where other links may be as well: every address answers by its own link.

The host lets nothing through from a link but what has that link's addresses, so an answer that leaves by another link
is lost. A link that is alone has one default route, in the main table. One that is not has it behind those of the
others, for whoever does not care, and besides a way of its own: a table with a default route, and a rule that sends
there what has its address. The link takes its routes along when it goes; a rule that is left leads nowhere then, and is
passed over until it is removed.

Being alone is seen without a message more than the routes need. The kernel is asked for the way to somewhere far away,
and refuses if nobody has a default route; ours is created exclusively, so of several links that come at once only one
is alone. An IPv4 gateway is on the link by a flag of the route (`onlink`), which saves a route to it. The metric is one
that no other plugin's default route has: IPv4 would change between routes of one metric as it sees fit
(net/ipv4/fib_semantics.c, fib_select_default), and IPv6 would make one of them (ECMP).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from controller.errors import KernelRefused
from controller.kernel.link_messages import family
from controller.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, attribute, attributes
from controller.kernel.route_messages import (
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTMSG,
    RTN_UNICAST,
    dump_request,
    main_route,
)
from controller.ports import ROUTE_PROTOCOL, NextHop

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from controller.kernel.netlink import NetlinkSocket, Refusal
    from ipam.address import IPAddress

# include/uapi/linux/fib_rules.h, rtnetlink.h
_RTM_NEWRULE: Final = 32
_RTM_DELRULE: Final = 33
_RTM_GETRULE: Final = 34
_FRA_SRC: Final = 2
_FRA_PRIORITY: Final = 6
_FRA_TABLE: Final = 15
_FRA_PROTOCOL: Final = 21
_FR_ACT_TO_TBL: Final = 1
_RTNH_F_ONLINK: Final = 4
#: fib_rule_hdr: family, lengths of destination and source, TOS, table, reserved twice, action, flags.
_RULE: Final = struct.Struct("=BBBBBxxBI")
_NUMBER: Final = struct.Struct("=I")
_EXCLUSIVE: Final = NLM_F_CREATE | NLM_F_EXCL
_OR_REPLACE: Final = NLM_F_CREATE | NLM_F_REPLACE
_ANY_PROTOCOL: Final = 0

#: The metric of the default route of a link that is alone; others have 0 by default, or 1024 in IPv6.
_ALONE: Final = 1025
#: Right before the main table, so that what others want looked at before comes before it.
_RULE_PRIORITY: Final = 32765
#: What a link's index is added to for the number of its own table, far from those that anybody chooses by hand.
_TABLES: Final = 1_160_000
#: What only a default route leads to: addresses for documentation (RFC 5737, RFC 3849).
FAR_AWAY: Final = {4: ipaddress.ip_address("203.0.113.1"), 6: ipaddress.ip_address("2001:db8::1")}


class _Rule(NamedTuple):
    """A rule of ours: what comes from this address goes by this table."""

    source: IPAddress
    table: int


def question(version: int) -> Request:
    """Return the request that is refused if there is no default route of an IP version."""
    address = FAR_AWAY[version]
    head = RTMSG.pack(family(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return Request(RTM_GETROUTE, 0, head + attribute(RTA_DST, address.packed))


def default_route_alone(index: int, gateway: IPAddress) -> Request:
    """Return the request for the default route of a link that is alone, refused if another link of ours has one."""
    return _default_route(_EXCLUSIVE, index, gateway, _ALONE)


def is_alone(what: str, requests: Sequence[Request], refusals: Iterable[Refusal]) -> bool:
    """Tell whether a link is alone, by what was refused of requests with a question and default routes among them.

    Raises `KernelRefused` if anything else was; `what` says what they were for.
    """
    question_count = sum(request.kind == RTM_GETROUTE for request in requests)
    taken = False
    for position, number, text in refusals:
        kind = requests[position].kind
        if kind == RTM_GETROUTE:  # other errors tell of a route that drops what it matches
            question_count -= number == errno.ENETUNREACH
        elif (kind, number) == (RTM_NEWROUTE, errno.EEXIST):
            taken = True
        else:
            raise KernelRefused(f"{what} (step {position + 1})", number, text)
    return not taken and question_count == 0


def ensure_way_back(inside: NetlinkSocket, index: int, gateway_of: Mapping[IPAddress, IPAddress]) -> bool:
    """Give each address a way of its own where another link's default route comes first; tell whether any has one.

    `gateway_of` has the gateway for each address of the link.
    """
    behind = [
        address
        for address, gateway in gateway_of.items()
        if _first(inside, address.version) != (NextHop(gateway, index),)
    ]
    requests = [request for address in behind for request in _own_way(index, address, gateway_of[address])]
    for refusal in inside.exchange(requests):
        if (requests[refusal.position].kind, refusal.error_number) != (_RTM_NEWRULE, errno.EEXIST):
            raise KernelRefused(f"giving link {index} of the workload its own way", refusal.error_number, refusal.text)
    if behind:
        wanted = {_Rule(address, _table(index)) for address in gateway_of}
        _remove(inside, (rule for rule in _rules(inside) if rule not in wanted and _is_left(rule, index, gateway_of)))
    return bool(behind)


def remove_own_ways(inside: NetlinkSocket, index: int) -> None:
    """Remove the rules for the addresses of a link that is about to go, and of those that are gone."""
    _remove(inside, (rule for rule in _rules(inside) if _is_left(rule, index, ())))


def _first(inside: NetlinkSocket, version: int) -> tuple[NextHop, ...]:
    """Return the next hops of the default route, which of several is that of the least metric."""
    found = map(main_route, inside.dump(RTM_GETROUTE, dump_request(version, _ANY_PROTOCOL)))
    defaults = (route for route in found if route.prefix.prefixlen == 0)
    first = min(defaults, key=lambda route: route.metric, default=None)
    return () if first is None else first.next_hops


def _own_way(index: int, address: IPAddress, gateway: IPAddress) -> Iterator[Request]:
    yield _default_route(_OR_REPLACE, index, gateway, _ALONE + index)
    yield _default_route(_OR_REPLACE, index, gateway, 0, _table(index))
    yield Request(_RTM_NEWRULE, _EXCLUSIVE, _packed(_Rule(address, _table(index))))


def _is_left(rule: _Rule, index: int, addresses: Collection[IPAddress]) -> bool:
    """Tell whether a rule is for this link, for an address that it has by now, or for a link that is gone."""
    return rule.table == _table(index) or rule.source in addresses or not _exists(rule.table - _TABLES)


def _exists(index: int) -> bool:
    """Tell whether the namespace that this thread is in has a link of this index."""
    try:
        socket.if_indextoname(index)
    except (OSError, OverflowError):
        return False
    return True


def _rules(inside: NetlinkSocket) -> list[_Rule]:
    """Return the rules of ours, of both IP versions."""
    rules = []
    for body in inside.dump(_RTM_GETRULE, _RULE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0)):
        found = dict(attributes(body, _RULE.size))
        if found.get(_FRA_PROTOCOL) == bytes([ROUTE_PROTOCOL]) and _FRA_SRC in found and _FRA_TABLE in found:
            rules.append(_Rule(ipaddress.ip_address(found[_FRA_SRC]), _NUMBER.unpack(found[_FRA_TABLE])[0]))
    return rules


def _remove(inside: NetlinkSocket, rules: Iterable[_Rule]) -> None:
    for refusal in inside.exchange([Request(_RTM_DELRULE, 0, _packed(rule)) for rule in rules]):
        if refusal.error_number != errno.ENOENT:
            raise KernelRefused("removing a rule of the workload's", refusal.error_number, refusal.text)


def _packed(rule: _Rule) -> bytes:
    return (
        _RULE.pack(family(rule.source), 0, rule.source.max_prefixlen, 0, 0, _FR_ACT_TO_TBL, 0)
        + attribute(_FRA_SRC, rule.source.packed)
        + attribute(_FRA_PRIORITY, _NUMBER.pack(_RULE_PRIORITY))
        + attribute(_FRA_TABLE, _NUMBER.pack(rule.table))
        + attribute(_FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    )


def _default_route(flags: int, index: int, gateway: IPAddress, metric: int, table: int = RT_TABLE_MAIN) -> Request:
    onlink = _RTNH_F_ONLINK if gateway.version == 4 else 0  # noqa: PLR2004  IPv6's is link-local, and on it anyway
    scope, protocol = RT_SCOPE_UNIVERSE, ROUTE_PROTOCOL
    body = (
        RTMSG.pack(family(gateway), 0, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, onlink)
        + attribute(RTA_TABLE, _NUMBER.pack(table))
        + attribute(RTA_PRIORITY, _NUMBER.pack(metric))
        + attribute(RTA_GATEWAY, gateway.packed)
        + attribute(RTA_OIF, _NUMBER.pack(index))
    )
    return Request(RTM_NEWROUTE, flags, body)


def _table(index: int) -> int:
    return _TABLES + index

"""What this host's kernel has of everything that a packet to a workload depends on, read for a person who asks.

It keeps nothing and changes nothing, so that it says what is there whatever the agent remembers.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused
from controller.kernel import link_messages, route_messages
from controller.kernel.netlink import NetlinkSocket
from controller.ports import ROUTE_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from controller.kernel.route_messages import MainRoute
    from controller.ports import KernelRoute
    from ipam.address import IPAddress, IPNetwork

_FORWARDING: Final = {4: Path("/proc/sys/net/ipv4/ip_forward"), 6: Path("/proc/sys/net/ipv6/conf/all/forwarding")}
#: In a dump's request: routes of every protocol (RTPROT_UNSPEC).
_ANY_PROTOCOL: Final = 0
#: Where a route's protocol stands in its rtmsg.
_PROTOCOL_OFFSET: Final = 5


@dataclass(frozen=True, slots=True)
class WorkloadEnd:
    """The host's end of a workload's link; `wired` are the addresses of its permanent neighbours, IPv4 first."""

    up: bool
    wired: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What the kernel had; `others` are the routes of the main table that lie in the ranges asked for and are not ours.

    `device_names` maps the index of each link to its name, `ends` the name of each workload link of ours to what is
    known of it; `forwarding` says for each IP version that the kernel knows whether it forwards.
    """

    routes: tuple[KernelRoute, ...]
    others: tuple[MainRoute, ...]
    device_names: Mapping[int, str]
    ends: Mapping[str, WorkloadEnd]
    forwarding: Mapping[int, bool]


def inspect_kernel(ranges: Collection[IPNetwork]) -> KernelFacts:
    """Read the kernel of the namespace this thread is in; raises `KernelRefused` and `KernelUnavailable`."""
    with closing(NetlinkSocket()) as asked:
        bodies = [body for version in (4, 6) for body in _main_table(asked, version)]
        links = asked.dump(link_messages.RTM_GETLINK, link_messages.every_link_query())
        neighbours = asked.dump(link_messages.RTM_GETNEIGH, link_messages.neighbour_query())
    return KernelFacts(
        routes=tuple(filter(None, map(route_messages.parsed, bodies))),
        others=tuple(_others(bodies, ranges)),
        device_names={facts.index: facts.name for facts in map(link_messages.link_facts, links)},
        ends=_ends(links, neighbours),
        forwarding={
            version: path.read_text().strip() == "1" for version, path in _FORWARDING.items() if path.is_file()
        },
    )


def _main_table(asked: NetlinkSocket, version: int) -> list[bytes]:
    try:
        return asked.dump(route_messages.RTM_GETROUTE, route_messages.dump_request(version, _ANY_PROTOCOL))
    except KernelRefused as error:
        if error.error_number == errno.ENOENT:  # the main table is made with its first route
            return []
        raise


def _others(bodies: list[bytes], ranges: Collection[IPNetwork]) -> Iterator[MainRoute]:
    for body in bodies:
        if body[_PROTOCOL_OFFSET] != ROUTE_PROTOCOL:
            route = route_messages.main_route(body)
            if any(route.prefix.version == each.version and _lies_in(route.prefix, each) for each in ranges):
                yield route


def _lies_in(prefix: IPNetwork, around: IPNetwork) -> bool:
    return prefix.prefixlen >= around.prefixlen and prefix.network_address in around


def _ends(links: list[bytes], neighbours: list[bytes]) -> dict[str, WorkloadEnd]:
    wired: defaultdict[int, list[IPAddress]] = defaultdict(list)
    for index, address in filter(None, map(link_messages.permanent_neighbour_of, neighbours)):
        wired[index].append(address)
    return {
        facts.name: WorkloadEnd(
            link_messages.link_is_up(body),
            tuple(sorted(wired[facts.index], key=lambda address: (address.version, int(address)))),
        )
        for body, facts in ((body, link_messages.link_facts(body)) for body in links)
        if link_messages.is_workload_link(facts)
    }

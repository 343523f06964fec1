"""How a workload's link really is, both ends of it, read from the kernel and from nothing else."""

from __future__ import annotations

import errno
import ipaddress
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused
from controller.kernel import link_messages as message
from controller.kernel.container_routes import FAR_AWAY
from controller.kernel.namespaces import check_namespace, entered
from controller.kernel.netlink import NetlinkSocket, attribute, attributes
from controller.kernel.route_messages import (
    RTA_DST,
    RTA_GATEWAY,
    RTA_SRC,
    RTM_GETROUTE,
    RTMSG,
    links_of,
)
from controller.kernel.sysctls import ipv6_is_off, unguarded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ipam.address import IPAddress, IPNetwork

#: "Answer with the route that matches, not with a made-up one" (include/uapi/linux/rtnetlink.h).
_RTM_F_FIB_MATCH: Final = 0x2000
_MTU_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """One end of a link; `peer_index` is the other end's index in its own namespace (0: none)."""

    index: int
    peer_index: int
    kind: str
    mac: str
    mtu_bytes: int
    up: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour of one link."""

    link_index: int
    address: IPAddress
    mac: str


@dataclass(frozen=True, slots=True)
class Path:
    """A route: where it leads, through which gateway (None: directly) and out of which links."""

    prefix: IPNetwork
    gateway: IPAddress | None
    link_indexes: frozenset[int]


@dataclass(frozen=True, slots=True)
class HostSide:
    """The host's end (None: there is no such link) and what belongs to it.

    `path_to` has the route that a packet to each address would take, None without one; `wrong_settings` maps each
    sysctl that is not as it should be to what is and what should be.
    """

    end: LinkEnd | None
    neighbours: frozenset[Neighbour]
    path_to: Mapping[IPAddress, Path | None]
    wrong_settings: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ContainerSide:
    """The container's end (None: there is no such link) and what belongs to it, or to its namespace.

    `way_from` has the route that a packet from each address to somewhere far away would take, None without one.
    """

    end: LinkEnd | None
    addresses: frozenset[IPAddress]
    neighbours: frozenset[Neighbour]
    way_from: Mapping[IPAddress, Path | None]
    ipv6_off: bool


@dataclass(frozen=True, slots=True)
class LinkState:
    """Both ends of a workload's link."""

    host: HostSide
    container: ContainerSide


def inspect_link(
    namespace_descriptor: int, host_name: str, container_name: str, addresses: Collection[IPAddress]
) -> LinkState:
    """Return how the link is; changes nothing. For a thread, which enters the container's namespace and comes back.

    Raises `RefusedError` when the descriptor is no other network namespace, `KernelRefused` and `KernelUnavailable`.
    """
    check_namespace(namespace_descriptor)
    host = _host_side(host_name, addresses)
    with entered(namespace_descriptor):
        try:
            return LinkState(host, _container_side(container_name, addresses))
        except OSError as error:
            raise KernelRefused(f"reading link {container_name}", error.errno or 0, str(error)) from error


def _host_side(name: str, addresses: Collection[IPAddress]) -> HostSide:
    ipv6 = any(address.version == 6 for address in addresses)  # noqa: PLR2004  the IP version
    with closing(NetlinkSocket()) as asked:
        end = _end(asked, name)
        return HostSide(
            end=end,
            neighbours=_neighbours(asked),
            path_to={address: _path_to(asked, address) for address in addresses},
            wrong_settings={} if end is None else unguarded(name, ipv6=ipv6),
        )


def _container_side(name: str, addresses: Collection[IPAddress]) -> ContainerSide:
    with closing(NetlinkSocket()) as asked:
        end = _end(asked, name)
        return ContainerSide(
            end=end,
            addresses=frozenset() if end is None else _addresses(asked, end.index),
            neighbours=_neighbours(asked),
            way_from={address: _path_to(asked, FAR_AWAY[address.version], address) for address in addresses},
            ipv6_off=ipv6_is_off(name),
        )


def _end(asked: NetlinkSocket, name: str) -> LinkEnd | None:
    body = asked.get(message.RTM_GETLINK, message.link_query(name))
    if body is None:
        return None
    facts = message.link_facts(body)
    found = dict(attributes(body, message.IFINFOMSG.size))
    flags = message.IFINFOMSG.unpack_from(body)[3]
    return LinkEnd(
        index=facts.index,
        peer_index=facts.peer_index,
        kind=facts.kind,
        mac=found.get(message.IFLA_ADDRESS, b"").hex(":"),
        mtu_bytes=int.from_bytes(found.get(message.IFLA_MTU, bytes(_MTU_BYTES)), sys.byteorder),
        up=bool(flags & message.IFF_UP),
    )


def _addresses(asked: NetlinkSocket, index: int) -> frozenset[IPAddress]:
    found = (
        dict(attributes(body, message.IFADDRMSG.size))
        for body in asked.dump(message.RTM_GETADDR, message.address_query(index))
    )
    return frozenset(ipaddress.ip_address(each.get(message.IFA_LOCAL) or each[message.IFA_ADDRESS]) for each in found)


def _neighbours(asked: NetlinkSocket) -> frozenset[Neighbour]:
    neighbours = set()
    for body in asked.dump(message.RTM_GETNEIGH, message.neighbour_query()):
        permanent = message.permanent_neighbour_of(body)
        if permanent is not None:
            mac = dict(attributes(body, message.NDMSG.size)).get(message.NDA_LLADDR, b"").hex(":")
            neighbours.add(Neighbour(*permanent, mac))
    return frozenset(neighbours)


def _path_to(asked: NetlinkSocket, address: IPAddress, source: IPAddress | None = None) -> Path | None:
    length, source_length = address.max_prefixlen, 0 if source is None else source.max_prefixlen
    question = RTMSG.pack(message.family(address), length, source_length, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
    question += attribute(RTA_DST, address.packed) + (b"" if source is None else attribute(RTA_SRC, source.packed))
    try:
        body = asked.get(RTM_GETROUTE, question)
    except KernelRefused as refusal:
        # No route at all, one that drops what it matches, or a source that is nobody's address.
        if refusal.error_number in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES}:
            return None
        raise
    return None if body is None else _path(body)


def _path(body: bytes) -> Path:
    prefix, links = links_of(body)
    gateway = dict(attributes(body, RTMSG.size)).get(RTA_GATEWAY)
    return Path(prefix, None if gateway is None else ipaddress.ip_address(gateway), links)

"""Links, addresses and neighbours as rtnetlink requests, and links back; pure."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from controller.kernel.link_names import HOST_LINK_PREFIX
from controller.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    attributes,
    nested,
)
from controller.kernel.route_messages import RT_SCOPE_HOST, RT_SCOPE_UNIVERSE

if TYPE_CHECKING:
    from controller.ports import WorkloadLink
    from ipam.address import IPAddress

# include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h, veth.h, ip.h
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWNEIGH: Final = 28
RTM_GETNEIGH: Final = 30
IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_LINKINFO: Final = 18
_IFLA_AF_SPEC: Final = 26
_IFLA_GROUP: Final = 27
IFLA_NET_NS_FD: Final = 28
IFLA_EXT_MASK: Final = 29
_IFLA_NUM_TX_QUEUES: Final = 31
_IFLA_NUM_RX_QUEUES: Final = 32
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
_IFLA_INET_CONF: Final = 1
_IPV4_DEVCONF_FORWARDING: Final = 1
_IPV4_DEVCONF_RP_FILTER: Final = 8
_RTEXT_FILTER_SKIP_STATS: Final = 8
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
_IFA_F_NODAD: Final = 2
NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NUD_PERMANENT: Final = 0x80
IFF_UP: Final = 1
IFF_RUNNING: Final = 0x40

#: ifinfomsg: family, padding, type, index, flags, change mask.
IFINFOMSG: Final = struct.Struct("=BxHiII")
#: ifaddrmsg: family, prefix length, flags, scope, index.
IFADDRMSG: Final = struct.Struct("=BBBBI")
#: ndmsg: family, padding, index, state, flags, type.
NDMSG: Final = struct.Struct("=BxxxiHBB")
_NUMBER: Final = struct.Struct("=I")
_ONE: Final = _NUMBER.pack(1)
_CREATE_OR_REPLACE: Final = NLM_F_CREATE | NLM_F_REPLACE
_NO_SKIPPED_STATISTICS: Final = attribute(IFLA_EXT_MASK, _NUMBER.pack(_RTEXT_FILTER_SKIP_STATS))


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """What a link says of itself.

    `peer_index` is the other end's index in its own namespace (0: none), `group` a number that links can be marked by.
    """

    name: str
    index: int
    kind: str
    peer_index: int
    group: int


def family(address: IPAddress) -> int:
    """Return the address family number of an address."""
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)  # noqa: PLR2004  the IP version


def new_veth(link: WorkloadLink, host_mac: str, peer_namespace: int) -> Request:
    """Return the request for a pair whose peer is born in another namespace, with its final name.

    Moving a link between namespaces waits for every CPU (some 20 ms); a peer born there does not. The host's end is
    born up, so that whoever watches sees a new link and none that came back; nothing passes while the peer is down.
    Each end has one queue: nothing ever waits there, and the kernel takes as long for four of them as for all the rest.
    """
    alike = (
        attribute(IFLA_MTU, _NUMBER.pack(link.mtu_bytes))
        + attribute(_IFLA_NUM_TX_QUEUES, _ONE)
        + attribute(_IFLA_NUM_RX_QUEUES, _ONE)
    )
    peer = (
        IFINFOMSG.pack(0, 0, 0, 0, 0)
        + attribute(IFLA_IFNAME, _text(link.container_name))
        + attribute(IFLA_ADDRESS, _packed_mac(link.container_mac))
        + alike
        + attribute(IFLA_NET_NS_FD, _NUMBER.pack(peer_namespace))
    )
    body = (
        IFINFOMSG.pack(0, 0, 0, IFF_UP, IFF_UP)
        + attribute(IFLA_IFNAME, _text(link.host_name))
        + attribute(IFLA_ADDRESS, _packed_mac(host_mac))
        + alike
        + nested(
            IFLA_LINKINFO,
            attribute(_IFLA_INFO_KIND, b"veth"),
            nested(_IFLA_INFO_DATA, nested(_VETH_INFO_PEER, peer)),
        )
    )
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def link_up(index: int, mac: str, mtu_bytes: int) -> Request:
    """Return the request that gives a link its MAC address and MTU and brings it up."""
    body = (
        IFINFOMSG.pack(0, 0, index, IFF_UP, IFF_UP)
        + attribute(IFLA_ADDRESS, _packed_mac(mac))
        + attribute(IFLA_MTU, _NUMBER.pack(mtu_bytes))
    )
    return Request(RTM_NEWLINK, 0, body)


def up(index: int) -> Request:
    """Return the request that brings up a link that needs nothing else."""
    return Request(RTM_NEWLINK, 0, IFINFOMSG.pack(0, 0, index, IFF_UP, IFF_UP))


def group(index: int, number: int) -> Request:
    """Return the request that marks a link by the number of a group."""
    return Request(RTM_NEWLINK, 0, IFINFOMSG.pack(0, 0, index, 0, 0) + attribute(_IFLA_GROUP, _NUMBER.pack(number)))


def ipv4_guard(index: int) -> Request:
    """Return the request that lets the host forward for a workload's link, and the workload not spoof.

    A strict reverse path check lets a packet in only if the route back to its source leads out of the same link.
    """
    settings = nested(
        _IFLA_INET_CONF, attribute(_IPV4_DEVCONF_FORWARDING, _ONE), attribute(_IPV4_DEVCONF_RP_FILTER, _ONE)
    )
    specific = nested(_IFLA_AF_SPEC, nested(int(socket.AF_INET), settings))
    return Request(RTM_NEWLINK, 0, IFINFOMSG.pack(0, 0, index, 0, 0) + specific)


def link_removal(name: str) -> Request:
    """Return the request that removes a link by its name."""
    return Request(RTM_DELLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _text(name)))


def link_query(name: str) -> bytes:
    """Return the body of RTM_GETLINK for a link by its name."""
    return IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _text(name)) + _NO_SKIPPED_STATISTICS


def veth_query() -> bytes:
    """Return the body of an RTM_GETLINK dump of veth links; with strict checking the kernel filters them."""
    kind = nested(IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, b"veth"))
    return IFINFOMSG.pack(0, 0, 0, 0, 0) + kind + _NO_SKIPPED_STATISTICS


def every_link_query() -> bytes:
    """Return the body of an RTM_GETLINK dump of all links."""
    return IFINFOMSG.pack(0, 0, 0, 0, 0) + _NO_SKIPPED_STATISTICS


def link_is_up(body: bytes) -> bool:
    """Tell whether a dumped link is switched on and has somebody at its other end."""
    flags = IFINFOMSG.unpack_from(body)[3]
    return bool(flags & IFF_UP and flags & IFF_RUNNING)


def link_facts(body: bytes) -> LinkFacts:
    """Return what a dumped or reported link says of itself."""
    found = dict(attributes(body, IFINFOMSG.size))
    kind = dict(attributes(found.get(IFLA_LINKINFO, b""), 0)).get(_IFLA_INFO_KIND, b"")
    return LinkFacts(
        name=found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        index=IFINFOMSG.unpack_from(body)[2],
        kind=kind.rstrip(b"\0").decode(),
        peer_index=_NUMBER.unpack(found.get(IFLA_LINK, bytes(4)))[0],
        group=_NUMBER.unpack(found.get(_IFLA_GROUP, bytes(4)))[0],
    )


def is_workload_link(facts: LinkFacts) -> bool:
    """Tell whether this is the host's end of a workload's link of ours."""
    return facts.kind == "veth" and facts.name.startswith(HOST_LINK_PREFIX)


def host_address(index: int, address: IPAddress) -> Request:
    """Return the request that gives a link a /32 or /128; nobody else can have it, so IPv6 does not probe for it."""
    flags = 0 if address.version == 4 else _IFA_F_NODAD  # noqa: PLR2004  the IP version
    return Request(RTM_NEWADDR, _CREATE_OR_REPLACE, _address_body(index, address, address.max_prefixlen, flags))


def gateway_address(index: int, gateway: IPAddress) -> Request:
    """Return the request that has the host answer for a workload's gateway on its end of the link.

    An IPv4 address of host scope is never the source of what the host sends; IPv6 knows a link-local one by itself.
    """
    body = _address_body(index, gateway, gateway.max_prefixlen, _IFA_F_NODAD, RT_SCOPE_HOST)
    return Request(RTM_NEWADDR, _CREATE_OR_REPLACE, body)


def address_removal(index: int, address: IPAddress, prefix_length: int) -> Request:
    """Return the request that takes an address from a link."""
    return Request(RTM_DELADDR, 0, _address_body(index, address, prefix_length, 0))


def address_query(index: int) -> bytes:
    """Return the body of an RTM_GETADDR dump of one link (0: of all); with strict checking the kernel filters them."""
    return IFADDRMSG.pack(0, 0, 0, 0, index)


def permanent_neighbour(index: int, address: IPAddress, mac: str) -> Request:
    """Return the request for a neighbour that is never asked for, never ages and is never collected."""
    head = NDMSG.pack(family(address), index, NUD_PERMANENT, 0, 0)
    body = head + attribute(NDA_DST, address.packed) + attribute(NDA_LLADDR, _packed_mac(mac))
    return Request(RTM_NEWNEIGH, _CREATE_OR_REPLACE, body)


def neighbour_query() -> bytes:
    """Return the body of an RTM_GETNEIGH dump of every neighbour, of both families."""
    return NDMSG.pack(0, 0, 0, 0, 0)


def permanent_neighbour_of(body: bytes) -> tuple[int, IPAddress] | None:
    """Return the link's index and the address of a dumped neighbour; None for one that is not permanent."""
    _, index, state, _, _ = NDMSG.unpack_from(body)
    packed = dict(attributes(body, NDMSG.size)).get(NDA_DST)
    return None if packed is None or state != NUD_PERMANENT else (index, ipaddress.ip_address(packed))


def _address_body(
    index: int, address: IPAddress, prefix_length: int, flags: int, scope: int = RT_SCOPE_UNIVERSE
) -> bytes:
    head = IFADDRMSG.pack(family(address), prefix_length, flags, scope, index)
    return head + attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)


def _text(name: str) -> bytes:
    return name.encode() + b"\0"


def _packed_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))

"""The addresses of the host's interfaces, and the one that stands for the node.

pyroute2 runs an event loop of its own inside its calls, and the kernel may take its time: from asyncio code these
functions belong into a thread. What goes wrong is a `TortieError`, also a lack of descriptors.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from controller.errors import KernelRefused, KernelUnavailable
from controller.kernel.link_messages import (
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    IFADDRMSG,
    RTM_GETADDR,
    RTM_GETLINK,
    address_query,
    every_link_query,
    link_facts,
)
from controller.kernel.netlink import NetlinkSocket, attributes
from controller.kernel.node_address import chosen
from controller.kernel.route_messages import (
    RT_SCOPE_UNIVERSE,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PRIORITY,
    RTM_GETROUTE,
    RTMSG,
    dump_request,
)
from controller.ports import InterfaceAddress

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ipam.address import IPAddress

# include/uapi/linux/if_addr.h: a tentative or failed address may be somebody else's, and a temporary one, as only IPv6
# has them, changes daily; the same bit marks a second IPv4 address of a subnet. A deprecated one, past its preferred
# lifetime, is on its way out, but until then as good as others.
_IFA_F_TEMPORARY: Final = 0x01
_IFA_F_DADFAILED: Final = 0x08
_IFA_F_DEPRECATED: Final = 0x20
_IFA_F_TENTATIVE: Final = 0x40
_UNFIT: Final = _IFA_F_DADFAILED | _IFA_F_TENTATIVE
_UNFIT_BY_FAMILY: Final = {int(socket.AF_INET): _UNFIT, int(socket.AF_INET6): _UNFIT | _IFA_F_TEMPORARY}
_FAMILY_BY_VERSION: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
#: In a dump's request: routes of every protocol (RTPROT_UNSPEC).
_ANY_PROTOCOL: Final = 0
#: struct rtnexthop: length, flags, weight, link index.
_NEXT_HOP: Final = struct.Struct("=HBBi")
_SIOCGIFMTU: Final = 0x8921
#: struct ifreq as far as SIOCGIFMTU fills it: the name, the MTU, and the rest of the union.
_IFREQ: Final = struct.Struct("=16si20x")


def interface_addresses() -> tuple[InterfaceAddress, ...]:
    """Return every lasting address of this namespace's interfaces, in the kernel's order: primary ones first.

    Each of links and addresses are as of one instant; an address whose link came in between is left out.
    """
    with closing(NetlinkSocket()) as asked:
        links = map(link_facts, asked.dump(RTM_GETLINK, every_link_query()))
        name_by_index = {link.index: link.name for link in links}
        bodies = asked.dump(RTM_GETADDR, address_query(0))
    found = (_interface_address(body, name_by_index) for body in bodies)
    return tuple(address for address in found if address is not None)


def choose_node_address(method: str, version: int) -> InterfaceAddress:
    """Return this host's address of an IP version as the method says; see `node_address.METHODS`.

    Raises `RefusedError` that says what was found and how to set it.
    """
    return chosen(method, version, _Kernel())


def uplink_mtu(interfaces: Collection[str]) -> int:
    """Return the smallest MTU of these interfaces, in bytes: what fits through whichever way a packet takes."""
    try:
        asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise KernelUnavailable(f"the MTU of {', '.join(interfaces)} could not be asked for: {error}") from error
    with asked:
        return min(_mtu(asked, name) for name in interfaces)


class _Kernel:
    """This namespace as the choice of a node address sees it."""

    def addresses(self) -> tuple[InterfaceAddress, ...]:
        return interface_addresses()

    def default_route_links(self, version: int) -> list[int]:
        # Not pyroute2's get_default_routes: it ends at the first datagram of a dump in which there is none.
        try:
            with closing(NetlinkSocket()) as asked:
                bodies = asked.dump_as(RTM_GETROUTE, dump_request(version, _ANY_PROTOCOL), _default_routes)
        except KernelRefused as error:
            if error.error_number == errno.ENOENT:  # a namespace in which nobody has added a route yet has no table
                return []
            raise
        defaults = sorted((dict(attributes(body, RTMSG.size)) for body in bodies), key=_metric)
        return [index for found in defaults for index in _links_of(found)]

    def source_towards(self, destination: IPAddress) -> IPAddress | None:
        try:
            with IPRoute() as route:
                (found,) = route.route("get", dst=str(destination), family=_FAMILY_BY_VERSION[destination.version])
                source = found.get_attr("RTA_PREFSRC")
        except NetlinkError:  # ENETUNREACH and its kin: there is no route
            return None
        except OSError as error:
            raise KernelUnavailable(f"the way to {destination} could not be asked for: {error}") from error
        return None if source is None else ipaddress.ip_address(source)


def _default_routes(bodies: list[bytes]) -> list[bytes]:
    """Return those of the dumped routes whose prefix has no length."""
    return [body for body in bodies if RTMSG.unpack_from(body)[1] == 0]


def _metric(found: Mapping[int, bytes]) -> int:
    return int.from_bytes(found.get(RTA_PRIORITY, b""), sys.byteorder)


def _links_of(found: Mapping[int, bytes]) -> list[int]:
    """Return the links that a route with these attributes leads out of, in the order of its next hops."""
    if RTA_OIF in found:
        return [int.from_bytes(found[RTA_OIF], sys.byteorder)]
    hops, links = found.get(RTA_MULTIPATH, b""), []
    while len(hops) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hops)
        links.append(index)
        hops = hops[max((length + 3) & ~3, _NEXT_HOP.size) :]  # a length of nothing would never end this loop
    return links


def _interface_address(body: bytes, name_by_index: Mapping[int, str]) -> InterfaceAddress | None:
    """Return what a dumped address says; None for one of another family, of an unknown link or that will not last."""
    family, length, flags, scope, index = IFADDRMSG.unpack_from(body)
    found = dict(attributes(body, IFADDRMSG.size))
    if IFA_FLAGS in found:  # the flags beyond the eighth, too
        flags = int.from_bytes(found[IFA_FLAGS], sys.byteorder)
    unfit = _UNFIT_BY_FAMILY.get(family)
    if unfit is None or index not in name_by_index or flags & unfit:
        return None
    # On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL, where there is one, is always ours.
    address = ipaddress.ip_address(found.get(IFA_LOCAL) or found[IFA_ADDRESS])
    return InterfaceAddress(
        interface=name_by_index[index],
        link_index=index,
        address=address,
        network=ipaddress.ip_network((found[IFA_ADDRESS], length), strict=False),
        scope_global=scope == RT_SCOPE_UNIVERSE and not address.is_loopback,
        deprecated=bool(flags & _IFA_F_DEPRECATED),
    )


def _mtu(asked: socket.socket, name: str) -> int:
    try:
        answer = fcntl.ioctl(asked, _SIOCGIFMTU, _IFREQ.pack(name.encode(), 0))
    except OSError as error:
        raise KernelRefused(f"asking for the MTU of {name}", error.errno or 0, error.strerror or str(error)) from error
    return int(_IFREQ.unpack(answer)[1])

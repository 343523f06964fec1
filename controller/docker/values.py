"""Networks, endpoints and published ports of this host; pure."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from controller.kernel.link_names import LENT_LINK_PREFIX, container_mac, host_link_name

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from ipam.address import IPAddress, IPNetwork

#: What the handle of an address starts with until dockerd says for which endpoint it is.
REQUESTED: Final = "docker-request/"
_HANDLE: Final = "docker/"
#: Stands for the interface's name where link names are made: dockerd never tells it.
_INTERFACE: Final = "docker"
#: The third numbers of 169.254.x.y that gateways have: the first and last are reserved (RFC 3927, section 2.1), 1 is
#: that of CNI workloads, and clouds serve metadata and credentials at 169 and 170.
_GATEWAY_RANGES: Final = (*range(2, 169), *range(171, 255))
_PER_RANGE: Final = 254
#: How many networks of a host can have gateways of their own.
MAX_NETWORKS: Final = len(_GATEWAY_RANGES) * _PER_RANGE


class Protocol(IntEnum):
    """The protocols whose ports are published, by their numbers (IANA "Assigned Internet Protocol Numbers")."""

    TCP = 6
    UDP = 17
    SCTP = 132


@dataclass(frozen=True, slots=True)
class Binding:
    """A container's port that is wanted on one host port of a range; 0 to 0 is any.

    `host_address` is one of the host's, unspecified for all of one IP version, None for all of both.
    """

    protocol: Protocol
    port: int
    host_address: IPAddress | None
    first_host_port: int
    last_host_port: int


@dataclass(frozen=True, slots=True)
class Published:
    """A container's port that is reached at a port of the host; `host_address` as in `Binding`."""

    protocol: Protocol
    port: int
    host_address: IPAddress | None
    host_port: int

    def excludes(self, other: Published) -> bool:
        """Tell whether a connection could be meant for both."""
        if (self.protocol, self.host_port) != (other.protocol, other.host_port):
            return False
        one, two = self.host_address, other.host_address
        if one is None or two is None:
            return True
        return one.version == two.version and (one == two or one.is_unspecified or two.is_unspecified)


@dataclass(frozen=True, slots=True)
class Network:
    """A network of this host's dockerd.

    `cidrs` are its pools', /0 for whichever fits; `mtu_bytes` is 0 for the uplink's. `number` is its own among the
    networks of this host: a container of two networks needs two gateways.
    """

    network_id: str
    cidrs: tuple[IPNetwork, ...]
    internal: bool
    mtu_bytes: int
    number: int

    @property
    def ipv4_gateway(self) -> IPv4Address:
        """The next hop of the network's containers, on every link of them."""
        which, rest = divmod(self.number, _PER_RANGE)
        return ipaddress.IPv4Address((169 << 24) + (254 << 16) + (_GATEWAY_RANGES[which] << 8) + rest + 1)

    @property
    def ipv6_gateway(self) -> IPv6Address:
        """As for IPv4; a link-local address."""
        return ipaddress.IPv6Address((0xFE80 << 112) + (0xEEEE << 16) + self.number)

    def gateway(self, version: int) -> IPAddress:
        """Return the gateway of an IP version."""
        return self.ipv4_gateway if version == 4 else self.ipv6_gateway  # noqa: PLR2004  the IP version


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's attachment; `mac` is the container's.

    `given_up`: dockerd has released the addresses already, and they are free as soon as the endpoint goes. `sandbox` is
    what dockerd calls the namespace that its link goes into, the same for all networks of a container; empty before
    there is one.
    """

    network_id: str
    endpoint_id: str
    addresses: tuple[IPAddress, ...]
    mac: str
    published: tuple[Published, ...] = ()
    given_up: bool = False
    sandbox: str = ""

    @property
    def handle(self) -> str:
        """The handle of its addresses."""
        return f"{_HANDLE}{self.network_id}/{self.endpoint_id}"

    @property
    def host_name(self) -> str:
        """The name of its link on the host."""
        return link_name(self.endpoint_id)

    @property
    def lent_name(self) -> str:
        """The name of the link's other end until dockerd takes it: not one of a link that stays with us."""
        return LENT_LINK_PREFIX + hashlib.sha256(self.endpoint_id.encode()).hexdigest()[:12]


def given_up(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with its addresses released."""
    return replace(endpoint, given_up=True)


def link_name(endpoint_id: str) -> str:
    """Return the name of an endpoint's link on the host."""
    return host_link_name(endpoint_id, _INTERFACE)


def endpoint_mac(endpoint_id: str) -> str:
    """Return the container's MAC address where the user wants none."""
    return container_mac(endpoint_id, _INTERFACE)


def endpoint_of_handle(handle: str) -> str | None:
    """Return the endpoint that a handle is of, None for one of anything else."""
    parts = handle.split("/")
    return parts[2] if handle.startswith(_HANDLE) and len(parts) == 3 else None  # noqa: PLR2004  docker/NETWORK/ENDPOINT

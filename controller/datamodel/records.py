"""The JSON of nodes and of what operators write: pools, reservations, configuration.

Text becomes values here, or `MalformedRecord` is raised.
"""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from controller.datamodel import keys
from controller.datamodel.codec import decoded, encoded
from ipam.configuration import IpamConfiguration
from ipam.pool import AssignmentMode, Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address, IPv6Address

    from ipam.address import IPAddress


@dataclass(frozen=True, slots=True)
class Node:
    """A host that runs an agent. It has at least one address; sessions use IPv4 where both ends have it.

    Selectors match its `labels`. One with a `cluster_id` reflects routes (RFC 4456) and is no part of the mesh.
    """

    name: str
    as_number: int
    ipv4: IPv4Address | None
    ipv6: IPv6Address | None
    labels: Mapping[str, str] = field(default_factory=dict)
    cluster_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse a node that nobody could reach."""
        if self.ipv4 is None and self.ipv6 is None:
            raise ValueError(f"node {self.name} has neither an IPv4 nor an IPv6 address")

    def address(self, version: int) -> IPAddress | None:
        """Return the node's address of this IP version, if it has one."""
        return self.ipv4 if version == 4 else self.ipv6  # noqa: PLR2004  the IP version

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Every address of the node, IPv4 first."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


def encode_node(node: Node) -> bytes:
    """Return a node's record."""
    return encoded(
        {
            "name": node.name,
            "as_number": node.as_number,
            "ipv4": None if node.ipv4 is None else str(node.ipv4),
            "ipv6": None if node.ipv6 is None else str(node.ipv6),
            "labels": dict(node.labels),
            "cluster_id": node.cluster_id,
        }
    )


def decode_node(key: str, value: bytes) -> Node:
    """Return the node a record describes; raises `MalformedRecord`, also for a record that lies under a wrong key."""

    def build(fields: dict[str, Any]) -> Node:
        return Node(
            name=_own_name(fields, key, keys.node),
            as_number=int(fields["as_number"]),
            ipv4=None if fields.get("ipv4") is None else ipaddress.IPv4Address(fields["ipv4"]),
            ipv6=None if fields.get("ipv6") is None else ipaddress.IPv6Address(fields["ipv6"]),
            labels={str(label): str(value) for label, value in fields.get("labels", {}).items()},
            cluster_id=None if fields.get("cluster_id") is None else str(fields["cluster_id"]),
        )

    return decoded(key, value, build)


def encode_pool(pool: Pool) -> bytes:
    """Return a pool's record."""
    return encoded(
        {
            "name": pool.name,
            "cidr": str(pool.cidr),
            "block_prefix_length": pool.block_prefix_length,
            "disabled": pool.disabled,
            "assignment": pool.assignment.value,
            "node_selector": pool.node_selector,
            "nat_outgoing": pool.nat_outgoing,
            "disable_bgp_export": pool.disable_bgp_export,
            "communities": pool.communities,
        }
    )


def decode_pool(key: str, value: bytes) -> Pool:
    """Return the pool a record describes; raises `MalformedRecord`, also for a record that lies under a wrong key."""

    def build(fields: dict[str, Any]) -> Pool:
        return Pool(
            name=_own_name(fields, key, keys.pool),
            cidr=ipaddress.ip_network(fields["cidr"]),
            block_prefix_length=int(fields["block_prefix_length"]),
            disabled=bool(fields.get("disabled", False)),
            assignment=AssignmentMode(fields.get("assignment", "automatic")),
            node_selector=str(fields.get("node_selector", "all()")),
            nat_outgoing=bool(fields.get("nat_outgoing", False)),
            disable_bgp_export=bool(fields.get("disable_bgp_export", False)),
            communities=tuple((int(high), int(low)) for high, low in fields.get("communities", [])),
        )

    return decoded(key, value, build)


def encode_reservation(reservation: Reservation) -> bytes:
    """Return a reservation's record."""
    return encoded({"name": reservation.name, "cidrs": [str(cidr) for cidr in reservation.cidrs]})


def decode_reservation(key: str, value: bytes) -> Reservation:
    """Return the reservation a record describes; raises `MalformedRecord`, also for one under a wrong key."""

    def build(fields: dict[str, Any]) -> Reservation:
        name = _own_name(fields, key, keys.reservation)
        return Reservation(name, tuple(ipaddress.ip_network(cidr) for cidr in fields["cidrs"]))

    return decoded(key, value, build)


def encode_configuration(configuration: IpamConfiguration) -> bytes:
    """Return the record of the address management's configuration."""
    return encoded(asdict(configuration))


def decode_configuration(key: str, value: bytes) -> IpamConfiguration:
    """Return the configuration a record describes, defaults where it is silent; raises `MalformedRecord`."""

    def build(fields: dict[str, Any]) -> IpamConfiguration:
        default = IpamConfiguration()
        return IpamConfiguration(
            strict_affinity=bool(fields.get("strict_affinity", default.strict_affinity)),
            auto_allocate_blocks=bool(fields.get("auto_allocate_blocks", default.auto_allocate_blocks)),
            max_blocks_per_node=int(fields.get("max_blocks_per_node", default.max_blocks_per_node)),
            cooldown_seconds=int(fields.get("cooldown_seconds", default.cooldown_seconds)),
            sticky_seconds=int(fields.get("sticky_seconds", default.sticky_seconds)),
            grace_seconds=int(fields.get("grace_seconds", default.grace_seconds)),
        )

    return decoded(key, value, build)


def _own_name(fields: dict[str, Any], key: str, key_of: Callable[[str], str]) -> str:
    """Return the name in a record; raises ValueError when the record of that name has another key."""
    name = str(fields["name"])
    if key_of(name) != key:
        raise ValueError(f"it describes {name}, whose key is {key_of(name)}")
    return name

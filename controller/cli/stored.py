"""Under which key each kind of resource lies, and how its record is written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bgp.configuration import BgpConfiguration
from bgp.peering import Filter, PeerDefinition
from controller.datamodel import keys
from controller.datamodel.bgp_records import (
    decode_bgp_configuration,
    decode_filter,
    decode_peer,
    encode_bgp_configuration,
    encode_filter,
    encode_peer,
)
from controller.datamodel.records import (
    decode_configuration,
    decode_node,
    decode_pool,
    decode_reservation,
    encode_configuration,
    encode_pool,
    encode_reservation,
)
from controller.errors import MalformedRecord, RefusedError
from controller.resources import resource_document, versioned
from controller.resources.nodes import NodeDescription
from ipam.configuration import IpamConfiguration
from ipam.pool import Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.datamodel.records import Node
    from controller.ports import Version
    from controller.resources import Resource, Writable


def record_of(resource: Writable) -> tuple[str, bytes]:
    """Return the key and the value of a resource's record."""
    match resource:
        case Pool():
            return keys.pool(resource.name), encode_pool(resource)
        case Reservation():
            return keys.reservation(resource.name), encode_reservation(resource)
        case IpamConfiguration():
            return keys.IPAM_CONFIGURATION, encode_configuration(resource)
        case PeerDefinition():
            return keys.peer(resource.name), encode_peer(resource)
        case Filter():
            return keys.filter_rules(resource.name), encode_filter(resource)
        case BgpConfiguration():
            return keys.BGP_CONFIGURATION, encode_bgp_configuration(resource)


def key_of(resource: Resource) -> str:
    """Return the key of a resource's record."""
    return keys.node(resource.name) if isinstance(resource, NodeDescription) else record_of(resource)[0]


def resource_in(key: str, value: bytes) -> Resource:
    """Return the resource of a record under a key of `key_of`; raises `MalformedRecord`."""
    decode = next(decode for prefix, decode in _DECODER_BY_PREFIX.items() if key.startswith(prefix))
    return decode(key, value)


def document_in(key: str, value: bytes, version: Version) -> dict[str, object]:
    """Return the document of a record, with its version; raises `MalformedRecord`, also for what breaks a rule."""
    try:
        return versioned(resource_document(resource_in(key, value)), version)
    except RefusedError as error:
        raise MalformedRecord(key, str(error)) from error


def description_of(node: Node) -> NodeDescription:
    """Return what a document says of a node."""
    return NodeDescription(
        name=node.name,
        labels=dict(node.labels),
        as_number=node.as_number,
        ipv4_address=node.ipv4,
        ipv6_address=node.ipv6,
        cluster_id=node.cluster_id,
    )


_DECODER_BY_PREFIX: Final[Mapping[str, Callable[[str, bytes], Resource]]] = {
    keys.POOLS: decode_pool,
    keys.RESERVATIONS: decode_reservation,
    keys.IPAM_CONFIGURATION: decode_configuration,
    keys.PEERS: decode_peer,
    keys.FILTERS: decode_filter,
    keys.BGP_CONFIGURATION: decode_bgp_configuration,
    keys.NODES: lambda key, value: description_of(decode_node(key, value)),
}

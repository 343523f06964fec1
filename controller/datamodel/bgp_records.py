"""The JSON of what operators write about BGP: configuration, peers, filters, drains."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bgp.configuration import BgpConfiguration
from bgp.documents import read_rule, rule_document
from bgp.peering import MAX_PREFIXES, Filter, PeerDefinition
from controller.datamodel import keys
from controller.datamodel.codec import decoded, encoded

if TYPE_CHECKING:
    from ipam.address import IPAddress


@dataclass(frozen=True, slots=True)
class Drain:
    """A node that is to be routed around, since this time in seconds since the epoch.

    For `grace_seconds` it only asks its peers to prefer other ways (RFC 8326), then it withdraws what it announced.
    """

    node: str
    since: float
    grace_seconds: float


def encode_bgp_configuration(configuration: BgpConfiguration) -> bytes:
    """Return the record of the BGP configuration."""
    return encoded({"mesh": configuration.mesh})


def decode_bgp_configuration(key: str, value: bytes) -> BgpConfiguration:
    """Return the configuration a record describes; raises `MalformedRecord`."""
    return decoded(key, value, lambda fields: BgpConfiguration(mesh=bool(fields.get("mesh", True))))


def encode_peer(peer: PeerDefinition) -> bytes:
    """Return a peer's record, its password included."""
    return encoded(
        {
            "name": peer.name,
            "address": str(peer.address),
            "as_number": peer.as_number,
            "node": peer.node,
            "node_selector": peer.node_selector,
            "password": peer.password,
            "hold_time_seconds": peer.hold_time_seconds,
            "restart_time_seconds": peer.restart_time_seconds,
            "ttl_security_hops": peer.ttl_security_hops,
            "local_as": peer.local_as,
            "source_address": None if peer.source_address is None else str(peer.source_address),
            "next_hop_self": peer.next_hop_self,
            "passive": peer.passive,
            "filters": list(peer.filters),
            "max_prefixes": peer.max_prefixes,
        }
    )


def decode_peer(key: str, value: bytes) -> PeerDefinition:
    """Return the peer a record describes; raises `MalformedRecord`, also for a record that lies under a wrong key."""

    def build(fields: dict[str, Any]) -> PeerDefinition:
        name = str(fields["name"])
        if keys.peer(name) != key:
            raise ValueError(f"it describes {name}, whose key is {keys.peer(name)}")
        return PeerDefinition(
            name=name,
            address=ipaddress.ip_address(fields["address"]),
            as_number=int(fields["as_number"]),
            node=_text(fields, "node"),
            node_selector=_text(fields, "node_selector"),
            password=_text(fields, "password"),
            hold_time_seconds=_number(fields, "hold_time_seconds"),
            restart_time_seconds=_number(fields, "restart_time_seconds"),
            ttl_security_hops=_number(fields, "ttl_security_hops"),
            local_as=_number(fields, "local_as"),
            source_address=_address(fields, "source_address"),
            next_hop_self=bool(fields.get("next_hop_self", True)),
            passive=bool(fields.get("passive", False)),
            filters=tuple(str(each) for each in fields.get("filters", [])),
            max_prefixes=int(fields.get("max_prefixes", MAX_PREFIXES)),
        )

    return decoded(key, value, build)


def encode_filter(rules: Filter) -> bytes:
    """Return a filter's record."""
    imports, exports = map(rule_document, rules.imports), map(rule_document, rules.exports)
    return encoded({"name": rules.name, "imports": list(imports), "exports": list(exports)})


def decode_filter(key: str, value: bytes) -> Filter:
    """Return the filter a record describes; raises `MalformedRecord`, also for a record that lies under a wrong key."""

    def build(fields: dict[str, Any]) -> Filter:
        name = str(fields["name"])
        if keys.filter_rules(name) != key:
            raise ValueError(f"it describes {name}, whose key is {keys.filter_rules(name)}")
        return Filter(
            name=name,
            imports=tuple(read_rule(each) for each in fields.get("imports", [])),
            exports=tuple(read_rule(each) for each in fields.get("exports", [])),
        )

    return decoded(key, value, build)


def encode_drain(drain: Drain) -> bytes:
    """Return the record of a drain."""
    return encoded({"node": drain.node, "since": drain.since, "grace_seconds": drain.grace_seconds})


def decode_drain(key: str, value: bytes) -> Drain:
    """Return the drain a record describes; raises `MalformedRecord`, also for a record that lies under a wrong key."""

    def build(fields: dict[str, Any]) -> Drain:
        node = str(fields["node"])
        if keys.drain(node) != key:
            raise ValueError(f"it describes {node}, whose key is {keys.drain(node)}")
        return Drain(node, float(fields["since"]), float(fields["grace_seconds"]))

    return decoded(key, value, build)


def _text(fields: dict[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else str(fields[name])


def _number(fields: dict[str, Any], name: str) -> int | None:
    return None if fields.get(name) is None else int(fields[name])


def _address(fields: dict[str, Any], name: str) -> IPAddress | None:
    return None if fields.get(name) is None else ipaddress.ip_address(fields[name])

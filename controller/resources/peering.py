"""The kinds that say whom nodes speak BGP with: BGPPeer and BGPConfiguration."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from bgp.configuration import BgpConfiguration
from bgp.holding import MOST
from bgp.peering import MAX_PREFIXES, PeerDefinition
from controller.errors import RefusedError
from controller.resources.fields import (
    NAME_PATTERN,
    AsNumber,
    Distinct,
    Document,
    Metadata,
    OnlyMetadata,
    RouterAddress,
    Selector,
    spelled,
)

#: What the kernel takes as TCP MD5 key (TCP_MD5SIG_MAXKEYLEN in include/uapi/linux/tcp.h).
_MAX_PASSWORD_BYTES: Final = 80


def _password(text: str) -> str:
    # No message tells the value.
    if not 1 <= len(text.encode()) <= _MAX_PASSWORD_BYTES:
        raise ValueError(f"it must have 1 to {_MAX_PASSWORD_BYTES} bytes; leave it out for a session without password")
    if not text.isprintable():
        raise ValueError("it has a line break or another character that cannot be printed; remove it")
    return text


class PeerSpec(Document):
    """A router that nodes have a session with, besides the mesh: one node, those of a selector, or all."""

    peer_address: RouterAddress = Field(description="the peer's address, IPv4 or IPv6")
    peer_as: AsNumber = Field(alias="peerAS", description="the peer's AS number")
    node: str | None = Field(
        default=None,
        pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9.\-]{0,251}[a-zA-Z0-9])?$",
        description="the one node that has the session; without node and nodeSelector every node has it",
    )
    node_selector: Selector | None = Field(default=None, description="the nodes that have the session, by their labels")
    password: Annotated[str, AfterValidator(_password)] | None = Field(
        default=None, repr=False, description="TCP MD5 key of the session (RFC 2385), at most 80 bytes"
    )
    hold_time_seconds: int | None = Field(
        default=None, ge=3, le=65535, description="hold time (RFC 4271, section 4.2); the node's own unless set"
    )
    restart_time_seconds: int | None = Field(
        default=None,
        ge=1,
        le=4095,
        description="how long routes of a lost session are kept (RFC 4724, section 3); the node's own unless set",
    )
    ttl_security_hops: int | None = Field(
        default=None, ge=1, le=254, description="how many hops away the peer may be (RFC 5082), 1 for a neighbour"
    )
    local_as: AsNumber | None = Field(
        default=None, alias="localAS", description="AS number the nodes have in this session; their own unless set"
    )
    source_address: RouterAddress | None = Field(
        default=None, description="address the session starts from; the node's own of that IP version unless set"
    )
    next_hop: Annotated[Literal["self", "keep"], spelled("self", "keep")] = Field(
        default="self",
        description="next hop of the routes the peer is told: self is the session's own address, keep the node's",
    )
    passive: bool = Field(default=False, description="wait for the peer to connect")
    filters: Annotated[list[Annotated[str, Field(pattern=NAME_PATTERN)]], Distinct] = Field(
        default_factory=list,
        max_length=32,
        json_schema_extra={"uniqueItems": True},
        description="names of BGPFilters, tried in this order",
    )
    max_prefixes: int = Field(
        default=MAX_PREFIXES,
        ge=1,
        le=MOST,
        description="nothing is used of who announces more; behind a reflector each originator counts by itself",
    )


class PeerDocument(Document):
    """A peer as a user writes it."""

    api_version: Literal["tortie/v1"]
    kind: Literal["BGPPeer"]
    metadata: Metadata
    spec: PeerSpec


class BgpConfigurationSpec(Document):
    """What applies to every node."""

    node_to_node_mesh: bool = Field(
        default=True, description="each node has a session with each other one that is no route reflector"
    )


class BgpConfigurationDocument(Document):
    """The BGP configuration as a user writes it; what it does not name has its default."""

    api_version: Literal["tortie/v1"]
    kind: Literal["BGPConfiguration"]
    metadata: OnlyMetadata
    spec: BgpConfigurationSpec


def parse_peer(document: object) -> PeerDefinition:
    """Return the peer a document describes; raises `RefusedError` or pydantic's `ValidationError`."""
    written = PeerDocument.model_validate(document)
    spec = written.spec
    address = ipaddress.ip_address(spec.peer_address)
    source = None if spec.source_address is None else ipaddress.ip_address(spec.source_address)
    if spec.node is not None and spec.node_selector is not None:
        raise RefusedError("spec.node: spec.nodeSelector is set too; keep one of them, or none for every node")
    if source is not None and source.version != address.version:
        raise RefusedError(
            f"spec.sourceAddress: {source} and spec.peerAddress {address} are of different IP versions; a session has "
            f"one, so write an IPv{address.version} address"
        )
    if source == address:
        raise RefusedError(f"spec.sourceAddress: {source} is the peer's own address; write one of the node's")
    return PeerDefinition(
        name=written.metadata.name,
        address=address,
        as_number=spec.peer_as,
        node=spec.node,
        node_selector=spec.node_selector,
        password=spec.password,
        hold_time_seconds=spec.hold_time_seconds,
        restart_time_seconds=spec.restart_time_seconds,
        ttl_security_hops=spec.ttl_security_hops,
        local_as=spec.local_as,
        source_address=source,
        next_hop_self=spec.next_hop == "self",
        passive=spec.passive,
        filters=tuple(spec.filters),
        max_prefixes=spec.max_prefixes,
    )


def peer_spec(peer: PeerDefinition) -> PeerSpec:
    """Return the specification that describes a peer, its password included."""
    return PeerSpec(
        peerAddress=str(peer.address),
        peerAS=peer.as_number,
        node=peer.node,
        nodeSelector=peer.node_selector,
        password=peer.password,
        holdTimeSeconds=peer.hold_time_seconds,
        restartTimeSeconds=peer.restart_time_seconds,
        ttlSecurityHops=peer.ttl_security_hops,
        localAS=peer.local_as,
        sourceAddress=None if peer.source_address is None else str(peer.source_address),
        nextHop="self" if peer.next_hop_self else "keep",
        passive=peer.passive,
        filters=list(dict.fromkeys(peer.filters)),
        maxPrefixes=peer.max_prefixes,
    )


def parse_bgp_configuration(document: object) -> BgpConfiguration:
    """Return the BGP configuration a document describes; raises pydantic's `ValidationError`."""
    return BgpConfiguration(mesh=BgpConfigurationDocument.model_validate(document).spec.node_to_node_mesh)


def bgp_configuration_spec(configuration: BgpConfiguration) -> BgpConfigurationSpec:
    """Return the specification that describes a BGP configuration."""
    return BgpConfigurationSpec(nodeToNodeMesh=configuration.mesh)

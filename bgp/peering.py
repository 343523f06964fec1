"""Which peers a node has besides the mesh: what operators define, made into configured peers of one node."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bgp.peer import Peer, PeerOrigin
from bgp.topology import mesh_peers, router_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bgp.address import IPAddress
    from bgp.filter import Rule
    from bgp.topology import Router

#: What a node of the mesh may announce: its blocks of both IP versions and what it borrowed.
MAX_MESH_PREFIXES = 10_000
#: What another peer, or each one behind a reflector, may announce unless its definition says otherwise.
MAX_PREFIXES = 20_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Named rules: `imports` for what a peer announces, `exports` for what it is told, each in the order of trial."""

    name: str
    imports: tuple[Rule, ...] = ()
    exports: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerDefinition:
    """A peer as an operator defines it, for one node, for the nodes a selector matches, or for all.

    `node` names the one node; `node_selector` the nodes; with neither the peer is global. Times are in seconds, None
    for the node's own setting. `local_as` None is the node's AS number; `source_address` None the node's address of
    the peer's IP version. `ttl_security_hops` is how many hops away the peer may be (RFC 5082), None for no check.
    `next_hop_self`: the node's routes are told with the session's own address as next hop, otherwise with the node's.
    """

    name: str
    address: IPAddress
    as_number: int
    node: str | None = None
    node_selector: str | None = None
    password: str | None = field(default=None, repr=False)
    hold_time_seconds: int | None = None
    restart_time_seconds: int | None = None
    ttl_security_hops: int | None = None
    local_as: int | None = None
    source_address: IPAddress | None = None
    next_hop_self: bool = True
    passive: bool = False
    filters: tuple[str, ...] = ()
    max_prefixes: int = MAX_PREFIXES

    @property
    def origin(self) -> PeerOrigin:
        """Why a node has this peer."""
        return PeerOrigin.GLOBAL if self.node is None and self.node_selector is None else PeerOrigin.NODE


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """How a node keeps sessions unless a peer's definition says otherwise, in seconds."""

    hold_seconds: int
    restart_seconds: int


@dataclass(frozen=True, slots=True)
class Peering:
    """The peers of one node, ordered by address, and why a defined one is not among them (reason by its name)."""

    peers: tuple[Peer, ...]
    problems: Mapping[str, str] = field(default_factory=dict)


def peering(
    node: Router,
    nodes: Iterable[Router],
    definitions: Iterable[PeerDefinition],
    *,
    filter_by_name: Mapping[str, Filter],
    times: SessionTimes,
    mesh: bool,
) -> Peering:
    """Return the peers of a node: the mesh, if it is on and the node is in it, and those defined for this node.

    `definitions` are those that concern the node. One for the node itself or its selector comes before a global one
    of the same address, and each of them before the mesh. A definition that names a filter which does not exist, or
    has no source address here, makes no peer: a session without its filters could let in what it must not.
    """
    in_mesh = mesh and node.cluster_id is None
    others = [other for other in nodes if other.cluster_id is None] if in_mesh else []
    by_address = {peer.address: _timed(peer, times) for peer in mesh_peers(node, others)}
    problems: dict[str, str] = {}
    # The last one written for an address counts: global ones first, then the node's own, by name.
    for definition in sorted(definitions, key=lambda each: (each.origin is PeerOrigin.NODE, each.name)):
        if definition.address in (node.ipv4, node.ipv6):
            continue  # a global peer that is one of the nodes has no session with itself
        made = _defined(node, definition, filter_by_name, times)
        if isinstance(made, str):
            problems[definition.name] = made
        else:
            by_address[made.address] = made
    ordered = sorted(by_address.values(), key=lambda peer: (peer.address.version, int(peer.address)))
    return Peering(tuple(ordered), problems)


def _timed(peer: Peer, times: SessionTimes) -> Peer:
    """Return a peer of the mesh with the node's times."""
    return replace(
        peer,
        max_prefixes=MAX_MESH_PREFIXES,
        hold_time_seconds=times.hold_seconds,
        restart_time_seconds=times.restart_seconds,
    )


def _defined(
    node: Router, definition: PeerDefinition, filter_by_name: Mapping[str, Filter], times: SessionTimes
) -> Peer | str:
    """Return the peer, or the reason why it cannot be had."""
    missing = [name for name in definition.filters if name not in filter_by_name]
    if missing:
        return f"filter {', '.join(missing)} does not exist; create it or remove it from the peer"
    local = definition.source_address or (node.ipv4 if definition.address.version == 4 else node.ipv6)  # noqa: PLR2004  IP version
    if local is None:
        return f"the node has no IPv{definition.address.version} address; set sourceAddress or give the node one"
    filters = [filter_by_name[name] for name in definition.filters]
    return Peer(
        address=definition.address,
        local_address=local,
        local_as=definition.local_as or node.as_number,
        peer_as=definition.as_number,
        router_id=router_id(node),
        origin=definition.origin,
        passive=definition.passive,
        hold_time_seconds=definition.hold_time_seconds or times.hold_seconds,
        restart_time_seconds=definition.restart_time_seconds or times.restart_seconds,
        password=definition.password,
        ttl_security_hops=definition.ttl_security_hops,
        next_hop_self=definition.next_hop_self,
        max_prefixes=definition.max_prefixes,
        import_rules=tuple(rule for each in filters for rule in each.imports),
        export_rules=tuple(rule for each in filters for rule in each.exports),
    )

"""What the agent wants of the kernel and of the speaker, as one function of everything it knows."""

from __future__ import annotations

import functools
import ipaddress
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from bgp.advertisement import announcements
from bgp.decision import best
from bgp.peering import peering
from bgp.policy import Rejection, accept, policy_context
from bgp.prefixes import PrefixSet
from bgp.topology import Router
from controller.reconcile.desired import block_routes, device_of, learned_routes, workload_routes
from controller.reconcile.difference import DesiredRoutes, Sweep
from ipam.errors import InvalidSelector
from ipam.selector import selects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgp.peer import Peer
    from bgp.peering import PeerDefinition, Peering, SessionTimes
    from bgp.route import Announcement, LearnedRoute
    from controller.agent.cluster import Cluster
    from controller.datamodel.records import Node
    from controller.ports import InterfaceAddress
    from controller.reconcile.desired import Unresolved
    from ipam.address import IPAddress, IPNetwork


#: How many prefixes are named of those that a rule refused.
_EXAMPLES: Final = 5


class DrainPhase(Enum):
    """How far a node is with letting itself be routed around."""

    NONE = "not drained"
    ASKING = "asking to be routed around"
    WITHDRAWN = "announcing nothing"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Everything a decision rests on, as of one moment.

    `peers` are those configured, and `route_count_by_peer` says how much each announced. `link_of` maps each address
    that a workload of this node holds to the name of its link; `index_of` maps the name of each link that exists to
    its index; `learned` maps each prefix to all routes for it; `settled` says whether what is not among them is really
    gone.
    """

    node: Node
    cluster: Cluster
    peers: tuple[Peer, ...]
    route_count_by_peer: Mapping[IPAddress, int]
    own_blocks: tuple[IPNetwork, ...]
    link_of: Mapping[IPAddress, str]
    index_of: Mapping[str, int]
    interfaces: tuple[InterfaceAddress, ...]
    learned: Mapping[IPNetwork, tuple[LearnedRoute, ...]]
    settled: bool
    drain: DrainPhase


@dataclass(frozen=True, slots=True)
class RejectedRoutes:
    """How many routes of one peer were refused by one rule, and the first prefixes of them."""

    peer: IPAddress
    reason: Rejection
    count: int
    examples: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows: the kernel's routes, what is announced, and what was left out and why.

    `drain` is how far the node was with its drain.
    """

    routes: DesiredRoutes
    announcements: tuple[Announcement, ...]
    learned_count: int
    rejected: tuple[RejectedRoutes, ...]
    unresolved: tuple[Unresolved, ...]
    drain: DrainPhase = DrainPhase.NONE


def peers_of(node: Node, cluster: Cluster, times: SessionTimes) -> Peering:
    """Return this node's sessions: with the other nodes, if they form a mesh, and with the peers defined for it."""
    return peering(
        _router(node),
        [_router(other) for other in cluster.nodes.values()],
        [definition for definition in cluster.peers.values() if _concerns(definition, node)],
        filter_by_name=cluster.filters,
        times=times,
        mesh=cluster.bgp_configuration.mesh,
    )


def _concerns(definition: PeerDefinition, node: Node) -> bool:
    if definition.node is not None:
        return definition.node == node.name
    try:
        return definition.node_selector is None or selects(definition.node_selector, node.labels)
    except InvalidSelector:
        return False  # such a record was not written by tortiectl, which checks it


def decide(known: Knowledge) -> Decision:
    """Return what follows from what is known; the same knowledge always gives the same decision."""
    routable, rejected = _accepted(known)
    learned, unresolved = learned_routes(routable, known.interfaces)
    routes = {**learned, **block_routes(known.own_blocks), **workload_routes(known.link_of, known.index_of)}
    return Decision(
        routes=DesiredRoutes(routes, Sweep.EVERYTHING if known.settled else Sweep.LOCAL),
        announcements=_announced(known),
        learned_count=len(learned),
        rejected=rejected,
        unresolved=unresolved,
        drain=known.drain,
    )


def _accepted(
    known: Knowledge,
) -> tuple[dict[IPNetwork, tuple[LearnedRoute, ...]], tuple[RejectedRoutes, ...]]:
    """Return the best of the accepted routes for each prefix, and which were refused by each rule."""
    context = policy_context(
        local_as=known.node.as_number,
        pools=(pool.cidr for pool, _ in known.cluster.pools.values()),
        own_blocks=known.own_blocks,
        own_addresses=known.node.addresses,
        next_hops=(
            address
            for other in known.cluster.nodes.values()
            if other.name != known.node.name
            for address in other.addresses
        ),
        held=(ipaddress.ip_network(address) for address in known.link_of),
        subnets=(interface.network for interface in known.interfaces if interface.scope_global),
        rules_by_peer={peer.address: peer.import_rules for peer in known.peers if peer.import_rules},
        local_as_by_peer={peer.address: peer.local_as for peer in known.peers if peer.local_as != known.node.as_number},
        block_length_of={pool.cidr: pool.block_prefix_length for pool, _ in known.cluster.pools.values()},
    )
    overfull = _overfull(known)
    external = frozenset(peer.address for peer in known.peers if peer.peer_as != peer.local_as)
    reachable = functools.cache(lambda next_hop: device_of(next_hop, known.interfaces) is not None)
    counts: Counter[tuple[IPAddress, Rejection]] = Counter()
    examples: dict[tuple[IPAddress, Rejection], list[IPNetwork]] = {}
    routable = {}
    for prefix, routes in known.learned.items():
        good = []
        for route in routes:
            reason = Rejection.TOO_MANY_PREFIXES if route.peer in overfull else accept(route, context)
            if reason is None:
                good.append(route)
                continue
            counts[route.peer, reason] += 1
            if counts[route.peer, reason] <= _EXAMPLES:
                examples.setdefault((route.peer, reason), []).append(prefix)
        if good:
            routable[prefix] = best(good, external=external, reachable=reachable)
    return routable, tuple(
        RejectedRoutes(peer, reason, count, tuple(examples[peer, reason])) for (peer, reason), count in counts.items()
    )


def _overfull(known: Knowledge) -> frozenset[IPAddress]:
    """Return the peers that announce more than they may."""
    return frozenset(
        peer.address
        for peer in known.peers
        if peer.max_prefixes is not None and known.route_count_by_peer.get(peer.address, 0) > peer.max_prefixes
    )


def _announced(known: Knowledge) -> tuple[Announcement, ...]:
    """Return the node's blocks, and each address it holds outside of them; nothing once it is drained."""
    if known.drain is DrainPhase.WITHDRAWN:
        return ()
    pools = [pool for pool, _ in known.cluster.pools.values()]
    own = PrefixSet(known.own_blocks)
    held = (ipaddress.ip_network(address) for address in known.link_of)
    return announcements(
        _router(known.node),
        blocks=known.own_blocks,
        addresses=(prefix for prefix in held if not own.covers(prefix)),
        unexported=(pool.cidr for pool in pools if pool.disable_bgp_export),
        communities_of=((pool.cidr, pool.communities) for pool in pools),
        draining=known.drain is DrainPhase.ASKING,
    )


def _router(node: Node) -> Router:
    return Router(node.name, node.as_number, node.ipv4, node.ipv6, node.cluster_id)

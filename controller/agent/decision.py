"""What the agent wants of the kernel and of the speaker, as one function of everything it knows."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bgp.advertisement import announcements
from bgp.decision import best
from bgp.policy import accept, policy_context
from bgp.prefixes import PrefixSet
from bgp.topology import Router, mesh_peers
from controller.reconcile.desired import block_routes, learned_routes, workload_routes
from controller.reconcile.difference import DesiredRoutes, Sweep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgp.peer import Peer
    from bgp.policy import Rejection
    from bgp.route import Announcement, LearnedRoute
    from controller.agent.cluster import Cluster
    from controller.datamodel.records import Node
    from controller.ports import InterfaceAddress
    from controller.reconcile.desired import Unresolved
    from ipam.address import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Timing:
    """How the sessions of this node are kept, in seconds."""

    hold_seconds: int
    restart_seconds: int


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Everything a decision rests on, as of one moment.

    `link_of` maps each address that a workload of this node holds to the name of its link; `index_of` maps the name of
    each link that exists to its index; `learned` maps each prefix to all routes for it; `settled` says whether what
    is not among them is really gone.
    """

    node: Node
    cluster: Cluster
    own_blocks: tuple[IPNetwork, ...]
    link_of: Mapping[IPAddress, str]
    index_of: Mapping[str, int]
    interfaces: tuple[InterfaceAddress, ...]
    learned: Mapping[IPNetwork, tuple[LearnedRoute, ...]]
    settled: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows: the kernel's routes, what is announced, and what was left out and why."""

    routes: DesiredRoutes
    announcements: tuple[Announcement, ...]
    learned_count: int
    rejected: Mapping[Rejection, int]
    unresolved: tuple[Unresolved, ...]


def peers_of(node: Node, cluster: Cluster, timing: Timing) -> tuple[Peer, ...]:
    """Return this node's sessions: one with every other node of the cluster."""
    peers = mesh_peers(_router(node), [_router(other) for other in cluster.nodes.values()])
    return tuple(
        replace(peer, hold_time_seconds=timing.hold_seconds, restart_time_seconds=timing.restart_seconds)
        for peer in peers
    )


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
    )


def _accepted(known: Knowledge) -> tuple[dict[IPNetwork, tuple[LearnedRoute, ...]], Counter[Rejection]]:
    """Return the best of the accepted routes for each prefix, and how many were refused by each rule."""
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
    )
    rejected: Counter[Rejection] = Counter()
    routable = {}
    for prefix, routes in known.learned.items():
        good = []
        for route in routes:
            reason = accept(route, context)
            if reason is None:
                good.append(route)
            else:
                rejected[reason] += 1
        if good:
            routable[prefix] = best(good)
    return routable, rejected


def _announced(known: Knowledge) -> tuple[Announcement, ...]:
    """Return the node's blocks, and each address it holds outside of them."""
    own = PrefixSet(known.own_blocks)
    held = (ipaddress.ip_network(address) for address in known.link_of)
    return announcements(
        _router(known.node),
        blocks=known.own_blocks,
        addresses=(prefix for prefix in held if not own.covers(prefix)),
        unexported=(pool.cidr for pool, _ in known.cluster.pools.values() if pool.disable_bgp_export),
    )


def _router(node: Node) -> Router:
    return Router(node.name, node.as_number, node.ipv4, node.ipv6)

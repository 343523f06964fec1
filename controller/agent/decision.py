"""What the agent wants of the kernel and of the speaker, as one function of everything it knows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from bgp.advertisement import announcements
from bgp.limits import is_crowded, overfull
from bgp.peering import peering
from bgp.policy import RejectedRoutes
from bgp.prefixes import PrefixSet
from bgp.topology import Router, router_id
from controller.agent.selection import Grounds, Selection
from controller.datamodel import keys
from controller.reconcile.desired import block_routes
from controller.reconcile.difference import DesiredRoutes, Sweep
from ipam.errors import InvalidSelector
from ipam.selector import selects

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bgp.limits import Overfull, Speaker
    from bgp.peer import Peer
    from bgp.peering import PeerDefinition, Peering, SessionTimes
    from bgp.policy import Rejection
    from bgp.route import Announcement, LearnedRoute
    from controller.agent.cluster import Cluster
    from controller.agent.workloads import Workloads
    from controller.datamodel.records import Node
    from controller.ports import InterfaceAddress
    from controller.reconcile.desired import Unresolved
    from ipam.address import IPAddress, IPNetwork


#: The keys, or how they begin, of the records that sessions and the use of learned routes rest on.
_ROUTING_RECORDS: Final = (keys.POOLS, keys.NODES, keys.PEERS, keys.FILTERS, keys.BGP_CONFIGURATION)
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

    `own_blocks` are also those of which nothing but the owner is known; what the kernel has for addresses of `unread`
    blocks may be right, and is left alone.
    `peers` are those configured, and `counts_by_peer` says how much is announced through each, and by whom. `learned`
    maps each prefix to all routes for it; `settled` says whether what is not among them is really gone. `speaking` are
    the peers that the speaker was heard to have a session with, None before it was heard, `rejected` is what it does
    not pass on. Of `touched` prefixes the routes may be others than at the decision before, of any if it is None.
    """

    node: Node
    cluster: Cluster
    peers: tuple[Peer, ...]
    counts_by_peer: Mapping[IPAddress, Mapping[Speaker, int]]
    own_blocks: tuple[IPNetwork, ...]
    workloads: Workloads
    interfaces: tuple[InterfaceAddress, ...]
    learned: Mapping[IPNetwork, tuple[LearnedRoute, ...]]
    settled: bool
    drain: DrainPhase
    unread: tuple[IPNetwork, ...] = ()
    speaking: frozenset[IPAddress] | None = None
    rejected: tuple[RejectedRoutes, ...] = ()
    touched: Collection[IPNetwork] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows: the kernel's routes, what is announced, and what was left out and why.

    `drain` is how far the node was with its drain. `leaves_speaker` says that a speaker which goes on as it was before
    the agent started is better off: records cannot be read, and without them it would lose what may well be wanted.
    """

    routes: DesiredRoutes
    announcements: tuple[Announcement, ...]
    learned_count: int
    rejected: tuple[RejectedRoutes, ...]
    unresolved: tuple[Unresolved, ...]
    drain: DrainPhase = DrainPhase.NONE
    leaves_speaker: bool = False


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


def decide(known: Knowledge, selection: Selection | None = None) -> Decision:
    """Return what follows from what is known; the same knowledge always gives the same decision.

    `selection` remembers what followed before and makes it faster, nothing else.
    """
    chosen = Selection() if selection is None else selection
    chosen.update(_grounds(known), known.workloads.held, known.learned, known.touched)
    routes = chosen.routes()
    learned_count = len(routes)
    routes |= block_routes(known.own_blocks)
    routes |= known.workloads.routes
    announced = _announced(known)
    may_sweep_all = known.settled and not _unread(known.cluster)
    return Decision(
        routes=DesiredRoutes(routes, Sweep.EVERYTHING if may_sweep_all else Sweep.LOCAL, spared=known.unread),
        announcements=announced,
        learned_count=learned_count,
        rejected=(*known.rejected, *_rejected(chosen)),
        unresolved=chosen.unresolved(),
        drain=known.drain,
        leaves_speaker=_leaves_speaker(known, announced),
    )


def _unread(cluster: Cluster) -> list[str]:
    """Return the keys of unread records that sessions and the use of learned routes rest on."""
    return [key for key in cluster.unread if key.startswith(_ROUTING_RECORDS)]


def _leaves_speaker(known: Knowledge, announced: tuple[Announcement, ...]) -> bool:
    """Say whether to tell the speaker what is known could end what unread records ask for.

    That is a session of which nothing is known here (its peer, the peer's filter or the node cannot be read), or what
    an unread pool asks of the announcements inside it. Whether there is a mesh or a drain must be known at all.
    """
    unread, is_drain_unread = _unread(known.cluster), keys.drain(known.node.name) in known.cluster.unread
    if not unread and not is_drain_unread:
        return False
    if known.speaking is None or is_drain_unread or keys.BGP_CONFIGURATION in unread:
        return True
    if not known.speaking <= {peer.address for peer in known.peers}:
        return True
    pools = PrefixSet(pool.cidr for pool, _ in known.cluster.pools.values())
    return any(key.startswith(keys.POOLS) for key in unread) and not all(
        pools.covers(each.prefix) for each in announced
    )


def _grounds(known: Knowledge) -> Grounds:
    return Grounds(
        as_number=known.node.as_number,
        own_addresses=known.node.addresses,
        own_blocks=known.own_blocks,
        interfaces=known.interfaces,
        next_hops=frozenset(
            address
            for other in known.cluster.nodes.values()
            if other.name != known.node.name
            for address in other.addresses
        ),
        block_length_of={pool.cidr: pool.block_prefix_length for pool, _ in known.cluster.pools.values()},
        peers=known.peers,
        overfull=_overfull(known),
    )


def _rejected(selection: Selection) -> tuple[RejectedRoutes, ...]:
    prefixes: dict[tuple[IPAddress, Rejection], list[IPNetwork]] = {}
    for prefix, peer, reason in selection.refused():
        prefixes.setdefault((peer, reason), []).append(prefix)
    return tuple(
        RejectedRoutes(peer, reason, len(found), tuple(found[:_EXAMPLES])) for (peer, reason), found in prefixes.items()
    )


def _overfull(known: Knowledge) -> Overfull | None:
    """Return who announces more than it may; None if nobody does."""
    crowded = [peer for peer in known.peers if is_crowded(peer, known.counts_by_peer.get(peer.address, {}))]
    if not crowded:
        return None
    identifiers = frozenset(router_id(_router(node)) for node in known.cluster.nodes.values())
    return overfull(crowded, known.counts_by_peer, identifiers)


def _announced(known: Knowledge) -> tuple[Announcement, ...]:
    """Return the node's blocks, and each address it holds outside of them; nothing once it is drained.

    A block that another node announces, too, counts as outside. Its former owner may still do so: a sidecar announces
    on while its agent is dead. The more specific routes win.
    """
    if known.drain is DrainPhase.WITHDRAWN:
        return ()
    pools = [pool for pool, _ in known.cluster.pools.values()]
    alone = [block for block in known.own_blocks if not _contested(known, block)]
    own = PrefixSet(alone)
    # Going through all that is held takes long on a full node, and a contested block is rare.
    outside = known.workloads.borrowed if len(alone) == len(known.own_blocks) else known.workloads.held
    return announcements(
        _router(known.node),
        blocks=known.own_blocks,
        addresses=(prefix for prefix in outside if not own.covers(prefix)),
        unexported=(pool.cidr for pool in pools if pool.disable_bgp_export),
        communities_of=((pool.cidr, pool.communities) for pool in pools),
        draining=known.drain is DrainPhase.ASKING,
    )


def _contested(known: Knowledge, block: IPNetwork) -> bool:
    """Say whether another node announces the block, by a node or a reflector.

    What others tell in a node's name does not count: they could only make this one say more than it needs to.
    """
    routes = known.learned.get(block)
    if not routes:
        return False
    others = (node for node in known.cluster.nodes.values() if node.name != known.node.name)
    as_of = {address: node.as_number for node in others for address in node.addresses}
    # Nodes may be of several ASes: of those the node itself is heard, in its own AS.
    heard = {peer.address for peer in known.peers if peer.peer_as in (peer.local_as, as_of.get(peer.address))}
    return any(route.peer in heard and route.next_hop in as_of for route in routes)


def _router(node: Node) -> Router:
    return Router(node.name, node.as_number, node.ipv4, node.ipv6, node.cluster_id)

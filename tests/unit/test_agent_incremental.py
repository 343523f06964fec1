"""A decision by difference is the one made whole: what is remembered, of blocks and of routes, changes nothing.

Everything that a decision rests on changes here, in any order. What follows is compared with a decision that remembers
nothing, and what is held and announced with the rules themselves, said once more without a word of blocks gone through
before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from bgp.filter import Action, Rule
from bgp.limits import speaker_of
from bgp.peer import Peer
from bgp.route import LearnedRoute
from controller.agent.cluster import Cluster
from controller.agent.decision import Decision, DrainPhase, Knowledge, decide
from controller.agent.selection import Selection
from controller.agent.workloads import HeldBlocks, Workloads
from controller.datamodel.records import Node
from controller.ports import InterfaceAddress, KernelRoute, NextHop, RouteKind, Version
from ipam.block import Block, Holder
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipam.address import IPAddress, IPNetwork

HERE = Node("here", 64512, IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
OTHERS = [Node(name, 64512, IPv4Address(f"192.0.2.{number}"), None) for number, name in ((2, "two"), (3, "three"))]
POOLS = [Pool("four", ip_network("10.0.0.0/24"), 30), Pool("six", ip_network("fd00::/120"), 126)]
PEERS = [ip_address("192.0.2.2"), ip_address("192.0.2.3")]
UPLINKS = [
    InterfaceAddress("eth0", 2, ip_address(address), ip_network(network), scope_global=True)
    for address, network in (("192.0.2.1", "192.0.2.0/24"), ("2001:db8::1", "2001:db8::/64"))
]
CIDRS = [ip_network(text) for text in ("10.0.0.0/30", "10.0.0.4/30", "fd00::/126")]
PREFIXES = [*CIDRS, *map(ip_network, ("10.0.0.1", "10.0.0.5", "fd00::1", "10.0.0.8/30", "0.0.0.0/0"))]
LINKS = ["tor1", "tor2", "tor3"]
RULES = [(), (Rule(Action.REJECT, cidr=CIDRS[1]),)]


@dataclass
class World:
    """All that a decision rests on, as it changes."""

    block_of: dict[IPNetwork, Block] = field(default_factory=dict)
    index_of: dict[str, int] = field(default_factory=dict)
    learned: dict[tuple[IPNetwork, IPAddress], LearnedRoute] = field(default_factory=dict)
    pools: list[Pool] = field(default_factory=lambda: list(POOLS))
    nodes: list[Node] = field(default_factory=lambda: list(OTHERS))
    interfaces: tuple[InterfaceAddress, ...] = tuple(UPLINKS)
    most: dict[IPAddress, int | None] = field(default_factory=dict)
    rules: dict[IPAddress, tuple[Rule, ...]] = field(default_factory=dict)
    drain: DrainPhase = DrainPhase.NONE

    def blocks(self) -> list[Block]:
        """Return what concerns the node."""
        return [
            block
            for block in self.block_of.values()
            if block.affinity == HERE.name or HERE.name in block.holding_nodes()
        ]

    def own_blocks(self) -> tuple[IPNetwork, ...]:
        """Return what the node owns."""
        return tuple(block.cidr for block in self.block_of.values() if block.affinity == HERE.name)

    def knowledge(self, workloads: Workloads) -> Knowledge:
        """Return all of it, with what the workloads hold."""
        learned: dict[IPNetwork, tuple[LearnedRoute, ...]] = {}
        for (prefix, _), route in self.learned.items():
            learned[prefix] = (*learned.get(prefix, ()), route)
        return Knowledge(
            node=HERE,
            cluster=Cluster(
                {pool.name: (pool, Version(1)) for pool in self.pools},
                {node.name: node for node in (HERE, *self.nodes)},
            ),
            peers=tuple(
                Peer(
                    address,
                    HERE.addresses[0],
                    64512,
                    64512,
                    "192.0.2.1",
                    max_prefixes=self.most.get(address),
                    import_rules=self.rules.get(address, ()),
                )
                for address in PEERS
            ),
            counts_by_peer={
                peer: Counter(speaker_of(route) for (_, each), route in self.learned.items() if each == peer)
                for peer in PEERS
            },
            own_blocks=self.own_blocks(),
            workloads=workloads,
            interfaces=self.interfaces,
            learned=learned,
            settled=True,
            drain=self.drain,
        )


def assigned(world: World, cidr: IPNetwork, link: str, node: str) -> None:
    """Assign an address of a block, whoever owns it."""
    block = world.block_of.get(cidr)
    if block is not None and block.free:
        world.block_of[cidr], _ = block.assign(Holder(f"handle of {link}", node, "web", "", link, 0.0))


def released(world: World, cidr: IPNetwork, ordinal: int) -> None:
    """Release an address."""
    block = world.block_of.get(cidr)
    if block is not None and ordinal in block.holders:
        world.block_of[cidr] = block.release([ordinal])


def owned(world: World, cidr: IPNetwork, node: str | None) -> None:
    """Let a block be somebody's, nobody's, or another's than before, with whatever is held of it."""
    block = world.block_of.get(cidr)
    world.block_of[cidr] = Block.claimed(cidr, node=node, at=0.0) if block is None else replace(block, affinity=node)


def linked(world: World, link: str, index: int | None) -> None:
    """Let a link be there, be another one, or be gone."""
    world.index_of.pop(link, None)
    if index is not None:
        world.index_of[link] = index


def announced(world: World, prefix: IPNetwork, peer: IPAddress, next_hop: IPAddress | None, preference: int) -> None:
    """Learn a route, or that it is withdrawn."""
    world.learned.pop((prefix, peer), None)
    if next_hop is not None:
        world.learned[prefix, peer] = LearnedRoute(prefix, next_hop, peer, local_preference=preference)


def pooled(world: World, pools: list[Pool], *, hidden: bool) -> None:
    """Let other pools be there, exported or not."""
    world.pools = [replace(pool, disable_bgp_export=hidden) for pool in pools]


def limited(world: World, peer: IPAddress, most: int | None, rules: tuple[Rule, ...]) -> None:
    """Let a peer be limited, or not any more."""
    world.most[peer], world.rules[peer] = most, rules


def populated(world: World, nodes: list[Node], interfaces: tuple[InterfaceAddress, ...], drain: DrainPhase) -> None:
    """Let other nodes and interfaces be there, and the node be drained or not."""
    world.nodes, world.interfaces, world.drain = nodes, interfaces, drain


def step(do: Callable[..., None], *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    """Return one kind of change with whatever arguments."""
    return st.tuples(st.just(do), *arguments)


cidrs = st.sampled_from(CIDRS)
some_node = st.sampled_from(["here", "here", "two"])
next_hops = st.sampled_from([None, *PEERS, HERE.addresses[0], ip_address("198.51.100.1")])
changes = st.one_of(
    step(assigned, cidrs, st.sampled_from(LINKS), some_node),
    step(released, cidrs, st.sampled_from(range(4))),
    step(owned, cidrs, st.sampled_from(["here", "two", None])),
    step(linked, st.sampled_from(LINKS), st.sampled_from([None, 7, 8])),
    step(announced, st.sampled_from(PREFIXES), st.sampled_from(PEERS), next_hops, st.sampled_from([100, 200])),
    step(announced, cidrs, st.sampled_from(PEERS), next_hops, st.just(100)),
    step(limited, st.sampled_from(PEERS), st.sampled_from([None, 1]), st.sampled_from(RULES)),
    step(
        populated,
        st.sampled_from([OTHERS, OTHERS[:1], []]),
        st.sampled_from([(), tuple(UPLINKS), tuple(UPLINKS[:1])]),
        st.sampled_from([DrainPhase.NONE, DrainPhase.NONE, DrainPhase.ASKING, DrainPhase.WITHDRAWN]),
    ),
    st.builds(
        lambda pools, hidden: (lambda world: pooled(world, pools, hidden=hidden),),
        st.sampled_from([POOLS, POOLS[:1], []]),
        st.booleans(),
    ),
)


@given(st.lists(changes, min_size=1, max_size=25))
def test_a_decision_by_difference_is_the_one_made_whole(steps: list[tuple[Callable[..., None], ...]]) -> None:
    """However all that a decision rests on changes, what was remembered decides as nothing remembered does."""
    world = World()
    for cidr, link in zip(CIDRS, LINKS, strict=True):
        owned(world, cidr, "here")
        assigned(world, cidr, link, "here")
    blocks, selection = HeldBlocks("here"), Selection()
    for do, *arguments in steps:
        do(world, *arguments)
        decision = decide(world.knowledge(blocks.workloads(world.blocks(), world.index_of)), selection)
        whole = decide(world.knowledge(HeldBlocks("here").workloads(world.blocks(), world.index_of)))
        assert comparable(decision) == comparable(whole)
        assert {each.prefix for each in decision.announcements} == announced_prefixes(world)
        local = {prefix: route for prefix, route in decision.routes.routes.items() if is_local(route)}
        assert local == local_routes(world)


def announced_prefixes(world: World) -> set[IPNetwork]:
    """Return what is to be announced: own blocks, and each address held where no own block speaks for it alone."""
    if world.drain is DrainPhase.WITHDRAWN:
        return set()
    others = {address for node in world.nodes for address in node.addresses}
    contested = {prefix for (prefix, _), route in world.learned.items() if route.next_hop in others}
    spoken_for = [cidr for cidr in world.own_blocks() if cidr not in contested]
    single = {
        ip_network(address)
        for block in world.block_of.values()
        for address, holder in block.assignments()
        if holder.node == "here" and block.cidr not in spoken_for
    }
    hidden = [pool.cidr for pool in world.pools if pool.disable_bgp_export]
    return {
        prefix
        for prefix in {*world.own_blocks(), *single}
        if not any(pool.version == prefix.version and prefix.subnet_of(pool) for pool in hidden)  # type: ignore[arg-type]  # of one version
    }


def local_routes(world: World) -> dict[IPNetwork, KernelRoute]:
    """Return the blackholes of own blocks, and a route to each address held here whose link exists."""
    routes = {cidr: KernelRoute(cidr, RouteKind.BLACKHOLE) for cidr in world.own_blocks()}
    for block in world.block_of.values():
        for address, holder in block.assignments():
            if holder.node == "here" and holder.interface in world.index_of:
                prefix = ip_network(address)
                hop = NextHop(None, world.index_of[holder.interface])
                routes[prefix] = KernelRoute(prefix, RouteKind.UNICAST, (hop,))
    return routes


def is_local(route: KernelRoute) -> bool:
    """Tell whether a route leads to no gateway."""
    return all(hop.gateway is None for hop in route.next_hops)


def comparable(decision: Decision) -> tuple[object, ...]:
    """Return the decision without the order in which prefixes came up."""
    rejected = {(each.peer, each.reason): (each.count, frozenset(each.examples)) for each in decision.rejected}
    return decision.routes, decision.announcements, decision.learned_count, rejected, frozenset(decision.unresolved)

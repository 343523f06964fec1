"""What follows from everything a node knows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from bgp.policy import Rejection
from bgp.route import Announcement, LearnedRoute
from controller.agent.cluster import Cluster
from controller.agent.decision import Knowledge, Timing, decide, peers_of
from controller.datamodel.records import Node
from controller.ports import InterfaceAddress, KernelRoute, NextHop, RouteKind, Version
from controller.reconcile.desired import Unresolved
from controller.reconcile.difference import Sweep
from ipam.pool import Pool

if TYPE_CHECKING:
    from ipam.address import IPAddress, IPNetwork

HERE = Node("here", 64512, IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
THERE = Node("there", 64512, IPv4Address("192.0.2.2"), IPv6Address("2001:db8::2"))
AWAY = Node("away", 64513, IPv4Address("192.0.2.3"), None)
POOLS = (Pool("four", ip_network("10.0.0.0/16"), 26), Pool("six", ip_network("fd00::/64"), 122))
OWN = (ip_network("10.0.0.0/26"), ip_network("fd00::/122"))
UPLINK = tuple(
    InterfaceAddress("eth0", 2, ip_address(address), ip_network(network), scope_global=True)
    for address, network in (("192.0.2.1", "192.0.2.0/24"), ("2001:db8::1", "2001:db8::/64"))
)


def cluster(*pools: Pool, nodes: tuple[Node, ...] = (HERE, THERE, AWAY)) -> Cluster:
    """Return a cluster of these pools, or of one for each IP version."""
    return Cluster(
        {pool.name: (pool, Version(1)) for pool in pools or POOLS},
        {node.name: node for node in nodes},
    )


def learned(*routes: LearnedRoute) -> dict[IPNetwork, tuple[LearnedRoute, ...]]:
    """Return the routes by prefix."""
    return {route.prefix: tuple(other for other in routes if other.prefix == route.prefix) for route in routes}


def route(prefix: str, next_hop: str = "192.0.2.2", as_path: tuple[int, ...] = ()) -> LearnedRoute:
    """Return what THERE announced."""
    return LearnedRoute(ip_network(prefix), ip_address(next_hop), ip_address("192.0.2.2"), as_path)


def knowledge(
    *routes: LearnedRoute,
    link_of: dict[IPAddress, str] | None = None,
    own_blocks: tuple[IPNetwork, ...] = OWN,
    settled: bool = True,
    interfaces: tuple[InterfaceAddress, ...] = UPLINK,
) -> Knowledge:
    """Return what a node knows that owns a block of each pool; the link `tor1` has index 7."""
    return Knowledge(
        node=HERE,
        cluster=cluster(),
        own_blocks=own_blocks,
        link_of=link_of or {},
        index_of={"tor1": 7},
        interfaces=interfaces,
        learned=learned(*routes),
        settled=settled,
    )


def via(prefix: str, *gateways: str) -> KernelRoute:
    """Return a route through gateways on the uplink."""
    return KernelRoute(
        ip_network(prefix), RouteKind.UNICAST, tuple(NextHop(ip_address(gateway), 2) for gateway in gateways)
    )


def announced(prefix: str) -> Announcement:
    """Return the announcement of a prefix by this node."""
    network = ip_network(prefix)
    own = HERE.address(network.version)
    assert own is not None
    return Announcement(network, own)


def test_a_workload_with_a_link_is_routed_to_it() -> None:
    """Both families; one without a link has nothing to be routed to, and its block swallows the packets."""
    decision = decide(
        knowledge(
            link_of={ip_address("10.0.0.5"): "tor1", ip_address("fd00::5"): "tor1", ip_address("10.0.0.6"): "tor2"}
        )
    )
    links = {
        prefix: KernelRoute(prefix, RouteKind.UNICAST, (NextHop(None, 7),))
        for prefix in map(ip_network, ("10.0.0.5/32", "fd00::5/128"))
    }
    blackholes = {block: KernelRoute(block, RouteKind.BLACKHOLE) for block in OWN}
    assert decision.routes.routes == {**links, **blackholes}


def test_learned_blocks_are_routed_through_their_next_hops() -> None:
    """Dual stack over one session, and equal paths together."""
    decision = decide(
        knowledge(
            route("10.0.1.0/26"),
            route("fd00::40/122", "2001:db8::2"),
            route("10.0.2.0/26"),
            route("10.0.2.0/26", "192.0.2.3"),
            own_blocks=(),
        )
    )
    expected = [
        via("10.0.1.0/26", "192.0.2.2"),
        via("fd00::40/122", "2001:db8::2"),
        via("10.0.2.0/26", "192.0.2.2", "192.0.2.3"),
    ]
    assert decision.routes.routes == {each.prefix: each for each in expected}
    assert decision.learned_count == 3


def test_what_is_refused_is_counted_by_its_reason() -> None:
    """And nothing of it reaches the kernel."""
    decision = decide(
        knowledge(
            route("0.0.0.0/0"),
            route("172.16.0.0/24"),
            route("172.16.1.0/24"),
            route("10.0.0.0/26"),
            route("10.0.0.0/28"),
            route("10.0.1.0/26", "2001:db8::2"),
            route("10.0.1.64/26", "192.0.2.1"),
            route("10.0.1.128/26", "192.0.2.77"),
            route("10.0.1.192/26", as_path=(64999, 64512)),
            own_blocks=OWN[:1],
        )
    )
    assert decision.rejected == {
        Rejection.DEFAULT_ROUTE: 1,
        Rejection.OUTSIDE_POOLS: 2,
        Rejection.OWN_PREFIX: 1,
        Rejection.INSIDE_OWN_BLOCK: 1,
        Rejection.NEXT_HOP_VERSION: 1,
        Rejection.OWN_NEXT_HOP: 1,
        Rejection.UNKNOWN_NEXT_HOP: 1,
        Rejection.AS_LOOP: 1,
    }
    assert set(decision.routes.routes) == set(OWN[:1])
    assert decision.learned_count == 0


def test_an_accepted_path_stands_beside_a_refused_one() -> None:
    """The refused one does not take part in the choice, however good it looks."""
    decision = decide(knowledge(route("10.0.1.0/26"), route("10.0.1.0/26", "192.0.2.77"), own_blocks=()))
    assert decision.routes.routes == {ip_network("10.0.1.0/26"): via("10.0.1.0/26", "192.0.2.2")}
    assert decision.rejected == {Rejection.UNKNOWN_NEXT_HOP: 1}


def test_an_own_address_beats_a_learned_one() -> None:
    """Another node announces an address that a workload here holds: the workload stays reachable."""
    decision = decide(knowledge(route("10.0.1.5/32"), link_of={ip_address("10.0.1.5"): "tor1"}))
    assert decision.routes.routes[ip_network("10.0.1.5/32")].next_hops == (NextHop(None, 7),)
    assert decision.rejected == {Rejection.OWN_PREFIX: 1}


def test_an_address_that_another_node_borrowed_is_routed_there() -> None:
    """More specific than the blackhole of the block it lies in."""
    decision = decide(knowledge(route("10.0.0.9/32")))
    assert decision.routes.routes[ip_network("10.0.0.9/32")] == via("10.0.0.9/32", "192.0.2.2")


def test_only_local_routes_are_swept_before_bgp_has_settled() -> None:
    """What another node has not said again yet is not gone."""
    assert decide(knowledge(settled=False)).routes.sweep is Sweep.LOCAL
    assert decide(knowledge(settled=True)).routes.sweep is Sweep.EVERYTHING


def test_blocks_and_borrowed_addresses_are_announced() -> None:
    """An address in an own block is in that block's announcement; one in another's needs its own, link or not."""
    decision = decide(
        knowledge(link_of={ip_address("10.0.0.5"): "tor1", ip_address("10.0.9.5"): "tor2", ip_address("fd00::99"): "t"})
    )
    assert decision.announcements == tuple(map(announced, ("10.0.0.0/26", "10.0.9.5/32", "fd00::/122", "fd00::99/128")))


def test_nothing_is_announced_out_of_an_unexported_pool() -> None:
    """Neither blocks nor borrowed addresses; routes on this node are as ever."""
    known = knowledge(link_of={ip_address("10.0.9.5"): "tor1"})
    hidden = replace(known, cluster=cluster(replace(POOLS[0], disable_bgp_export=True), POOLS[1]))
    assert decide(hidden).announcements == (announced("fd00::/122"),)
    assert decide(hidden).routes == decide(known).routes


def test_a_node_without_ipv6_announces_no_ipv6() -> None:
    """There is no next hop to announce it with."""
    known = replace(knowledge(), node=replace(HERE, ipv6=None))
    assert decide(known).announcements == (announced("10.0.0.0/26"),)


def test_a_next_hop_in_no_subnet_is_reported() -> None:
    """The prefix is not routed, and the operator can see why."""
    decision = decide(knowledge(route("10.0.1.0/26"), interfaces=(), own_blocks=()))
    assert decision.routes.routes == {}
    assert decision.unresolved == (Unresolved(ip_network("10.0.1.0/26"), ip_address("192.0.2.2")),)
    assert decision.learned_count == 0


def test_the_same_knowledge_gives_the_same_decision() -> None:
    """Whatever order the routes came in."""
    routes = [route("10.0.1.0/26"), route("10.0.1.0/26", "192.0.2.3"), route("10.0.2.0/26")]
    assert decide(knowledge(*routes)) == decide(knowledge(*reversed(routes)))


def test_a_node_has_a_session_with_every_other_node() -> None:
    """Each with this host's timing and the other's AS number, and none with itself."""
    peers = peers_of(HERE, cluster(), Timing(hold_seconds=9, restart_seconds=33))
    assert [(str(peer.address), peer.peer_as) for peer in peers] == [("192.0.2.2", 64512), ("192.0.2.3", 64513)]
    assert {(peer.hold_time_seconds, peer.restart_time_seconds, peer.local_as) for peer in peers} == {(9, 33, 64512)}
    assert peers_of(HERE, cluster(nodes=(HERE,)), Timing(90, 120)) == ()


def test_nodes_with_no_ip_version_in_common_have_no_session() -> None:
    """An IPv6 node and an IPv4 node cannot talk."""
    six = replace(THERE, ipv4=None)
    assert peers_of(AWAY, cluster(nodes=(AWAY, six)), Timing(90, 120)) == ()
    [peer] = peers_of(HERE, cluster(nodes=(HERE, six)), Timing(90, 120))
    assert peer.address == THERE.ipv6

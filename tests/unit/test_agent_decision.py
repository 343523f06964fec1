"""What follows from everything a node knows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from bgp.configuration import BgpConfiguration
from bgp.filter import Action, Rule
from bgp.limits import speaker_of
from bgp.peer import Peer, PeerOrigin
from bgp.peering import Filter, PeerDefinition, SessionTimes
from bgp.policy import RejectedRoutes, Rejection
from bgp.prefixes import PrefixSet
from bgp.route import Announcement, LearnedRoute
from controller.agent.cluster import Cluster
from controller.agent.decision import Decision, DrainPhase, Knowledge, decide, peers_of
from controller.agent.workloads import Workloads
from controller.datamodel import keys
from controller.datamodel.records import Node
from controller.ports import InterfaceAddress, KernelRoute, NextHop, RouteKind, Version
from controller.reconcile.desired import Unresolved, host_prefix, workload_routes
from controller.reconcile.difference import Sweep
from ipam.pool import Pool

if TYPE_CHECKING:
    from ipam.address import IPAddress, IPNetwork

HERE = Node("here", 64512, IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
THERE = Node("there", 64512, IPv4Address("192.0.2.2"), IPv6Address("2001:db8::2"))
AWAY = Node("away", 64513, IPv4Address("192.0.2.3"), None)
POOLS = (Pool("four", ip_network("10.0.0.0/16"), 26), Pool("six", ip_network("fd00::/64"), 122))
OWN = (ip_network("10.0.0.0/26"), ip_network("fd00::/122"))
THERE_PEER = Peer(ip_address("192.0.2.2"), ip_address("192.0.2.1"), 64512, 64512, "192.0.2.1")
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
    peers: tuple[Peer, ...] = (),
    drain: DrainPhase = DrainPhase.NONE,
) -> Knowledge:
    """Return what a node knows that owns a block of each pool; the link `tor1` has index 7."""
    return Knowledge(
        node=HERE,
        cluster=cluster(),
        peers=peers,
        counts_by_peer={
            peer: Counter(speaker_of(each) for each in routes if each.peer == peer) for peer in {r.peer for r in routes}
        },
        own_blocks=own_blocks,
        workloads=workloads(link_of or {}),
        interfaces=interfaces,
        learned=learned(*routes),
        settled=settled,
        drain=drain,
    )


def workloads(link_of: dict[IPAddress, str]) -> Workloads:
    """Return these workloads; what lies in no own block is borrowed."""
    held = frozenset(map(host_prefix, link_of))
    own = PrefixSet(OWN)
    borrowed = tuple(prefix for prefix in held if not own.covers(prefix))
    return Workloads(held, borrowed, workload_routes(link_of, {"tor1": 7}))


def counts(decision: Decision) -> dict[Rejection, int]:
    """Return how many routes were refused by each rule."""
    found: Counter[Rejection] = Counter()
    for each in decision.rejected:
        found[each.reason] += each.count
    return dict(found)


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
    assert counts(decision) == {
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


def test_what_is_refused_is_told_with_peer_and_examples() -> None:
    """An operator sees whose routes they were, and a few of them however many there are."""
    routes = [route(f"172.16.{number}.0/24") for number in range(9)]
    [rejected] = decide(knowledge(*routes)).rejected
    first = tuple(each.prefix for each in routes[:5])
    assert rejected == RejectedRoutes(ip_address("192.0.2.2"), Rejection.OUTSIDE_POOLS, 9, first)


def _peer(**fields: object) -> Peer:
    base = Peer(ip_address("192.0.2.2"), ip_address("192.0.2.1"), 64512, 64512, "192.0.2.1")
    return replace(base, **fields)  # type: ignore[arg-type]  # the fields differ in type


def test_of_a_reflector_only_the_routes_of_who_announces_too_much_are_refused() -> None:
    """The other node's are used, and those that the reflector has from elsewhere."""
    reflector = ip_address("192.0.2.9")
    flood = [
        replace_fields(route(f"10.0.{number}.0/26"), peer=reflector, originator_id="192.0.2.2") for number in (1, 2, 3)
    ]
    good = replace_fields(route("10.0.4.0/26", "192.0.2.3"), peer=reflector, originator_id="192.0.2.3")
    through = _peer(address=reflector, origin=PeerOrigin.GLOBAL, max_prefixes=2)
    decision = decide(knowledge(*flood, good, peers=(through,), own_blocks=()))
    assert decision.routes.routes == {good.prefix: via("10.0.4.0/26", "192.0.2.3")}
    assert counts(decision) == {Rejection.TOO_MANY_PREFIXES: 3}
    assert decide(knowledge(*flood[1:], good, peers=(through,), own_blocks=())).learned_count == 3


def replace_fields(learned: LearnedRoute, **fields: object) -> LearnedRoute:
    """Return the route with other fields."""
    return learned._replace(**fields)  # type: ignore[arg-type]  # the fields differ in type


def test_nothing_is_used_of_a_peer_that_announces_too_much() -> None:
    """It has lost its head or its owner; what it says beside the flood is worth no more."""
    routes = [route("10.0.1.0/26"), route("10.0.2.0/26"), route("172.16.0.0/24")]
    decision = decide(knowledge(*routes, peers=(_peer(max_prefixes=2),), own_blocks=()))
    assert not decision.routes.routes
    assert counts(decision) == {Rejection.TOO_MANY_PREFIXES: 3}
    assert decide(knowledge(*routes, peers=(_peer(max_prefixes=3),))).learned_count == 2


def test_import_rules_let_in_what_pools_do_not_hold_and_keep_out_what_they_do() -> None:
    """A default route may be accepted on purpose; the host's own subnet never."""
    rules = (
        Rule(Action.REJECT, ip_network("10.0.1.0/26")),
        Rule(Action.ACCEPT, min_length=0, max_length=0),
        Rule(Action.ACCEPT, ip_network("192.0.2.0/24")),
    )
    routes = [route("0.0.0.0/0"), route("10.0.1.0/26"), route("10.0.2.0/26"), route("192.0.2.128/25")]
    decision = decide(knowledge(*routes, peers=(_peer(import_rules=rules),), own_blocks=()))
    assert set(decision.routes.routes) == {ip_network("0.0.0.0/0"), ip_network("10.0.2.0/26")}
    assert counts(decision) == {Rejection.FILTERED: 1, Rejection.HOST_SUBNET: 1}


def test_a_drained_node_asks_to_be_avoided_and_then_says_nothing() -> None:
    """The mark of RFC 8326 with the lowest preference first, then no announcement at all; routes stay."""
    asking = decide(knowledge(drain=DrainPhase.ASKING))
    assert {(each.communities, each.local_preference) for each in asking.announcements} == {(((65535, 0),), 0)}
    gone = decide(knowledge(drain=DrainPhase.WITHDRAWN))
    assert [each.drain for each in (asking, gone)] == [DrainPhase.ASKING, DrainPhase.WITHDRAWN]
    assert gone.announcements == ()
    assert gone.routes == asking.routes == decide(knowledge()).routes


def test_an_accepted_path_stands_beside_a_refused_one() -> None:
    """The refused one does not take part in the choice, however good it looks."""
    decision = decide(knowledge(route("10.0.1.0/26"), route("10.0.1.0/26", "192.0.2.77"), own_blocks=()))
    assert decision.routes.routes == {ip_network("10.0.1.0/26"): via("10.0.1.0/26", "192.0.2.2")}
    assert counts(decision) == {Rejection.UNKNOWN_NEXT_HOP: 1}


def test_an_own_address_beats_a_learned_one() -> None:
    """Another node announces an address that a workload here holds: the workload stays reachable."""
    decision = decide(knowledge(route("10.0.1.5/32"), link_of={ip_address("10.0.1.5"): "tor1"}))
    assert decision.routes.routes[ip_network("10.0.1.5/32")].next_hops == (NextHop(None, 7),)
    assert counts(decision) == {Rejection.OWN_PREFIX: 1}


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


def test_the_addresses_of_a_block_that_another_announces_too_are_announced_one_by_one() -> None:
    """Its former owner's sidecar may announce it on; the own announcement come back does not count, nor a router's."""
    links = {ip_address("10.0.0.5"): "tor1", ip_address("fd00::5"): "tor1"}
    blocks = tuple(map(announced, ("10.0.0.0/26", "fd00::/122")))
    known = knowledge(route("10.0.0.0/26"), link_of=links, peers=(_peer(),))
    assert decide(known).announcements == (blocks[0], announced("10.0.0.5/32"), blocks[1])
    for no_other_node in ("192.0.2.1", "192.0.2.254"):
        copy = learned(route("10.0.0.0/26", no_other_node))
        assert decide(replace(known, learned=copy)).announcements == blocks
    assert decide(replace(known, peers=(_peer(peer_as=64999),))).announcements == blocks


def test_a_node_of_another_as_contests_a_block_as_one_of_this_as_does() -> None:
    """Each node may have an AS number of its own; then no session between nodes is an internal one."""
    away = LearnedRoute(ip_network("10.0.0.0/26"), AWAY.addresses[0], AWAY.addresses[0], (64513,))
    links = {ip_address("10.0.0.5"): "tor1"}
    peer = _peer(address=AWAY.addresses[0], peer_as=AWAY.as_number)
    known = knowledge(away, link_of=links, own_blocks=OWN[:1], peers=(peer,))
    assert decide(known).announcements == tuple(map(announced, ("10.0.0.0/26", "10.0.0.5/32")))


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
    peers = peers_of(HERE, cluster(), SessionTimes(hold_seconds=9, restart_seconds=33)).peers
    assert [(str(peer.address), peer.peer_as) for peer in peers] == [("192.0.2.2", 64512), ("192.0.2.3", 64513)]
    assert {(peer.hold_time_seconds, peer.restart_time_seconds, peer.local_as) for peer in peers} == {(9, 33, 64512)}
    assert peers_of(HERE, cluster(nodes=(HERE,)), SessionTimes(90, 120)).peers == ()


def test_nodes_with_no_ip_version_in_common_have_no_session() -> None:
    """An IPv6 node and an IPv4 node cannot talk."""
    six = replace(THERE, ipv4=None)
    assert peers_of(AWAY, cluster(nodes=(AWAY, six)), SessionTimes(90, 120)).peers == ()
    [peer] = peers_of(HERE, cluster(nodes=(HERE, six)), SessionTimes(90, 120)).peers
    assert peer.address == THERE.ipv6


def test_defined_peers_come_beside_the_mesh_or_instead_of_it() -> None:
    """One for this node by name, by its labels or for all; never one for another node, nor one without its filter."""
    here = replace(HERE, labels={"rack": "a"})
    definitions = (
        PeerDefinition("all", ip_address("192.0.2.10"), 64500),
        PeerDefinition("mine", ip_address("192.0.2.11"), 64500, node="here", filters=("f",)),
        PeerDefinition("rack", ip_address("192.0.2.12"), 64500, node_selector="rack == 'a'"),
        PeerDefinition("other-rack", ip_address("192.0.2.13"), 64500, node_selector="rack == 'b'"),
        PeerDefinition("theirs", ip_address("192.0.2.14"), 64500, node="there"),
        PeerDefinition("lost", ip_address("192.0.2.15"), 64500, filters=("nowhere",)),
        PeerDefinition("self", ip_address("192.0.2.1"), 64500),
    )
    rules = Filter("f", imports=(Rule(Action.REJECT),))
    world = replace(cluster(), peers={definition.name: definition for definition in definitions}, filters={"f": rules})
    found = peers_of(here, world, SessionTimes(90, 120))
    assert [str(peer.address) for peer in found.peers] == [f"192.0.2.{last}" for last in (2, 3, 10, 11, 12)]
    assert found.peers[3].import_rules == rules.imports
    assert list(found.problems) == ["lost"]
    alone = peers_of(here, replace(world, bgp_configuration=BgpConfiguration(mesh=False)), SessionTimes(90, 120))
    assert [str(peer.address) for peer in alone.peers] == [f"192.0.2.{last}" for last in (10, 11, 12)]
    reflector = replace(world, nodes={**world.nodes, "there": replace(THERE, cluster_id="1.1.1.1")})
    beside = peers_of(here, reflector, SessionTimes(90, 120))
    assert [str(peer.address) for peer in beside.peers] == [f"192.0.2.{last}" for last in (3, 10, 11, 12)]


def outside(address: str, *, peer_as: int, local_as: int = HERE.as_number) -> Peer:
    """Return a configured peer of another AS."""
    return Peer(ip_address(address), ip_address("192.0.2.1"), local_as, peer_as, "192.0.2.1")


def test_a_top_of_rack_router_leads_where_no_other_node_can_be_reached() -> None:
    """What a reflector tells of a node in another subnet does not hide the longer way through the router."""
    across = Node("across", 64512, IPv4Address("198.51.100.7"), None)
    rack = outside("192.0.2.254", peer_as=65000)
    reflected = route("10.0.1.0/26", "198.51.100.7")
    routed = route("10.0.1.0/26", "192.0.2.254", (65000, 64602))._replace(peer=rack.address)
    known = replace(knowledge(reflected, routed, peers=(rack,)), cluster=cluster(nodes=(HERE, across)))
    decision = decide(known)
    assert decision.routes.routes[ip_network("10.0.1.0/26")] == via("10.0.1.0/26", "192.0.2.254")
    assert decision.unresolved == ()


def test_peers_of_another_as_are_known_by_their_definitions() -> None:
    """Of equal routes theirs is used, and none that went through the AS number they are shown."""
    rack = outside("192.0.2.254", peer_as=65000, local_as=64601)
    inner = route("10.0.1.0/26", "192.0.2.2", (65001,))
    outer = route("10.0.1.0/26", "192.0.2.254", (65000,))._replace(peer=rack.address)
    looped = route("10.0.2.0/26", "192.0.2.254", (65000, 64601))._replace(peer=rack.address)
    pushing = route("10.0.3.0/26", "192.0.2.254")._replace(peer=rack.address)
    decision = decide(knowledge(inner, outer, looped, pushing, peers=(rack,)))
    assert decision.routes.routes[ip_network("10.0.1.0/26")] == via("10.0.1.0/26", "192.0.2.254")
    assert counts(decision) == {Rejection.AS_LOOP: 1, Rejection.FIRST_AS: 1}


def test_routes_of_a_block_that_cannot_be_read_are_spared() -> None:
    """Its workloads are there, although nobody can tell which."""
    known = replace(knowledge(), unread=OWN[:1])
    assert decide(known).routes.spared == OWN[:1]
    assert decide(knowledge()).routes.spared == ()


@pytest.mark.parametrize(
    ("key", "sweep"),
    [
        (keys.pool("web"), Sweep.LOCAL),
        (keys.node("away"), Sweep.LOCAL),
        (keys.peer("reflector"), Sweep.LOCAL),
        (keys.filter_rules("mine"), Sweep.LOCAL),
        (keys.BGP_CONFIGURATION, Sweep.LOCAL),
        (keys.drain("here"), Sweep.EVERYTHING),
        (keys.reservation("gateways"), Sweep.EVERYTHING),
        (keys.IPAM_CONFIGURATION, Sweep.EVERYTHING),
    ],
)
def test_what_was_never_read_may_want_what_the_kernel_has(key: str, sweep: Sweep) -> None:
    """Learned routes stay if such a record could be why they are there."""
    assert decide(with_unread(key)).routes.sweep is sweep


@pytest.mark.parametrize(
    ("key", "change", "leaves"),
    [
        (keys.peer("r1"), {}, False),  # some other node's peer: no session would end
        (keys.peer("r1"), {"speaking": frozenset({ip_address("192.0.2.9")})}, True),
        (keys.filter_rules("mine"), {"speaking": frozenset({ip_address("192.0.2.9")})}, True),
        (keys.peer("r1"), {"speaking": None}, True),
        (keys.BGP_CONFIGURATION, {}, True),
        (keys.drain("here"), {}, True),
        (keys.drain("there"), {}, False),
        (keys.pool("seven"), {}, False),  # of no block here
        (keys.pool("seven"), {"own_blocks": (ip_network("10.7.0.0/26"),)}, True),
        (keys.reservation("gateways"), {"speaking": frozenset({ip_address("192.0.2.9")})}, False),
    ],
)
def test_the_speaker_is_left_alone_where_unread_records_may_want_what_it_does(
    key: str, change: dict[str, Any], *, leaves: bool
) -> None:
    """That is: a session whose peer is not known here, and announcements for which an unread pool has rules."""
    known = replace(with_unread(key), **{"speaking": frozenset({THERE_PEER.address}), **change})
    assert decide(known).leaves_speaker is leaves


def with_unread(key: str) -> Knowledge:
    """Return what a node knows that has a session with THERE and an unread record."""
    known = knowledge(peers=(THERE_PEER,))
    return replace(known, cluster=replace(known.cluster, unread=frozenset({key})), speaking=frozenset())

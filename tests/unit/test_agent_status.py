"""What the agent tells about itself, and in what order."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from bgp.events import SessionState, SessionStatus
from bgp.peer import Peer, PeerOrigin
from bgp.policy import RejectedRoutes, Rejection
from controller.agent.api import PeerProblem, PeerStatus, RejectedStatus, RouteProblem, WorkloadStatus
from controller.agent.decision import Decision, DrainPhase
from controller.agent.status import Observed, hindrances, lasting_obstacle, obstacle, status_of
from controller.datamodel.records import Node
from controller.ports import ForeignRoute, KernelRoute, RouteFailure, RouteKind
from controller.reconcile.desired import Unresolved
from controller.reconcile.difference import DesiredRoutes, Sweep
from ipam.block import Holder

NODE = Node("n1", 64512, IPv4Address("192.0.2.1"), None)
BLOCK = ip_network("10.0.0.0/26")
DECISION = Decision(
    DesiredRoutes({BLOCK: KernelRoute(BLOCK, RouteKind.BLACKHOLE)}, Sweep.EVERYTHING),
    announcements=(),
    learned_count=4,
    rejected=(RejectedRoutes(ip_address("192.0.2.2"), Rejection.OUTSIDE_POOLS, 2, ()),),
    unresolved=(),
)


def peer(address: str) -> Peer:
    """Return a configured peer."""
    return Peer(ip_address(address), IPv4Address("192.0.2.1"), 64512, 64512, "192.0.2.1")


@pytest.fixture
def well() -> Observed:
    """Return what a node observes with which all is well."""
    return Observed(
        node=NODE,
        version="1.2.3",
        peer_names={ip_address("192.0.2.2"): "n2"},
        store_kind="consul",
        store_reason=None,
        speaker_reason=None,
        peers=(peer("192.0.2.2"), peer("192.0.2.3")),
        sessions={
            ip_address("192.0.2.2"): SessionStatus(ip_address("192.0.2.2"), SessionState.ESTABLISHED, 1000.5, "hello")
        },
        decision=DECISION,
        routes_in_sync=True,
        route_failures={},
        complaints=(),
        missing_addresses=(),
        holders={},
        pool_count=1,
        malformed={},
    )


def test_all_is_well(well: Observed) -> None:
    """Ready, and nothing to complain about."""
    status = status_of(well)
    assert (status.ready, status.problems) == (True, ())
    assert (status.node, status.version, status.addresses) == ("n1", "1.2.3", ("192.0.2.1",))
    assert (status.store.kind, status.store.connected, status.store.reason) == ("consul", True, "")
    assert (status.routes.in_sync, status.routes.count, status.routes.failures) == (True, 1, ())


def test_the_first_obstacle_is_the_deepest(well: Observed) -> None:
    """The store, then its snapshot, then pools: each would explain those after it."""
    no_pool = replace(well, pool_count=0)
    no_snapshot = replace(no_pool, decision=None)
    no_store = replace(no_snapshot, store_reason="connection refused")
    assert obstacle(well) is None
    assert obstacle(no_pool) == "there is no pool; create one with tortiectl apply"
    assert obstacle(no_snapshot) == "the store's snapshot is not known yet"
    assert obstacle(no_store) == "the consul store is not reachable: connection refused"
    for observed in (no_pool, no_snapshot, no_store):
        assert not status_of(observed).ready
        assert status_of(observed).problems == (obstacle(observed),)


def test_a_node_that_no_other_hears_wires_and_is_hindered(well: Observed) -> None:
    """Without its sidecar, or with peers and not one session; of several sessions one is enough."""
    lost = replace(well, speaker_reason="bgp.sock: no such file")
    silent = replace(
        well, sessions={each: replace(well.sessions[each], state=SessionState.IDLE) for each in well.sessions}
    )
    assert hindrances(well) == ()
    assert hindrances(lost) == (
        "the BGP sidecar is not connected: bgp.sock: no such file; learned routes stay as they are",
    )
    assert hindrances(silent) == hindrances(replace(well, sessions={}))
    assert "none of 2 BGP sessions is established" in "".join(hindrances(silent))
    assert hindrances(replace(silent, peers=())) == ()
    for observed in (lost, silent):
        assert (obstacle(observed), status_of(observed).ready) == (None, True)
    assert status_of(silent).problems == ()
    assert hindrances(replace(silent, pool_count=0)) == (
        "there is no pool; create one with tortiectl apply",
        *hindrances(silent),
    )


def test_a_store_that_is_away_is_no_lasting_obstacle(well: Observed) -> None:
    """Once its snapshot is known; without a snapshot or a pool no call will succeed, and the reason is told."""
    away = replace(well, store_reason="connection refused")
    assert obstacle(away) == "the consul store is not reachable: connection refused"
    assert lasting_obstacle(away) is None
    assert lasting_obstacle(replace(away, pool_count=0)) == obstacle(replace(well, pool_count=0))
    assert lasting_obstacle(replace(away, decision=None)) == obstacle(away)
    assert lasting_obstacle(replace(well, decision=None)) == "the store's snapshot is not known yet"
    assert lasting_obstacle(well) is None


def test_what_does_not_stop_a_workload_is_a_problem_all_the_same(well: Observed) -> None:
    """The sidecar, records, refused and foreign routes, addresses, next hops, in this order; the node is ready."""
    prefix, gateway = ip_network("10.0.1.0/26"), ip_address("198.51.100.9")
    observed = replace(
        well,
        speaker_reason="bgp.sock: no such file",
        malformed={"pools/web": "record pools/web in the store cannot be read: no JSON"},
        route_failures={prefix: RouteFailure(prefix, 101, "network is unreachable")},
        foreign_routes=(ForeignRoute(prefix, 7, 3),),
        missing_addresses=(ip_address("192.0.2.1"),),
        decision=replace(DECISION, unresolved=(Unresolved(prefix, gateway),)),
    )
    status = status_of(observed)
    assert status.ready
    assert status.problems == (
        "the BGP sidecar is not connected: bgp.sock: no such file; learned routes stay as they are",
        "record pools/web in the store cannot be read: no JSON; what it said before stays until it is written anew",
        "route 10.0.1.0/26: network is unreachable",
        "route 10.0.1.0/26, of protocol 3, out of a workload's link (number 7): not ours, and left alone",
        "address 192.0.2.1 of this node is on no interface; restart the agent if the host was given another one",
        "route 10.0.1.0/26: the next hop 198.51.100.9 lies in no subnet of this host's interfaces",
    )
    assert status.routes.failures == (RouteProblem("network is unreachable", 1, ("10.0.1.0/26",)),)


def test_ten_thousand_routes_are_one_problem(well: Observed) -> None:
    """An uplink that is gone takes them all: one line for each reason, with a few of them named."""
    prefixes: list[IPv4Network | IPv6Network] = [
        IPv4Network((0x0A000000 + 64 * number, 26)) for number in range(10_000)
    ]
    gateways = [ip_address("198.51.100.8"), ip_address("198.51.100.9")]
    refused = {
        prefix: RouteFailure(prefix, 101 if number else 17, "unreachable" if number else "in the way")
        for number, prefix in enumerate(prefixes)
    }
    unresolved = tuple(Unresolved(prefix, gateways[number % 2]) for number, prefix in enumerate(prefixes))
    observed = replace(
        well,
        route_failures=refused,
        foreign_routes=tuple(ForeignRoute(prefix, 7, 12) for prefix in prefixes),
        decision=replace(DECISION, unresolved=unresolved),
    )
    status = status_of(observed)
    first, others, foreign, *unreached = status.problems
    assert first == "route 10.0.0.0/26: in the way"
    assert others == (
        "9999 routes (10.0.0.64/26, 10.0.0.128/26, 10.0.0.192/26, 10.0.1.0/26, 10.0.1.64/26, ...): unreachable"
    )
    assert foreign.startswith("10000 routes (10.0.0.0/26, 10.0.0.64/26, ")
    assert foreign.endswith(", ...), of protocol 12, out of a workload's link (number 7): not ours, and left alone")
    assert [problem.partition(" (")[0] for problem in unreached] == ["5000 routes", "5000 routes"]
    assert [problem.partition("): ")[2].split()[3] for problem in unreached] == ["198.51.100.8", "198.51.100.9"]
    assert [(each.count, len(each.examples)) for each in status.routes.failures] == [(1, 1), (9999, 5)]


def test_of_what_was_never_read_nothing_is_known(well: Observed) -> None:
    """It is not said to go on as it was; that the speaker does because of it is said once."""
    observed = replace(well, malformed={"peers/r1": "cannot be read"}, unread=frozenset({"peers/r1"}))
    assert status_of(observed).problems == ("cannot be read; nothing is known of it until it is written anew",)
    _, problem = status_of(replace(observed, leaves_speaker=True)).problems
    assert "BGP sessions and announcements stay as they were" in problem


def test_what_is_tried_again_is_told_unless_the_store_explains_it(well: Observed) -> None:
    """A node that may not write its record would otherwise wait for peers in silence."""
    denied = replace(well, complaints=("node could not be registered yet: permission denied",))
    assert status_of(denied).problems == denied.complaints
    away = replace(denied, store_reason="connection refused")
    assert status_of(away).problems == ("the consul store is not reachable: connection refused",)


def test_peers_are_joined_with_their_sessions_and_names(well: Observed) -> None:
    """A configured peer of which nothing is observed is unknown, and one that is no node has no name."""
    assert status_of(well).bgp.peers == (
        PeerStatus("192.0.2.2", "n2", "node-to-node mesh", "established", 1000.5, "hello"),
        PeerStatus("192.0.2.3", "", "node-to-node mesh", "unknown", 0.0, ""),
    )


def test_sessions_are_unknown_without_the_sidecar(well: Observed) -> None:
    """What it said last is not true for ever."""
    bgp = status_of(replace(well, speaker_reason="gone")).bgp
    assert not bgp.connected
    assert {(each.state, each.info) for each in bgp.peers} == {("unknown", "the BGP sidecar is not connected")}


def test_what_was_learned_and_refused_is_counted(well: Observed) -> None:
    """By the label of each reason; nothing before the first decision."""
    bgp = status_of(well).bgp
    assert (bgp.learned_count, bgp.rejected_counts) == (4, {"outside_pools": 2})
    early = status_of(replace(well, decision=None))
    assert (early.bgp.learned_count, early.bgp.rejected_counts, early.routes.count) == (0, {}, 0)


def test_what_is_refused_is_told_by_peer_and_reason(well: Observed) -> None:
    """In the order of the peers' addresses, with the first prefixes."""
    prefixes = (ip_network("10.9.0.0/16"), ip_network("fd00::/64"))
    rejected = (
        RejectedRoutes(ip_address("2001:db8::1"), Rejection.AS_LOOP, 1, prefixes[:1]),
        RejectedRoutes(ip_address("192.0.2.10"), Rejection.OUTSIDE_POOLS, 7, prefixes),
        RejectedRoutes(ip_address("192.0.2.9"), Rejection.OUTSIDE_POOLS, 1, prefixes[1:]),
        RejectedRoutes(ip_address("192.0.2.9"), Rejection.FILTERED, 2, prefixes[1:]),
    )
    bgp = status_of(replace(well, decision=replace(DECISION, rejected=rejected))).bgp
    assert bgp.rejected == (
        RejectedStatus("192.0.2.9", "filtered", 2, ("fd00::/64",)),
        RejectedStatus("192.0.2.9", "outside_pools", 1, ("fd00::/64",)),
        RejectedStatus("192.0.2.10", "outside_pools", 7, ("10.9.0.0/16", "fd00::/64")),
        RejectedStatus("2001:db8::1", "as_loop", 1, ("10.9.0.0/16",)),
    )
    assert status_of(replace(well, decision=None)).bgp.rejected == ()


@pytest.mark.parametrize(
    ("phase", "word"),
    [(DrainPhase.NONE, ""), (DrainPhase.ASKING, "draining"), (DrainPhase.WITHDRAWN, "drained")],
)
def test_a_drain_is_told_as_far_as_it_has_been_acted_on(well: Observed, phase: DrainPhase, word: str) -> None:
    """By the last decision; a drained node is ready all the same."""
    status = status_of(replace(well, decision=replace(DECISION, drain=phase)))
    assert (status.drain, status.ready, status.problems) == (word, True, ())


def test_before_the_first_decision_nothing_is_drained(well: Observed) -> None:
    """What the store says is not known then."""
    assert status_of(replace(well, decision=None)).drain == ""


def test_a_defined_peer_without_a_session_is_a_problem(well: Observed) -> None:
    """By the name of its definition, with the reason; a node that has it can still wire workloads."""
    status = status_of(replace(well, peer_problems={"tor-a": "filter in does not exist"}))
    assert status.problems == ("bgppeer tor-a has no session: filter in does not exist",)
    assert status.bgp.problems == (PeerProblem("tor-a", "filter in does not exist"),)
    assert status.ready


def test_defined_peers_are_told_by_their_type_and_name(well: Observed) -> None:
    """Those of the mesh as well."""
    origins = (PeerOrigin.NODE, PeerOrigin.GLOBAL)
    peers = tuple(replace(each, origin=origin) for each, origin in zip(well.peers, origins, strict=True))
    names = {ip_address("192.0.2.2"): "tor-a"}
    told = status_of(replace(well, peers=peers, peer_names=names)).bgp.peers
    assert [(each.origin, each.name) for each in told] == [("node specific", "tor-a"), ("global", "")]


def test_workloads_are_sorted_with_all_their_addresses(well: Observed) -> None:
    """By handle; addresses in the order of numbers, IPv4 first."""
    one = Holder("cni/net/a/eth0", "n1", "web-1", "shop", "tor1", 0.0)
    two = Holder("cni/net/b/eth0", "n1", "web-2", "", "tor2", 0.0)
    holders = {
        ip_address("10.0.0.9"): two,
        ip_address("fd00::1"): one,
        ip_address("10.0.0.10"): one,
        ip_address("10.0.0.2"): one,
    }
    assert status_of(replace(well, holders=holders)).workloads == (
        WorkloadStatus("cni/net/a/eth0", "web-1", "shop", "tor1", ("10.0.0.2", "10.0.0.10", "fd00::1")),
        WorkloadStatus("cni/net/b/eth0", "web-2", "", "tor2", ("10.0.0.9",)),
    )

"""What is read off an agent is what Prometheus gets: every number under its name, labels closed, nothing missing."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from bgp.events import SessionDown, SessionState, SessionStatus, SessionUp
from bgp.peer import Peer
from bgp.policy import RejectedRoutes, Rejection
from controller.agent.cluster import Cluster
from controller.agent.decision import Decision
from controller.agent.metrics import Tally, exposition
from controller.agent.metrics_families import families
from controller.agent.metrics_instruments import Instruments
from controller.agent.metrics_pools import PoolUse, pool_uses
from controller.agent.metrics_reading import Given, Heard, Reading
from controller.agent.status import Observed
from controller.assignment.waiting import Counters
from controller.cni.failures import ErrorCode
from controller.datamodel.records import Node
from controller.errors import RefusedError, StoreDenied, StoreUnavailable
from controller.ports import KernelRoute, NextHop, RouteFailure, RouteKind, Version
from controller.reconcile.desired import Unresolved
from controller.reconcile.difference import DesiredRoutes, Sweep
from controller.reconcile.route_table import RouteTable
from ipam.block import Block, Holder
from ipam.pool import Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from controller.ports import ForeignRoute
    from ipam.address import IPNetwork

H2, TOR = ip_address("192.0.2.2"), ip_address("192.0.2.250")
OWN, OTHERS = ip_network("10.0.0.0/30"), ip_network("10.0.1.0/30")
CLUSTER = Cluster(
    pools={
        "web": (Pool("web", ip_network("10.0.0.0/16"), 30), Version(1)),
        "wide": (Pool("wide", ip_network("fd00::/64"), 122), Version(1)),
    },
    reservations={"gateways": Reservation("gateways", (ip_network("10.0.0.0/28"), ip_network("fd00::/60")))},
)


def held(cidr: IPNetwork, owner: str, *nodes: str) -> Block:
    """Return a block of which workloads of these nodes hold one address each."""
    block = Block.claimed(cidr, node=owner, at=1.0)
    for number, node in enumerate(nodes):
        block, _ = block.assign(Holder(f"h{number}", node, f"w{number}", "shop", f"tor{number}", 2.0))
    return block


BLOCKS = (held(OWN, "n1", "n1", "n2"), held(OTHERS, "n2", "n1", "n2", "n2"))


class NoFib:
    """A kernel that is never asked."""

    def expect(self, routes: Iterable[KernelRoute]) -> None:
        """Refuse."""
        raise AssertionError(routes)

    def read(self) -> list[KernelRoute]:
        """Refuse."""
        raise AssertionError

    def foreign(self, link_indexes: Collection[int]) -> list[ForeignRoute]:
        """Refuse."""
        raise AssertionError(link_indexes)

    def foreign_on(self, link_index: int) -> list[ForeignRoute]:
        """Refuse."""
        raise AssertionError(link_index)

    def apply(self, upserts: Iterable[KernelRoute], removals: Iterable[KernelRoute], **_: object) -> list[RouteFailure]:
        """Refuse."""
        raise AssertionError(upserts, removals)


@pytest.fixture
def reading() -> Reading:
    """Return a node with two peers, of which one is up, and all kinds of routes and trouble."""
    workload = ip_network("10.0.0.1/32")
    routes = {
        OWN: KernelRoute(OWN, RouteKind.BLACKHOLE),
        workload: KernelRoute(workload, RouteKind.UNICAST, (NextHop(None, 7),)),
        **{
            prefix: KernelRoute(prefix, RouteKind.UNICAST, (NextHop(H2, 2),))
            for prefix in (ip_network(f"10.0.{number}.0/30") for number in range(2, 5))
        },
    }
    decision = Decision(
        DesiredRoutes(routes, Sweep.EVERYTHING),
        announcements=(),
        learned_count=3,
        rejected=(
            RejectedRoutes(TOR, Rejection.DEFAULT_ROUTE, 1, ()),
            RejectedRoutes(TOR, Rejection.OUTSIDE_POOLS, 4, ()),
            RejectedRoutes(ip_address("192.0.2.99"), Rejection.AS_LOOP, 1, ()),
        ),
        unresolved=(Unresolved(ip_network("10.0.9.0/30"), ip_address("198.51.100.1")),),
    )
    table = RouteTable(NoFib())
    table.programmed_count, table.removed_count, table.repaired_count = 12, 5, 2
    table.resync_count, table.resync_seconds = 3, 0.25
    observed = Observed(
        node=Node("n1", 64512, IPv4Address("192.0.2.1"), None),
        version="1.2.3",
        peer_names={H2: "n2"},
        store_kind="consul",
        store_reason=None,
        complaints=("this: fails",),
        speaker_reason=None,
        peers=tuple(Peer(address, IPv4Address("192.0.2.1"), 64512, 64512, "192.0.2.1") for address in (H2, TOR)),
        sessions={H2: SessionStatus(H2, SessionState.ESTABLISHED, 1.0, "")},
        decision=decision,
        routes_in_sync=True,
        route_failures={
            prefix: RouteFailure(prefix, number, "no")
            for prefix, number in ((OWN, errno.EEXIST), (OTHERS, errno.ENETUNREACH), (workload, errno.ENODEV))
        },
        missing_addresses=(),
        holders={},
        pool_count=2,
        malformed={"pools/x": "no JSON"},
        peer_problems={"border": "filter x does not exist"},
    )
    return Reading(
        observed=observed,
        cluster=CLUSTER,
        blocks=BLOCKS,
        transactions=Counters(transaction_count=9, conflict_count=2, retry_count=3, answer_count=20),
        given=Given(leak_candidate_count=4, collected_count=6, returned_count=1),
        table=table,
        failed_pass_count=1,
        heard=Heard({H2: 3, TOR: 6}, 2, {H2: 8}, {TOR: 5}),
        announced_count=2,
        waiting_count=1,
        watch_lag_seconds=1.5,
    )


def series(reading: Reading) -> dict[str, float]:
    """Return every series that is read off, as it is written, and its value."""
    text = exposition(list(families(reading)), Instruments()).decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_every_number_has_its_name(reading: Reading) -> None:
    """Of everything that operators ask for."""
    h2, tor = 'name="n2",peer="192.0.2.2"', 'name="",peer="192.0.2.250"'
    expected = {
        'tortie_agent_info{node="n1",version="1.2.3"}': 1,
        "tortie_ready": 1,
        "tortie_complaints": 1,
        "tortie_malformed_records": 1,
        "tortie_missing_addresses": 0,
        'tortie_ipam_pool_addresses{pool="web"}': 65536,
        'tortie_ipam_pool_addresses{pool="wide"}': 2.0**64,
        'tortie_ipam_reserved_addresses{pool="web"}': 16,
        'tortie_ipam_reserved_addresses{pool="wide"}': 2.0**64,
        'tortie_ipam_allocations{pool="web"}': 2,
        'tortie_ipam_allocations{pool="wide"}': 0,
        'tortie_ipam_borrowed_allocations{pool="web"}': 1,
        'tortie_ipam_blocks{pool="web"}': 1,
        'tortie_ipam_free_addresses{pool="web"}': 2,
        "tortie_ipam_leak_candidates": 4,
        "tortie_ipam_reclaimed_addresses_total": 6,
        "tortie_ipam_returned_blocks_total": 1,
        "tortie_ipam_conflicts_total": 2,
        "tortie_ipam_retries_total": 3,
        'tortie_routes{kind="workload"}': 1,
        'tortie_routes{kind="block"}': 1,
        'tortie_routes{kind="learned"}': 3,
        "tortie_kernel_routes": 0,
        "tortie_routes_in_sync": 1,
        'tortie_failing_routes{reason="conflict"}': 1,
        'tortie_failing_routes{reason="refused"}': 2,
        "tortie_foreign_routes": 0,
        "tortie_unresolved_routes": 1,
        "tortie_routes_programmed_total": 12,
        "tortie_routes_removed_total": 5,
        "tortie_routes_repaired_total": 2,
        "tortie_route_resyncs_total": 3,
        "tortie_route_resync_seconds": 0.25,
        "tortie_route_apply_failures_total": 1,
        "tortie_bgp_connected": 1,
        'tortie_bgp_sessions{state="established"}': 1,
        'tortie_bgp_sessions{state="unknown"}': 1,
        'tortie_bgp_sessions{state="refused"}': 0,
        f"tortie_bgp_session_up{{{h2}}}": 1,
        f"tortie_bgp_session_up{{{tor}}}": 0,
        "tortie_bgp_peers_without_session": 1,
        f"tortie_bgp_session_losses_total{{{tor}}}": 5,
        f"tortie_bgp_updates_total{{{h2}}}": 8,
        f"tortie_bgp_prefixes_received{{{tor}}}": 6,
        f"tortie_bgp_prefixes_accepted{{{tor}}}": 1,
        f"tortie_bgp_prefixes_accepted{{{h2}}}": 3,
        f'tortie_bgp_prefixes_rejected{{{tor},reason="default_route"}}': 1,
        f'tortie_bgp_prefixes_rejected{{{tor},reason="outside_pools"}}': 4,
        "tortie_bgp_prefixes_stale": 2,
        "tortie_bgp_prefixes_announced": 2,
        "tortie_unannounced_addresses": 1,
        "tortie_store_connected": 1,
        "tortie_store_watch_lag_seconds": 1.5,
    }
    found = series(reading)
    assert {name: found.get(name) for name in expected} == expected
    assert not [name for name in found if "192.0.2.99" in name], "a peer that is none any more"


def test_an_agent_that_knows_nothing_yet_can_be_read(reading: Reading) -> None:
    """Without store, decision and speaker there are no routes and no sessions, and it says so."""
    observed = replace(
        reading.observed, store_reason="refused", decision=None, speaker_reason="gone", routes_in_sync=False
    )
    found = series(replace(reading, observed=observed, cluster=Cluster(), blocks=(), watch_lag_seconds=None))
    assert (found["tortie_ready"], found["tortie_store_connected"], found["tortie_bgp_connected"]) == (0, 0, 0)
    assert found['tortie_bgp_sessions{state="unknown"}'] == 2
    assert found["tortie_unresolved_routes"] == 0
    assert "tortie_store_watch_lag_seconds" not in found


def test_a_scrape_does_not_grow_with_workloads_or_routes(reading: Reading) -> None:
    """A host with many of both costs Prometheus no more than one with few."""
    many = tuple(held(ip_network(f"10.0.{number}.0/30"), "n1", *["n1"] * 4) for number in range(10, 250))
    routes = {
        prefix: KernelRoute(prefix, RouteKind.UNICAST, (NextHop(H2, 2),))
        for prefix in ip_network("10.1.0.0/16").subnets(new_prefix=30)
    }
    assert reading.observed.decision is not None
    decision = replace(reading.observed.decision, routes=DesiredRoutes(routes, Sweep.EVERYTHING), learned_count=16384)
    large = replace(reading, observed=replace(reading.observed, decision=decision), blocks=many)
    assert series(large).keys() == series(reading).keys()
    assert series(large)['tortie_ipam_allocations{pool="web"}'] == 960
    assert series(large)['tortie_routes{kind="learned"}'] == 16384


def test_a_pool_is_counted_by_its_addresses() -> None:
    """Also where it has more of them than a machine's word can count."""
    assert pool_uses(CLUSTER, BLOCKS, "n2") == (
        PoolUse("web", 65536, 16, held=3, borrowed=1, own_blocks=1, free=1),
        PoolUse("wide", 2**64, 2**64),
    )


def test_a_tally_counts_what_peers_tell() -> None:
    """A session that comes is no loss."""
    tally = Tally()
    for event in (SessionUp(H2), SessionDown(H2, "reset"), SessionUp(H2), SessionDown(H2, "reset")):
        tally.count(event)
    assert (tally.loss_counts, tally.update_counts) == ({H2: 2}, {})


def test_instruments_bound_their_labels() -> None:
    """Whatever a caller sends, there is one series for what nobody may ask; errors go by their names."""
    assert Instruments().watch_lag_seconds is None
    now = 10.0
    instruments = Instruments(lambda: now)
    instruments.store_heard()
    now = 12.5
    assert instruments.watch_lag_seconds == 2.5
    for command in ("ADD", "x" * 1000, None, "add"):
        instruments.cni_answered(command, ErrorCode.TRY_AGAIN_LATER, 0.2)
    instruments.cni_answered("DEL", None, 0.1)
    for error in (StoreUnavailable("a"), StoreDenied("b"), RefusedError("c"), None):
        instruments.store_asked("commit", 0.1, error)
    instruments.store_asked("watch", 0.0, StoreUnavailable("a"))
    for operation in ("get", "commit"):
        instruments.transaction_ended(operation, 0.1, None)
    lines = exposition([], instruments).decode().splitlines()
    assert {
        'tortie_cni_requests_total{command="ADD",result="try_again_later"} 1.0',
        'tortie_cni_requests_total{command="other",result="try_again_later"} 3.0',
        'tortie_cni_requests_total{command="DEL",result="success"} 1.0',
        'tortie_cni_request_seconds_count{command="other"} 3.0',
        'tortie_store_request_seconds_count{operation="commit"} 4.0',
        'tortie_store_errors_total{operation="commit",reason="unavailable"} 1.0',
        'tortie_store_errors_total{operation="commit",reason="denied"} 1.0',
        'tortie_store_errors_total{operation="commit",reason="refused"} 1.0',
        'tortie_store_errors_total{operation="watch",reason="unavailable"} 1.0',
        "tortie_ipam_transaction_seconds_count 1.0",
    } <= set(lines)
    assert not [line for line in lines if "_created" in line or 'operation="watch",le=' in line]

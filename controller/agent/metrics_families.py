"""The metrics that are read off what the agent knows, at the moment of a scrape.

Labels are a pool's name, a peer's address and the name it goes by, and closed sets. Never a workload or its address.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING

from controller.agent.metrics_bgp import bgp_families
from controller.agent.metrics_pools import pool_uses
from controller.agent.metrics_samples import counter, gauge, gauges
from controller.agent.status import obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from controller.agent.metrics_reading import Reading
    from controller.agent.metrics_samples import Labelled
    from controller.agent.status import Observed


def families(reading: Reading) -> Iterator[Metric]:
    """Yield every metric that is read off what the agent knows."""
    yield from _agent(reading.observed)
    yield from _ipam(reading)
    yield from _routes(reading)
    yield from bgp_families(reading)
    yield from _store(reading)


def _agent(observed: Observed) -> Iterator[Metric]:
    yield gauges(
        "tortie_agent_info",
        "Always 1; the labels name the node and the release.",
        ("node", "version"),
        {(observed.node.name, observed.version): 1},
    )
    yield gauge("tortie_ready", "1 while a new workload would be wired.", obstacle(observed) is None)
    yield gauge(
        "tortie_complaints", "Steps of the agent that fail at present and are tried again.", len(observed.complaints)
    )
    yield gauge("tortie_malformed_records", "Records of the cluster that cannot be read.", len(observed.malformed))
    yield gauge(
        "tortie_missing_addresses", "Addresses of this node that no interface has.", len(observed.missing_addresses)
    )


def _ipam(reading: Reading) -> Iterator[Metric]:
    uses = pool_uses(reading.cluster, reading.blocks, reading.observed.node.name)
    for name, text, values in (
        ("pool_addresses", "Addresses of a pool.", {use.pool: use.size for use in uses}),
        (
            "reserved_addresses",
            "Addresses of a pool that automatic assignment leaves alone.",
            {use.pool: use.reserved for use in uses},
        ),
        ("allocations", "Addresses that workloads of this node hold.", {use.pool: use.held for use in uses}),
        (
            "borrowed_allocations",
            "Addresses that workloads of this node hold in blocks it does not own.",
            {use.pool: use.borrowed for use in uses},
        ),
        ("blocks", "Blocks that this node owns.", {use.pool: use.own_blocks for use in uses}),
        ("free_addresses", "Free addresses of the blocks that this node owns.", {use.pool: use.free for use in uses}),
    ):
        yield gauges(f"tortie_ipam_{name}", text, ("pool",), {(pool,): value for pool, value in values.items()})
    yield gauge(
        "tortie_ipam_leak_candidates",
        "Held addresses whose workload had no link at the last look.",
        reading.given.leak_candidate_count,
    )
    yield counter(
        "tortie_ipam_reclaimed_addresses",
        "Addresses that were collected because their workload was gone.",
        reading.given.collected_count,
    )
    yield counter("tortie_ipam_returned_blocks", "Empty blocks given back.", reading.given.returned_count)
    yield counter(
        "tortie_ipam_conflicts",
        "Transactions of address management that were overtaken by another writer.",
        reading.transactions.conflict_count,
    )
    yield counter(
        "tortie_ipam_retries",
        "Requests for addresses that were planned again after a conflict or an unanswered transaction.",
        reading.transactions.retry_count,
    )


def _routes(reading: Reading) -> Iterator[Metric]:
    observed, table = reading.observed, reading.table
    yield gauges("tortie_routes", "Routes that the kernel should have, by kind.", ("kind",), _route_kinds(reading))
    yield gauge("tortie_kernel_routes", "Routes of ours that the kernel is known to have.", table.route_count)
    yield gauge("tortie_routes_in_sync", "1 while the kernel has what it should have.", observed.routes_in_sync)
    failures = Counter(
        "conflict" if failure.error_number == errno.EEXIST else "refused"
        for failure in observed.route_failures.values()
    )
    yield gauges(
        "tortie_failing_routes",
        "Routes that the kernel does not take or give up: in conflict with somebody else's, or refused.",
        ("reason",),
        {(reason,): failures[reason] for reason in ("conflict", "refused")},
    )
    yield gauge(
        "tortie_foreign_routes",
        "Routes of somebody else on workloads' links; they are left alone.",
        len(observed.foreign_routes),
    )
    yield gauge(
        "tortie_unresolved_routes",
        "Accepted routes whose next hop lies in no subnet of this host.",
        0 if observed.decision is None else len(observed.decision.unresolved),
    )
    yield counter("tortie_routes_programmed", "Routes written to the kernel.", table.programmed_count)
    yield counter("tortie_routes_removed", "Routes removed from the kernel.", table.removed_count)
    yield counter(
        "tortie_routes_repaired", "Routes written because somebody else had changed them.", table.repaired_count
    )
    yield counter("tortie_route_resyncs", "Readings of all routes of ours from the kernel.", table.resync_count)
    yield gauge("tortie_route_resync_seconds", "How long the last such reading took, in seconds.", table.resync_seconds)
    yield counter(
        "tortie_route_apply_failures",
        "Passes in which the kernel's routes could not be brought up to date.",
        reading.failed_pass_count,
    )


def _route_kinds(reading: Reading) -> Labelled:
    decision = reading.observed.decision
    if decision is None:
        return {}
    node = reading.observed.node.name
    wanted = decision.routes.routes
    blocks = sum(block.cidr in wanted for block in reading.blocks if block.affinity == node)
    return {
        ("learned",): decision.learned_count,
        ("block",): blocks,
        ("workload",): len(wanted) - decision.learned_count - blocks,
    }


def _store(reading: Reading) -> Iterator[Metric]:
    yield gauge("tortie_store_connected", "1 while the store answers.", reading.observed.store_reason is None)
    if reading.watch_lag_seconds is not None:
        yield gauge(
            "tortie_store_watch_lag_seconds",
            "Time since a watch of the store had its last answer, in seconds.",
            reading.watch_lag_seconds,
        )

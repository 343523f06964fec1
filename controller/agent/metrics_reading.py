"""What the metrics are read off: the agent at one moment, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.agent.cluster import Cluster
    from controller.agent.status import Observed
    from controller.assignment.waiting import Counters
    from controller.reconcile.route_table import RouteTable
    from ipam.address import IPAddress
    from ipam.block import Block


@dataclass(frozen=True, slots=True)
class Given:
    """How many addresses and blocks were given back so far, and how many addresses may be left behind."""

    leak_candidate_count: int
    collected_count: int
    returned_count: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What peers told: routes known now, how many of them are stale, and changes and lost sessions so far, by peer."""

    route_counts: Mapping[IPAddress, int]
    stale_count: int
    update_counts: Mapping[IPAddress, int]
    loss_counts: Mapping[IPAddress, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the agent knows at one moment.

    `blocks` are those that the node owns or holds addresses of, `failed_pass_count` how often the kernel could not be
    brought up to date at all; `announced_count` prefixes have been given to every session, and `waiting_count`
    addresses wait for that.
    """

    observed: Observed
    cluster: Cluster
    blocks: tuple[Block, ...]
    transactions: Counters
    given: Given
    table: RouteTable
    failed_pass_count: int
    heard: Heard
    announced_count: int
    waiting_count: int
    watch_lag_seconds: float | None

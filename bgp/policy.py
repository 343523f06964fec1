"""Which learned routes a node believes.

A peer must not be able to redirect the host's own traffic: only prefixes inside the pools count, and only with a
next hop that is known. What is refused is counted by its reason and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from bgp.prefixes import PrefixSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPAddress, IPNetwork
    from bgp.route import LearnedRoute


class Rejection(Enum):
    """Why a route was not accepted; the value is the label of its counter."""

    DEFAULT_ROUTE = "default_route"
    OUTSIDE_POOLS = "outside_pools"
    OWN_PREFIX = "own_prefix"
    INSIDE_OWN_BLOCK = "inside_own_block"
    NEXT_HOP_VERSION = "next_hop_version"
    OWN_NEXT_HOP = "own_next_hop"
    UNKNOWN_NEXT_HOP = "unknown_next_hop"
    AS_LOOP = "as_loop"


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a decision rests on, prepared once for any number of routes; build it with `policy_context`."""

    local_as: int
    pools: PrefixSet
    own_blocks: PrefixSet
    own_prefixes: frozenset[IPNetwork]
    own_addresses: frozenset[IPAddress]
    next_hops: frozenset[IPAddress]


def policy_context(
    *,
    local_as: int,
    pools: Iterable[IPNetwork],
    own_blocks: Iterable[IPNetwork],
    own_addresses: Iterable[IPAddress],
    next_hops: Iterable[IPAddress],
    held: Iterable[IPNetwork] = (),
) -> PolicyContext:
    """Return the context: `next_hops` are the other nodes' addresses, `held` the host prefixes of local workloads."""
    blocks = frozenset(own_blocks)
    return PolicyContext(
        local_as=local_as,
        pools=PrefixSet(pools),
        own_blocks=PrefixSet(blocks),
        own_prefixes=blocks | frozenset(held),
        own_addresses=frozenset(own_addresses),
        next_hops=frozenset(next_hops),
    )


def accept(route: LearnedRoute, context: PolicyContext) -> Rejection | None:
    """Return None if the route may be used, otherwise the first rule it breaks.

    A single address inside an own block is accepted: another node borrowed it, and its more specific route must win
    over the block's blackhole. A larger part of an own block is not: addresses are borrowed one by one. An address a
    local workload holds is never accepted from outside.
    """
    prefix = route.prefix
    if prefix.prefixlen == 0:
        return Rejection.DEFAULT_ROUTE
    if not context.pools.covers(prefix):
        return Rejection.OUTSIDE_POOLS
    if prefix in context.own_prefixes:
        return Rejection.OWN_PREFIX
    if prefix.prefixlen < prefix.max_prefixlen and context.own_blocks.covers(prefix):
        return Rejection.INSIDE_OWN_BLOCK
    if context.local_as in route.as_path:
        return Rejection.AS_LOOP
    return _check_next_hop(route, context)


def _check_next_hop(route: LearnedRoute, context: PolicyContext) -> Rejection | None:
    """Return the rule the next hop breaks: it must be of the prefix's IP version, another node's, or the peer's own."""
    if route.next_hop.version != route.prefix.version:
        return Rejection.NEXT_HOP_VERSION
    if route.next_hop in context.own_addresses:
        return Rejection.OWN_NEXT_HOP
    if route.next_hop != route.peer and route.next_hop not in context.next_hops:
        return Rejection.UNKNOWN_NEXT_HOP
    return None

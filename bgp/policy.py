"""Which learned routes a node believes.

A peer must not be able to redirect the host's own traffic: only prefixes inside the pools count, and only with a
next hop that is known. What is refused is counted by its reason and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from bgp.filter import Action, verdict
from bgp.prefixes import PrefixSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bgp.address import IPAddress, IPNetwork
    from bgp.filter import Rule
    from bgp.route import LearnedRoute


class Rejection(Enum):
    """Why a route was not accepted; the value is the label of its counter."""

    DEFAULT_ROUTE = "default_route"
    OUTSIDE_POOLS = "outside_pools"
    PART_OF_BLOCK = "part_of_block"
    OWN_PREFIX = "own_prefix"
    INSIDE_OWN_BLOCK = "inside_own_block"
    NEXT_HOP_VERSION = "next_hop_version"
    OWN_NEXT_HOP = "own_next_hop"
    UNKNOWN_NEXT_HOP = "unknown_next_hop"
    AS_LOOP = "as_loop"
    HOST_SUBNET = "host_subnet"
    FILTERED = "filtered"
    TOO_MANY_PREFIXES = "too_many_prefixes"


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a decision rests on, prepared once for any number of routes; build it with `policy_context`."""

    local_as: int
    pools: PrefixSet
    own_blocks: PrefixSet
    own_prefixes: frozenset[IPNetwork]
    own_addresses: frozenset[IPAddress]
    next_hops: frozenset[IPAddress]
    subnets: tuple[IPNetwork, ...] = ()
    #: Those of them that a prefix inside a pool can touch: usually none, which spares every route the comparison.
    subnets_in_pools: tuple[IPNetwork, ...] = ()
    rules_by_peer: Mapping[IPAddress, tuple[Rule, ...]] = field(default_factory=dict)
    local_as_by_peer: Mapping[IPAddress, int] = field(default_factory=dict)
    #: The pools of each block length.
    pools_by_block_length: tuple[tuple[int, PrefixSet], ...] = ()

    def cuts_block(self, version: int, address: int, length: int) -> bool:
        """Say whether a prefix is a part of a block, by the block length of its pool."""
        # A plain loop, as in `PrefixSet.covers_bits`.
        for block_length, pools in self.pools_by_block_length:
            if block_length < length and pools.covers_bits(version, address, length):
                return True
        return False


def policy_context(
    *,
    local_as: int,
    pools: Iterable[IPNetwork],
    own_blocks: Iterable[IPNetwork],
    own_addresses: Iterable[IPAddress],
    next_hops: Iterable[IPAddress],
    held: Iterable[IPNetwork] = (),
    subnets: Iterable[IPNetwork] = (),
    rules_by_peer: Mapping[IPAddress, tuple[Rule, ...]] | None = None,
    local_as_by_peer: Mapping[IPAddress, int] | None = None,
    block_length_of: Mapping[IPNetwork, int] | None = None,
) -> PolicyContext:
    """Return the context.

    `next_hops` are the other nodes' addresses, `held` the host prefixes of local workloads, `subnets` those of the
    host's own interfaces, `rules_by_peer` the import rules of the peers that have any, `local_as_by_peer` the AS number
    shown to peers that are not shown the node's own, `block_length_of` the prefix length of a pool's blocks.
    """
    blocks, ranges, hosts = frozenset(own_blocks), tuple(pools), tuple(subnets)
    lengths = block_length_of or {}
    return PolicyContext(
        local_as=local_as,
        pools=PrefixSet(ranges),
        own_blocks=PrefixSet(blocks),
        own_prefixes=blocks | frozenset(held),
        own_addresses=frozenset(own_addresses),
        next_hops=frozenset(next_hops),
        subnets=hosts,
        subnets_in_pools=tuple(
            host for host in hosts if any(host.version == pool.version and host.overlaps(pool) for pool in ranges)
        ),
        rules_by_peer=rules_by_peer or {},
        local_as_by_peer=local_as_by_peer or {},
        pools_by_block_length=tuple(
            (length, PrefixSet(pool for pool, blocks_length in lengths.items() if blocks_length == length))
            for length in set(lengths.values())
        ),
    )


class Judge:
    """Judges routes one after the other; what one shares with the one before, as most do, is not judged again."""

    def __init__(self, context: PolicyContext) -> None:
        self._context = context
        self._shared: tuple[IPAddress, IPAddress, tuple[int, ...]] | None = None
        self._rules: tuple[Rule, ...] | None = None
        self._loops = False
        self._version = 0
        self._hop_rejection: Rejection | None = None

    def rejection(self, route: LearnedRoute) -> Rejection | None:  # noqa: PLR0911 - one rule, one return
        """Return what `accept` does."""
        context, (prefix, next_hop, peer, as_path) = self._context, route[:4]
        shared = self._shared
        if shared is None or shared[0] is not next_hop or shared[1] is not peer or shared[2] is not as_path:
            self._look_at(next_hop, peer, as_path)
        # What is empty is not looked into: most hosts have no rules.
        action = verdict(self._rules, prefix, route.communities) if self._rules else None
        if action is Action.REJECT:
            return Rejection.FILTERED
        version, address, length = prefix.version, int(prefix.network_address), prefix.prefixlen
        if action is None:
            if length == 0:
                return Rejection.DEFAULT_ROUTE
            if not context.pools.covers_bits(version, address, length):
                return Rejection.OUTSIDE_POOLS
        if self._loops:
            return Rejection.AS_LOOP
        if prefix in context.own_prefixes:
            return Rejection.OWN_PREFIX
        is_single = length == prefix.max_prefixlen
        if not is_single and context.own_blocks.covers_bits(version, address, length):
            return Rejection.INSIDE_OWN_BLOCK
        subnets = context.subnets_in_pools if action is None else context.subnets
        if subnets and length and any(subnet.version == version and subnet.overlaps(prefix) for subnet in subnets):
            return Rejection.HOST_SUBNET
        if action is None and not is_single and context.cuts_block(version, address, length):
            return Rejection.PART_OF_BLOCK
        return self._hop_rejection if version == self._version else Rejection.NEXT_HOP_VERSION

    def _look_at(self, next_hop: IPAddress, peer: IPAddress, as_path: tuple[int, ...]) -> None:
        """Judge what is not the prefix's: the next hop must be another node's or the peer's own."""
        context = self._context
        self._shared = next_hop, peer, as_path
        self._rules = context.rules_by_peer.get(peer)
        self._loops = context.local_as in as_path or context.local_as_by_peer.get(peer) in as_path
        self._version = next_hop.version
        self._hop_rejection = None
        if next_hop in context.own_addresses:
            self._hop_rejection = Rejection.OWN_NEXT_HOP
        elif next_hop != peer and next_hop not in context.next_hops:
            self._hop_rejection = Rejection.UNKNOWN_NEXT_HOP


def accept(route: LearnedRoute, context: PolicyContext) -> Rejection | None:
    """Return None if the route may be used, otherwise the first rule it breaks.

    An import rule that accepts a route lets it lie outside the pools, be a part of a block, and be a default route;
    nothing else. A single address inside an own block is accepted: another node borrowed it, and its more specific
    route must win over the block's blackhole. A larger part of a block is not, whoever owns it: blocks are announced
    whole and borrowed addresses one by one, so it could only draw in what is another's. An address a local workload
    holds is never accepted from outside, nor is anything that would draw in the host's own subnets. The next hop must
    be of the prefix's IP version, and another node's or the peer's own.
    """
    return Judge(context).rejection(route)

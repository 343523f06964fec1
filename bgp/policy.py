"""Which learned routes a node believes.

A peer must not be able to redirect the host's own traffic: only prefixes inside the pools count, and only with a
next hop that is known. What is refused is counted by its reason and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from bgp.filter import Action, verdict
from bgp.prefixes import PrefixSet, is_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bgp.address import IPAddress, IPNetwork
    from bgp.filter import Rule
    from bgp.prefixes import Heads
    from bgp.route import LearnedRoute


class Rejection(Enum):
    """Why a route was not accepted; the value is the label of its counter.

    The last three are found by the speaker, which passes on no more of such a route than that it is there.
    """

    DEFAULT_ROUTE = "default_route"
    OUTSIDE_POOLS = "outside_pools"
    PART_OF_BLOCK = "part_of_block"
    OWN_PREFIX = "own_prefix"
    INSIDE_OWN_BLOCK = "inside_own_block"
    NEXT_HOP_VERSION = "next_hop_version"
    OWN_NEXT_HOP = "own_next_hop"
    UNKNOWN_NEXT_HOP = "unknown_next_hop"
    AS_LOOP = "as_loop"
    FIRST_AS = "first_as"
    HOST_SUBNET = "host_subnet"
    FILTERED = "filtered"
    TOO_MANY_PREFIXES = "too_many_prefixes"
    MALFORMED = "malformed"
    LONG_ATTRIBUTES = "long_attributes"
    SESSION_FULL = "session_full"


@dataclass(frozen=True, slots=True)
class RejectedRoutes:
    """How many routes of one peer were refused by one rule, and the first prefixes of them."""

    peer: IPAddress
    reason: Rejection
    count: int
    examples: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a decision rests on, prepared once for any number of routes; build it with `policy_context`."""

    local_as: int
    pools: PrefixSet
    own_blocks: PrefixSet
    own_prefixes: frozenset[IPNetwork]
    own_numbers_by_length: Mapping[tuple[int, int], frozenset[int]]
    own_addresses: frozenset[IPAddress]
    next_hops: frozenset[IPAddress]
    subnets: tuple[IPNetwork, ...] = ()
    #: Those of them that a prefix inside a pool can touch: usually none, which spares every route the comparison.
    subnets_in_pools: tuple[IPNetwork, ...] = ()
    rules_by_peer: Mapping[IPAddress, tuple[Rule, ...]] = field(default_factory=dict)
    local_as_by_peer: Mapping[IPAddress, int] = field(default_factory=dict)
    as_by_external_peer: Mapping[IPAddress, int] = field(default_factory=dict)
    #: The pools of each block length.
    pools_by_block_length: tuple[tuple[int, PrefixSet], ...] = ()

    def own_numbers(self, version: int, length: int) -> frozenset[int]:
        """Return the addresses of the own prefixes of that length."""
        return self.own_numbers_by_length.get((version, length), frozenset())

    def blocks_cut(self, version: int, length: int) -> Heads:
        """Return the pools in which a prefix of that length is a part of a block, by the block length of the pool."""
        return tuple(
            head
            for block_length, pools in self.pools_by_block_length
            if block_length < length
            for head in pools.around(version, length)
        )


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
    as_by_external_peer: Mapping[IPAddress, int] | None = None,
    block_length_of: Mapping[IPNetwork, int] | None = None,
) -> PolicyContext:
    """Return the context.

    `next_hops` are the other nodes' addresses, `held` the host prefixes of local workloads, `subnets` those of the
    host's own interfaces, `rules_by_peer` the import rules of the peers that have any, `local_as_by_peer` the AS number
    shown to peers that are not shown the node's own, `as_by_external_peer` the AS numbers of peers in other ASes,
    `block_length_of` the prefix length of a pool's blocks.
    """
    blocks, ranges, hosts = frozenset(own_blocks), tuple(pools), tuple(subnets)
    lengths = block_length_of or {}
    own_prefixes = blocks | frozenset(held)
    return PolicyContext(
        local_as=local_as,
        pools=PrefixSet(ranges),
        own_blocks=PrefixSet(blocks),
        own_prefixes=own_prefixes,
        own_numbers_by_length=_numbers_by_length(own_prefixes),
        own_addresses=frozenset(own_addresses),
        next_hops=frozenset(next_hops),
        subnets=hosts,
        subnets_in_pools=tuple(
            host for host in hosts if any(host.version == pool.version and host.overlaps(pool) for pool in ranges)
        ),
        rules_by_peer=rules_by_peer or {},
        local_as_by_peer=local_as_by_peer or {},
        as_by_external_peer=as_by_external_peer or {},
        pools_by_block_length=tuple(
            (length, PrefixSet(pool for pool, blocks_length in lengths.items() if blocks_length == length))
            for length in set(lengths.values())
        ),
    )


def _numbers_by_length(prefixes: Iterable[IPNetwork]) -> dict[tuple[int, int], frozenset[int]]:
    """Return the prefixes' addresses as numbers, by IP version and length."""
    numbers: dict[tuple[int, int], set[int]] = {}
    for prefix in prefixes:
        numbers.setdefault((prefix.version, prefix.prefixlen), set()).add(int(prefix.network_address))
    return {key: frozenset(found) for key, found in numbers.items()}


def rejections(routes: Iterable[LearnedRoute], context: PolicyContext) -> Iterator[Rejection | None]:  # noqa: PLR0912 - one rule, one branch
    """Yield None for each route that may be used, otherwise the first rule it breaks.

    An import rule that accepts a route lets it lie outside the pools, be a part of a block, and be a default route;
    nothing else. A single address inside an own block is accepted: another node borrowed it, and its more specific
    route must win over the block's blackhole. A larger part of a block is not, whoever owns it: blocks are announced
    whole and borrowed addresses one by one, so it could only draw in what is another's. An address a local workload
    holds is never accepted from outside, nor is anything that would draw in the host's own subnets. The next hop must
    be of the prefix's IP version, and another node's or the peer's own.
    """
    # What a route shares with the one before, as most do, is judged once: routes that came together share objects.
    hop_before = peer_before = path_before = None
    mask_before: IPAddress | None = None
    own_prefixes, subnets_in_pools = context.own_prefixes, context.subnets_in_pools
    for prefix, next_hop, peer, as_path, _, _, _, communities, _, _ in routes:
        hop_changed = next_hop is not hop_before or peer is not peer_before or as_path is not path_before
        if hop_changed:
            hop_before, peer_before, path_before = next_hop, peer, as_path
            rules = context.rules_by_peer.get(peer)
            path_rejection = _check_path(as_path, peer, context)
            hop_rejection = _check_next_hop(next_hop, peer, context)
        if hop_changed or prefix.netmask is not mask_before:
            mask_before = prefix.netmask
            version, length = prefix.version, prefix.prefixlen
            pools, own_blocks = context.pools.around(version, length), context.own_blocks.around(version, length)
            cut_blocks = context.blocks_cut(version, length)
            is_single = length == prefix.max_prefixlen
            may_be_part = not is_single and (cut_blocks or context.own_blocks.around(version, length - 1))
            # Nearly always only the pools and the own prefixes can speak against a route.
            is_usual = next_hop.version == version and length > 0
            is_usual = is_usual and not (rules or path_rejection or hop_rejection or may_be_part or subnets_in_pools)
            own_numbers = context.own_numbers(version, length)
        address = int(prefix.network_address)
        if is_usual and address not in own_numbers and is_inside(address, pools):
            yield None
            continue
        action = verdict(rules, prefix, communities) if rules else None
        subnets = subnets_in_pools if action is None else context.subnets
        if action is Action.REJECT:
            yield Rejection.FILTERED
        elif action is None and length == 0:
            yield Rejection.DEFAULT_ROUTE
        elif action is None and not is_inside(address, pools):
            yield Rejection.OUTSIDE_POOLS
        elif path_rejection is not None:
            yield path_rejection
        elif prefix in own_prefixes:
            yield Rejection.OWN_PREFIX
        elif own_blocks and not is_single and is_inside(address, own_blocks):
            yield Rejection.INSIDE_OWN_BLOCK
        elif subnets and length and any(subnet.version == version and subnet.overlaps(prefix) for subnet in subnets):
            yield Rejection.HOST_SUBNET
        elif cut_blocks and action is None and not is_single and is_inside(address, cut_blocks):
            yield Rejection.PART_OF_BLOCK
        elif next_hop.version != version:
            yield Rejection.NEXT_HOP_VERSION
        else:
            yield hop_rejection


def _check_path(as_path: tuple[int, ...], peer: IPAddress, context: PolicyContext) -> Rejection | None:
    """Return the rule the path breaks, whatever the prefix: it must not hold this AS, and begin with the peer's.

    The latter goes for peers of other ASes (RFC 4271, section 6.3): a shorter path would win over the true ones. Within
    a confederation the segment of member ASes begins with the peer's (RFC 5065, section 4).
    """
    if context.local_as in as_path or context.local_as_by_peer.get(peer) in as_path:
        return Rejection.AS_LOOP
    first = context.as_by_external_peer.get(peer)
    if first is not None and as_path[:1] != (first,):
        return Rejection.FIRST_AS
    return None


def _check_next_hop(next_hop: IPAddress, peer: IPAddress, context: PolicyContext) -> Rejection | None:
    """Return the rule the next hop breaks, whatever the prefix: it must be another node's, or the peer's own."""
    if next_hop in context.own_addresses:
        return Rejection.OWN_NEXT_HOP
    if next_hop != peer and next_hop not in context.next_hops:
        return Rejection.UNKNOWN_NEXT_HOP
    return None

"""Which address a workload gets: from which pool, out of which block, with which ordinal.

In this order: the address that was asked for; one that is remembered for the workload; the node's own blocks; a block
claimed; an empty block of another node reclaimed; an address borrowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ipam.block import Block
from ipam.errors import AddressUnavailable, MoreNeeded, PoolExhausted
from ipam.qualification import allowed_pools, pool_of
from ipam.specific import check_assignable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipam.address import IPAddress, IPNetwork
    from ipam.errors import IpamError
    from ipam.pool import Pool
    from ipam.request import AssignRequest
    from ipam.summary import BlockSummary
    from ipam.view import View

#: How long after its claim an empty block of another node is left alone, in seconds: its first workload is on its way.
RECLAIM_AGE_SECONDS: Final = 60.0
#: How many blocks of other nodes are read at once when one of them is wanted.
_READ_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """An ordinal that nobody holds, in a block as it is before; `claimed_from` is its pool if the block is claimed."""

    block: Block
    ordinal: int
    claimed_from: Pool | None = None


def choose(view: View, request: AssignRequest, version: int, *, now: float) -> Choice:
    """Return where the request's address of this IP version comes from; raises `Refused` and `MoreNeeded`."""
    address = request.address(version)
    if address is not None:
        return _specific(view, request, address, now)
    pools = allowed_pools(view, request, version)
    own = [block for block in view.own_blocks() if block.version == version]
    choice = (
        _remembered(view, request, pools)
        or _own(view, own, pools, now)
        or _claimed(view, own, pools, now)
        or _reclaimed(view, own, pools, now)
        or _borrowed(view, pools, now)
    )
    if choice is None:
        raise PoolExhausted(_exhausted_text(view, pools, own))
    return choice


def _specific(view: View, request: AssignRequest, address: IPAddress, now: float) -> Choice:
    """Take the address that was asked for; it overrides reservations, selectors and `manual`, nothing else."""
    pool = pool_of(view, request, address)
    # A block left behind by an earlier pool may have another size than the pool's.
    block = next((block for block in view.block_by_cidr.values() if _covers(block.cidr, address)), None)
    if block is not None:
        ordinal = block.ordinal_of(address)
        check_assignable(view, request, block, ordinal, now)
        return Choice(block, ordinal)
    cidr = pool.block_of(address)
    if not view.existing(pool).isdisjoint(pool.indexes_in(cidr)):
        raise _unread(view, address)
    # A node with all the blocks it may own gets the address all the same, in a block that nobody owns.
    own = [block for block in view.own_blocks() if block.version == address.version]
    owned = _below_limit(view, own) or view.configuration.strict_affinity
    claimed = Block.claimed(cidr, node=view.node if owned else None, at=now)
    return Choice(claimed, claimed.ordinal_of(address), pool)


def _unread(view: View, address: IPAddress) -> IpamError:
    """Return what to raise for an address whose block is known to exist and not by its content."""
    if view.summary_by_cidr is None:
        return MoreNeeded()
    cidr = next((cidr for cidr in view.summary_by_cidr if _covers(cidr, address)), None)
    if cidr is not None and cidr not in view.unreadable:
        return MoreNeeded((cidr,))
    return AddressUnavailable(
        f"{address} lies in block {cidr}, whose record cannot be read; see `tortiectl ipam check`"
        if cidr is not None
        else f"{address} lies in a block that overlaps one of another size; see `tortiectl ipam check`"
    )


def _covers(cidr: IPNetwork, address: IPAddress) -> bool:
    return cidr.version == address.version and address in cidr


def _remembered(view: View, request: AssignRequest, pools: list[Pool]) -> Choice | None:
    if request.sticky:
        for block in _inside(view.block_by_cidr.values(), pools):
            if block.affinity != view.node and view.configuration.strict_affinity:
                continue
            ordinal = block.kept_for(request.full_name)
            if ordinal is not None:
                return Choice(block, ordinal)
    return None


def _own(view: View, own: list[Block], pools: list[Pool], now: float) -> Choice | None:
    return _first(view, _inside(own, pools), now)


def _claimed(view: View, own: list[Block], pools: list[Pool], now: float) -> Choice | None:
    if not _may_claim(view, own):
        return None
    for pool in pools:
        existing = view.existing(pool)
        # Counting first keeps a refusal cheap: a full pool is not walked.
        if len(existing) < pool.block_count:
            for cidr in pool.candidates(view.node, existing, view.barred(pool)):
                block = Block.claimed(cidr, node=view.node, at=now)
                ordinal = block.next_free(now, view.reserved_in(cidr))
                if ordinal is not None:
                    return Choice(block, ordinal, pool)
    return None


def _reclaimed(view: View, own: list[Block], pools: list[Pool], now: float) -> Choice | None:
    """Take over a block that another node owns and does not use, the next ones from where this node begins to look."""
    if not _may_claim(view, own):
        return None
    unread = []
    for summary in _others(view, pools):
        block = view.block_by_cidr.get(summary.cidr)
        if block is None:
            if summary.is_empty(now) and summary.claimed_at + RECLAIM_AGE_SECONDS <= now:
                unread.append(summary.cidr)
        elif block.is_empty(now) and block.claimed_at + RECLAIM_AGE_SECONDS <= now:
            ordinal = block.next_free(now, view.reserved_in(block.cidr))
            if ordinal is not None:
                pool = next(pool for pool in pools if pool.contains(block.cidr))
                return Choice(block.reclaimed(node=view.node, at=now), ordinal, pool)
    if unread:
        raise MoreNeeded(tuple(unread[:_READ_AT_ONCE]))
    return None


def _borrowed(view: View, pools: list[Pool], now: float) -> Choice | None:
    """Take an address out of a block that is not the node's own; out of one that it borrows from already, if it can."""
    if view.configuration.strict_affinity:
        return None
    others = [block for block in _inside(view.block_by_cidr.values(), pools) if block.affinity != view.node]
    choice = _first(view, others, now)
    if choice is not None:
        return choice
    unread = [
        summary.cidr for summary in _others(view, pools) if summary.may_lend and summary.cidr not in view.block_by_cidr
    ]
    if unread:
        raise MoreNeeded(tuple(unread[:_READ_AT_ONCE]))
    return None


def _first(view: View, blocks: Iterable[Block], now: float) -> Choice | None:
    for block in blocks:
        ordinal = block.next_free(now, view.reserved_in(block.cidr))
        if ordinal is not None:
            return Choice(block, ordinal)
    return None


def _inside(blocks: Iterable[Block], pools: list[Pool]) -> list[Block]:
    return [block for block in blocks if any(pool.contains(block.cidr) for pool in pools)]


def _may_claim(view: View, own: list[Block]) -> bool:
    """Tell whether the node may own another block of the IP version of which these are its own."""
    return view.configuration.auto_allocate_blocks and _below_limit(view, own)


def _below_limit(view: View, own: list[Block]) -> bool:
    return len(own) < view.configuration.max_blocks_per_node


def _others(view: View, pools: list[Pool]) -> list[BlockSummary]:
    """Return all blocks of the pools that are not the node's, in the order in which this node should try them."""
    if view.summary_by_cidr is None:
        raise MoreNeeded
    found = []
    for position, pool in enumerate(pools):
        start = pool.start_of(view.node)
        for summary in view.summary_by_cidr.values():
            if summary.affinity == view.node or summary.cidr in view.unreadable:
                continue
            if pool.contains(summary.cidr):
                distance = (pool.indexes_in(summary.cidr).start - start) % pool.block_count
                found.append((position, distance, summary))
    return [summary for _, _, summary in sorted(found, key=lambda each: each[:2])]


def _exhausted_text(view: View, pools: list[Pool], own: list[Block]) -> str:
    parts = []
    for pool in pools:
        mine = [block for block in own if pool.contains(block.cidr)]
        parts.append(
            f"pool {pool.name} ({pool.cidr}) has {len(view.existing(pool))} of {pool.block_count} blocks claimed, "
            f"{len(mine)} of them by this node with {sum(block.in_use for block in mine)} of "
            f"{sum(block.size for block in mine)} addresses in use"
        )
    configuration = view.configuration
    if len(own) >= configuration.max_blocks_per_node:
        parts.append(f"the node owns {len(own)} blocks, and {configuration.max_blocks_per_node} is the most it may own")
    if not configuration.auto_allocate_blocks:
        parts.append("blocks are not claimed automatically")
    if configuration.strict_affinity:
        parts.append("strict affinity forbids addresses out of the blocks of others")
    return (
        f"node {view.node}: no IPv{pools[0].version} address is left: {'; '.join(parts)}; "
        f"release addresses or add a pool"
    )

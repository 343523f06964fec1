"""Which address a workload gets: from which pool, out of which block, with which ordinal.

In this order: the address that was asked for; one that is remembered for the workload; the node's own blocks; a block
claimed; an empty block of another node reclaimed; an address borrowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from ipam.block import Block
from ipam.errors import AddressUnavailable, MoreNeeded, PoolExhausted
from ipam.exhaustion import exhausted_text
from ipam.qualification import allowed_pools, pool_of
from ipam.specific import check_assignable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
        _remembered(view, request, own, pools, now)
        or _own(view, own, pools, now)
        or _claimed(view, own, pools, now)
        or _reclaimed(view, own, pools, now)
        or _borrowed(view, pools, now)
    )
    if choice is None:
        raise PoolExhausted(exhausted_text(view, pools, own, now))
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
    claimed = Block.claimed(cidr, node=view.node if _below_limit(view, own) else None, at=now)
    return Choice(claimed, claimed.ordinal_of(address), pool)


def _unread(view: View, address: IPAddress) -> IpamError:
    """Return what to raise for an address whose block is known to exist and not by its content."""
    if view.summary_by_cidr is None:
        return MoreNeeded()
    broken = next((cidr for cidr in view.unreadable if _covers(cidr, address)), None)
    if broken is not None:
        return AddressUnavailable(
            f"{address} lies in block {broken}, whose record cannot be read; see `tortiectl ipam check`"
        )
    cidr = next((cidr for cidr in view.summary_by_cidr if _covers(cidr, address)), None)
    if cidr is not None:
        return MoreNeeded((cidr,))
    return AddressUnavailable(
        f"{address} lies in a block that overlaps one of another size; see `tortiectl ipam check`"
    )


def _covers(cidr: IPNetwork, address: IPAddress) -> bool:
    return cidr.version == address.version and address in cidr


def _remembered(view: View, request: AssignRequest, own: list[Block], pools: list[Pool], now: float) -> Choice | None:
    if not request.sticky:
        return None
    others = [] if view.configuration.strict_affinity else _known_others(view, pools)
    for block in (*_inside(own, pools), *others):
        ordinal = block.kept_for(request.full_name, now, view.reserved_in(block.cidr))
        if ordinal is not None:
            return Choice(block, ordinal)
    return None


def _own(view: View, own: list[Block], pools: list[Pool], now: float) -> Choice | None:
    # A busy node's blocks are mostly full, which is quicker to see than where they lie.
    return _first(view, _inside((block for block in own if block.free or block.resting), pools), now)


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
    """Take over a block that nobody uses, the next one from where this node begins to look."""
    if not _may_claim(view, own):
        return None
    for block in _known_others(view, pools):
        if _is_abandoned(block, now):
            ordinal = block.next_free(now, view.reserved_in(block.cidr))
            if ordinal is not None:
                pool = next(pool for pool in pools if pool.contains(block.cidr))
                return Choice(block.reclaimed(node=view.node, at=now), ordinal, pool)
    _read_others(view, pools, lambda summary: _is_abandoned(summary, now))
    return None


def _is_abandoned(block: Block | BlockSummary, now: float) -> bool:
    """Tell whether nobody uses a block and nobody is about to: one without an owner was claimed with its holder."""
    old = block.affinity is None or block.claimed_at + RECLAIM_AGE_SECONDS <= now
    return old and block.is_empty(now)


def _borrowed(view: View, pools: list[Pool], now: float) -> Choice | None:
    """Take an address out of a block that is not the node's own; out of one that it borrows from already, if it can."""
    if view.configuration.strict_affinity:
        return None
    choice = _first(view, _known_others(view, pools), now)
    if choice is None:
        _read_others(view, pools, lambda _summary: True)
    return choice


def _known_others(view: View, pools: list[Pool]) -> list[Block]:
    """Return the known blocks that are not the node's own: those in which it holds addresses, then as it tries them."""

    def rank(block: Block) -> tuple[bool, int, int]:
        position = next(position for position, pool in enumerate(pools) if pool.contains(block.cidr))
        return (
            view.node not in block.holding_nodes(),
            position,
            pools[position].distance(view.node, block.cidr),
        )

    others = [block for block in view.block_by_cidr.values() if block.affinity != view.node]
    return sorted(_inside(others, pools), key=rank)


def _read_others(view: View, pools: list[Pool], wanted: Callable[[BlockSummary], bool]) -> None:
    """Raise `MoreNeeded` if there may be blocks like this that are not the node's own and were not read."""
    if view.summary_by_cidr is None:
        raise MoreNeeded
    unread = (
        summary.cidr
        for pool in pools
        for summary in view.others_by_pool.get(pool.name, ())
        if wanted(summary)
        and summary.cidr not in view.block_by_cidr
        and summary.cidr not in view.unreadable
        and not _is_reserved(view, summary)
    )
    blocks = tuple(islice(unread, _READ_AT_ONCE))
    if blocks:
        raise MoreNeeded(blocks)


def _is_reserved(view: View, summary: BlockSummary) -> bool:
    return view.reserved_in(summary.cidr) == (range(summary.size),)


def _first(view: View, blocks: Iterable[Block], now: float) -> Choice | None:
    for block in blocks:
        ordinal = block.next_free(now, view.reserved_in(block.cidr))
        if ordinal is not None:
            return Choice(block, ordinal)
    return None


def _inside(blocks: Iterable[Block], pools: list[Pool]) -> Iterator[Block]:
    return (block for block in blocks if any(pool.contains(block.cidr) for pool in pools))


def _may_claim(view: View, own: list[Block]) -> bool:
    """Tell whether the node may own another block of the IP version of which these are its own."""
    return view.configuration.auto_allocate_blocks and _below_limit(view, own)


def _below_limit(view: View, own: list[Block]) -> bool:
    return len(own) < view.configuration.max_blocks_per_node

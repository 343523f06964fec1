"""What is known of a block without reading it: enough to count, to find room and to find blocks nobody uses."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipam.pool import check_block_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.pool import Pool


@dataclass(frozen=True, slots=True)
class BlockSummary:
    """A block's owner and its counts, as of its last write; raises `InvalidBlock` for a size that no block has.

    `in_use` addresses are held and `resting_count` rest after their release; the last of them has rested at
    `rested_at`, in epoch seconds, as is `claimed_at`.
    """

    cidr: IPNetwork
    affinity: str | None
    claimed_at: float
    in_use: int
    resting_count: int = 0
    rested_at: float = 0.0

    def __post_init__(self) -> None:
        """Check the block's size: whatever stands in the store, no summary makes a whole pool taken."""
        check_block_size(self.cidr)

    @classmethod
    def of(cls, block: Block) -> BlockSummary:
        """Return the summary of a block."""
        rested_at = max((rest.until for rest in block.resting.values()), default=0.0)
        return cls(block.cidr, block.affinity, block.claimed_at, block.in_use, len(block.resting), rested_at)

    @property
    def size(self) -> int:
        """How many addresses the block has."""
        return self.cidr.num_addresses

    @property
    def may_lend(self) -> bool:
        """Whether the block may have an address for somebody; reading it is the test."""
        return self.in_use < self.size

    def is_empty(self, now: float) -> bool:
        """Tell whether nobody holds an address of the block and none has to rest any longer."""
        return self.in_use == 0 and self.rested_at <= now


def blocks_by_pool(
    pools: Iterable[Pool], summaries: Iterable[BlockSummary]
) -> tuple[list[tuple[Pool, list[BlockSummary]]], list[BlockSummary]]:
    """Return each pool with the blocks in it, and the blocks that lie in no pool; all in the order of addresses."""
    ordered = sorted(pools, key=_place)
    starts = [_place(pool)[:2] for pool in ordered]
    inside: list[list[BlockSummary]] = [[] for _ in ordered]
    outside: list[BlockSummary] = []
    for summary in sorted(summaries, key=_place):
        # Pools do not overlap: the last one that begins before the block is the only one that may contain it.
        index = bisect_right(starts, _place(summary)[:2]) - 1
        contained = index >= 0 and ordered[index].contains(summary.cidr)
        (inside[index] if contained else outside).append(summary)
    return list(zip(ordered, inside, strict=True)), outside


def _place(ranged: Pool | BlockSummary) -> tuple[int, int, int]:
    """Return what to sort by: integers compare ten times as fast as networks do, and there may be ten thousands."""
    return ranged.cidr.version, int(ranged.cidr.network_address), ranged.cidr.prefixlen

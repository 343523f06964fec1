"""How full the pools are, as the status page shows it: one cell for a block, and for several where there are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ipam.summary import blocks_by_pool

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ipam.pool import Pool
    from ipam.summary import BlockSummary

#: How many cells one pool may have, and all of them together: a browser lays out no more in a blink.
_MOST_CELLS: Final = 400
_MOST_CELLS_IN_ALL: Final = 2000
#: The owner of a block that no node owns.
_NOBODY: Final = "no node"
_MOST_OWNERS: Final = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """Claimed blocks that follow each other, usually one: the first and last, whose they are, and how full.

    `owners` are at most three, the others of `owner_count` are not named.
    """

    first: str
    last: str
    block_count: int
    owners: tuple[str, ...]
    owner_count: int
    in_use: int
    total: int


@dataclass(frozen=True, slots=True)
class PoolPicture:
    """A pool and its claimed blocks; `total` are all its addresses, as text: JavaScript's numbers end at 2**53."""

    name: str
    cidr: str
    block_prefix_length: int
    disabled: bool
    block_count: str
    claimed_count: int
    total: str
    in_use: int
    used_share: float
    cells: tuple[Cell, ...]


def pool_pictures(pools: Collection[Pool], summaries: Collection[BlockSummary]) -> tuple[PoolPicture, ...]:
    """Return every pool in the order of addresses; blocks outside of pools are left out."""
    most = max(1, min(_MOST_CELLS, _MOST_CELLS_IN_ALL // max(1, len(pools))))
    inside, _ = blocks_by_pool(pools, summaries)
    return tuple(_picture(pool, blocks, most) for pool, blocks in inside)


def _picture(pool: Pool, blocks: Sequence[BlockSummary], most: int) -> PoolPicture:
    size = -(-len(blocks) // most) or 1
    in_use = sum(block.in_use for block in blocks)
    return PoolPicture(
        name=pool.name,
        cidr=str(pool.cidr),
        block_prefix_length=pool.block_prefix_length,
        disabled=pool.disabled,
        block_count=str(pool.block_count),
        claimed_count=len(blocks),
        total=str(pool.cidr.num_addresses),
        in_use=in_use,
        used_share=in_use / pool.cidr.num_addresses,
        cells=tuple(_cell(blocks[start : start + size]) for start in range(0, len(blocks), size)),
    )


def _cell(blocks: Sequence[BlockSummary]) -> Cell:
    owners = sorted({_NOBODY if block.affinity is None else block.affinity for block in blocks})
    return Cell(
        first=str(blocks[0].cidr),
        last=str(blocks[-1].cidr),
        block_count=len(blocks),
        owners=tuple(owners[:_MOST_OWNERS]),
        owner_count=len(owners),
        in_use=sum(block.in_use for block in blocks),
        total=sum(block.size for block in blocks),
    )

"""What a decision about addresses rests on: the pools, one node's blocks, and which other blocks are known to exist."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.pool import Pool

#: The most blocks of one IP version a node may own.
DEFAULT_MAX_BLOCKS_PER_NODE: Final = 20


@dataclass(frozen=True, slots=True)
class View:
    """One node's knowledge at one moment.

    `pool_by_name` holds every pool. `block_by_cidr` holds the blocks whose content is known: those the node owns and
    those in which it holds addresses. `taken_by_pool` maps a pool's name to the indexes of blocks known to exist whose
    content is not known. A block in neither is presumed absent; committing a claim is the test of that.
    """

    node: str
    pool_by_name: Mapping[str, Pool] = field(default_factory=dict)
    block_by_cidr: Mapping[IPNetwork, Block] = field(default_factory=dict)
    taken_by_pool: Mapping[str, frozenset[int]] = field(default_factory=dict)
    max_blocks_per_node: int = DEFAULT_MAX_BLOCKS_PER_NODE

    def own_blocks(self) -> list[Block]:
        """Return the blocks the node owns, oldest claim first."""
        own = (block for block in self.block_by_cidr.values() if block.affinity == self.node)
        return sorted(own, key=lambda block: (block.claimed_at, block.version, block.cidr.network_address))

    def holding(self, handle: str) -> Iterator[tuple[Block, tuple[int, ...]]]:
        """Yield every known block in which a handle holds addresses, with their ordinals."""
        for block in self.block_by_cidr.values():
            if ordinals := block.ordinals_of_handle(handle):
                yield block, ordinals

    def existing(self, pool: Pool) -> frozenset[int]:
        """Return the indexes of the pool's blocks that are known to exist, wholly or in part."""
        known = (index for cidr in self.block_by_cidr for index in pool.indexes_in(cidr))
        return self.taken_by_pool.get(pool.name, frozenset()).union(known)

    def with_blocks(self, changes: Mapping[IPNetwork, Block | None]) -> View:
        """Return the view after these blocks were written, or deleted where None."""
        blocks = {**self.block_by_cidr, **changes}
        return replace(self, block_by_cidr={cidr: block for cidr, block in blocks.items() if block is not None})

    def with_taken(self, cidrs: Iterable[IPNetwork]) -> View:
        """Return the view in which these blocks are known to exist too."""
        found = list(cidrs)
        taken = {
            pool.name: self.taken_by_pool.get(pool.name, frozenset()).union(
                index for cidr in found for index in pool.indexes_in(cidr)
            )
            for pool in self.pool_by_name.values()
        }
        return replace(self, taken_by_pool=taken)

    def with_pools(self, pools: Iterable[Pool]) -> View:
        """Return the view of these pools and no others; what is taken of a pool that is cut as before stays known."""
        pool_by_name = {pool.name: pool for pool in pools}
        same = {name for name, pool in pool_by_name.items() if _cut(pool) == _cut(self.pool_by_name.get(name))}
        taken = {name: indexes for name, indexes in self.taken_by_pool.items() if name in same}
        return replace(self, pool_by_name=pool_by_name, taken_by_pool=taken)


def _cut(pool: Pool | None) -> tuple[IPNetwork, int] | None:
    return None if pool is None else (pool.cidr, pool.block_prefix_length)

"""What a decision about addresses rests on: the rules, one node's blocks, and what is known of the other blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ipam.configuration import IpamConfiguration
from ipam.reservation import reserved_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.pool import Pool
    from ipam.reservation import Reservation
    from ipam.summary import BlockSummary


@dataclass(frozen=True, slots=True)
class View:
    """One node's knowledge at one moment.

    `labels` are the node's. `pool_by_name` holds every pool. `block_by_cidr` holds the blocks whose content is known:
    those the node owns, those in which it holds addresses, and others that were read for a decision. `taken_by_pool`
    maps a pool's name to the indexes of blocks known to exist. A block in neither is presumed absent; committing a
    claim is the test of that. `summary_by_cidr` lists every block there is, or is None if nobody has looked;
    `others_by_pool` has those in it that may lend something and are not the node's, by the pool they lie in, in the
    order in which this node tries them. `unreadable` are blocks whose record makes no sense.
    """

    node: str
    pool_by_name: Mapping[str, Pool] = field(default_factory=dict)
    block_by_cidr: Mapping[IPNetwork, Block] = field(default_factory=dict)
    taken_by_pool: Mapping[str, frozenset[int]] = field(default_factory=dict)
    summary_by_cidr: Mapping[IPNetwork, BlockSummary] | None = None
    others_by_pool: Mapping[str, tuple[BlockSummary, ...]] = field(default_factory=dict)
    unreadable: frozenset[IPNetwork] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    reservations: tuple[Reservation, ...] = ()
    configuration: IpamConfiguration = field(default_factory=IpamConfiguration)

    def own_blocks(self) -> list[Block]:
        """Return the blocks the node owns, oldest claim first."""
        own = (block for block in self.block_by_cidr.values() if block.affinity == self.node)
        return sorted(own, key=lambda block: (block.claimed_at, block.version, block.cidr.network_address))

    def holding(self, handle: str) -> Iterator[tuple[Block, tuple[int, ...]]]:
        """Yield every known block in which a handle holds addresses on this node, with their ordinals.

        Another node may use the same handle: what is known of its blocks by chance is none of this node's business.
        """
        for block in self.block_by_cidr.values():
            held = block.ordinals_of_handle(handle)
            if ordinals := tuple(ordinal for ordinal in held if block.holders[ordinal].node == self.node):
                yield block, ordinals

    def concerns(self, block: Block) -> bool:
        """Tell whether the node owns the block or holds an address of it."""
        return block.affinity == self.node or self.node in block.holding_nodes()

    def existing(self, pool: Pool) -> frozenset[int]:
        """Return the indexes of the pool's blocks that are known to exist, wholly or in part."""
        known = (index for cidr in self.block_by_cidr for index in pool.indexes_in(cidr))
        return self.taken_by_pool.get(pool.name, frozenset()).union(known)

    def reserved_in(self, cidr: IPNetwork) -> tuple[range, ...]:
        """Return the offsets from the start of a network that automatic assignment leaves alone."""
        return reserved_in(cidr, self.reservations) if self.reservations else ()

    def barred(self, pool: Pool) -> tuple[range, ...]:
        """Return the ranges of the pool's block indexes that are reserved to the last address."""
        shift = pool.cidr.max_prefixlen - pool.block_prefix_length
        return tuple(
            range(-(-reserved.start >> shift), reserved.stop >> shift)
            for reserved in self.reserved_in(pool.cidr)
            if -(-reserved.start >> shift) < reserved.stop >> shift
        )

    def with_blocks(self, changes: Mapping[IPNetwork, Block | None]) -> View:
        """Return the view after these blocks were written or read; None stands for a block that does not exist."""
        blocks = dict(self.block_by_cidr)
        gone = set()
        for cidr, block in changes.items():
            if block is None:
                blocks.pop(cidr, None)
                gone.add(cidr)
            else:
                blocks[cidr] = block
        unreadable = self.unreadable.difference(changes) if self.unreadable else self.unreadable
        view = replace(self, block_by_cidr=blocks, unreadable=unreadable)
        if not gone or self.summary_by_cidr is None:
            return view
        # Of what else there may be at the place of a block that is gone, only the list of all knows.
        return _listing(view, {cidr: each for cidr, each in self.summary_by_cidr.items() if cidr not in gone})

    def with_unreadable(self, cidrs: Iterable[IPNetwork]) -> View:
        """Return the view in which these blocks are known to exist and to have a record that cannot be read."""
        found = frozenset(cidrs)
        return replace(self, unreadable=self.unreadable | found).with_taken(found) if found else self

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

    def with_summaries(self, summaries: Iterable[BlockSummary]) -> View:
        """Return the view in which these are all the blocks there are, and no content is known but the node's own.

        A block that concerns the node stays known by its content; one that could not be read and is not listed either
        stays known to exist.
        """
        summary_by_cidr = {summary.cidr: summary for summary in summaries}
        concerning = {cidr: block for cidr, block in self.block_by_cidr.items() if self.concerns(block)}
        unlisted = self.unreadable.difference(summary_by_cidr)
        return _listing(replace(self, block_by_cidr=concerning, unreadable=unlisted), summary_by_cidr)

    def forgetful(self) -> View:
        """Return the view without what was read of other nodes' blocks; that they exist stays known."""
        concerning = {cidr: block for cidr, block in self.block_by_cidr.items() if self.concerns(block)}
        if len(concerning) == len(self.block_by_cidr) and self.summary_by_cidr is None:
            return self
        view = replace(self, block_by_cidr=concerning, summary_by_cidr=None, others_by_pool={})
        return view.with_taken(self.block_by_cidr.keys() - concerning.keys())

    def with_pools(self, pools: Iterable[Pool]) -> View:
        """Return the view of these pools and no others; what is taken of a pool that is cut as before stays known."""
        pool_by_name = {pool.name: pool for pool in pools}
        same = {name for name, pool in pool_by_name.items() if _cut(pool) == _cut(self.pool_by_name.get(name))}
        taken = {name: indexes for name, indexes in self.taken_by_pool.items() if name in same}
        view = replace(self, pool_by_name=pool_by_name, taken_by_pool=taken)
        if self.summary_by_cidr is None or len(same) == len(pool_by_name):
            return view
        return _listing(view, self.summary_by_cidr)


def _cut(pool: Pool | None) -> tuple[IPNetwork, int] | None:
    return None if pool is None else (pool.cidr, pool.block_prefix_length)


def _listing(view: View, summary_by_cidr: Mapping[IPNetwork, BlockSummary]) -> View:
    """Return the view in which these are all the blocks there are, besides what is unreadable."""
    others = {name: _others(view.node, pool, summary_by_cidr.values()) for name, pool in view.pool_by_name.items()}
    listed = replace(view, summary_by_cidr=summary_by_cidr, others_by_pool=others, taken_by_pool={})
    return listed.with_taken([*summary_by_cidr, *view.unreadable])


def _others(node: str, pool: Pool, summaries: Iterable[BlockSummary]) -> tuple[BlockSummary, ...]:
    others = [each for each in summaries if each.may_lend and each.affinity != node and pool.contains(each.cidr)]
    return tuple(sorted(others, key=lambda each: pool.distance(node, each.cidr)))

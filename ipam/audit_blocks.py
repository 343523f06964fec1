"""What is wrong with pools and blocks as such."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.inventory import Ranges, overlaps
from ipam.problem import Problem, ProblemKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.inventory import Inventory
    from ipam.pool import Pool


def pool_problems(inventory: Inventory) -> Iterator[Problem]:
    """Yield the pools that lie in another one."""
    names: dict[IPNetwork, list[str]] = {}
    for pool in inventory.pools:
        names.setdefault(pool.cidr, []).append(pool.name)
    for outer, inner in dict.fromkeys(overlaps(pool.cidr for pool in inventory.pools)):
        shown = ", ".join(dict.fromkeys((*names[inner], *names[outer])))
        text = (
            f"pools {shown} overlap ({inner} in {outer}), so one address may be given twice; "
            f"disable one of them, move its workloads, then delete it"
        )
        yield Problem(ProblemKind.POOLS_OVERLAP, inner, text)


def overlapping_blocks(inventory: Inventory) -> frozenset[IPNetwork]:
    """Return the blocks that share addresses with another one."""
    return frozenset(cidr for pair in overlaps(inventory.blocks) for cidr in pair)


def block_problems(inventory: Inventory) -> Iterator[Problem]:
    """Yield what is wrong with the place, size, owner and use of blocks."""
    for outer, inner in overlaps(inventory.blocks):
        owners = inventory.blocks[inner].affinity or "nobody", inventory.blocks[outer].affinity or "nobody"
        text = (
            f"block {inner} of {owners[0]} lies in block {outer} of {owners[1]}, so one address may be given twice; "
            f"remove the workloads of one of the two and delete the block with `tortiectl delete block CIDR`"
        )
        yield Problem(ProblemKind.BLOCKS_OVERLAP, inner, text)
    overlapping = overlapping_blocks(inventory)
    pools_by_cidr: dict[IPNetwork, list[Pool]] = {}
    for pool in inventory.pools:
        pools_by_cidr.setdefault(pool.cidr, []).append(pool)
    ranges = Ranges(pools_by_cidr)
    for cidr, block in inventory.blocks.items():
        pools = [pool for around in ranges.around(cidr) for pool in pools_by_cidr[around]]
        yield from _place_problems(block, pools, inventory, overlaps_another=cidr in overlapping)
        yield from _use_problems(block, inventory, overlaps_another=cidr in overlapping)


def _place_problems(
    block: Block, pools: list[Pool], inventory: Inventory, *, overlaps_another: bool
) -> Iterator[Problem]:
    if not pools and inventory.all_pools_known:
        text = (
            f"block {block.cidr} lies in no pool, so other nodes refuse its routes; "
            f"create a pool around it, or {_leaving_text(block)}"
        )
        yield Problem(ProblemKind.OUTSIDE_POOLS, block.cidr, text)
    # Of two blocks that overlap one has the wrong size, which is the smaller trouble.
    if pools and not overlaps_another and all(pool.block_prefix_length != block.cidr.prefixlen for pool in pools):
        pool = pools[-1]
        text = (
            f"block {block.cidr} lies in pool {pool.name}, whose blocks are /{pool.block_prefix_length}, so the pool "
            f"counts and gives it out wrongly; {_leaving_text(block)}"
        )
        yield Problem(ProblemKind.WRONG_SIZE, block.cidr, text)


def _leaving_text(block: Block) -> str:
    """Say how a block goes that should not be there."""
    if block.holders:
        return f"remove its {block.in_use} workloads and the block goes with them"
    if block.affinity is None:
        return "delete it with --fix, since it is empty"
    return f"let node {block.affinity} give it back, as it does with an empty one after the grace period"


def _use_problems(block: Block, inventory: Inventory, *, overlaps_another: bool) -> Iterator[Problem]:
    if block.affinity is not None and block.affinity not in inventory.nodes:
        text = (
            f"block {block.cidr} is owned by node {block.affinity}, which does not exist, so nobody announces it; "
            f"start that node's agent, or free the block with `tortiectl node delete --force {block.affinity}`"
        )
        yield Problem(ProblemKind.UNKNOWN_OWNER, block.cidr, text, node=block.affinity)
    if block.affinity is None and block.is_empty(inventory.now):
        text = (
            f"block {block.cidr} has no owner and nobody uses it, so it waits until a node finds no other block; "
            f"{'settle first which of the overlapping blocks stays' if overlaps_another else 'delete it with --fix'}"
        )
        yield Problem(ProblemKind.UNUSED_BLOCK, block.cidr, text, repairable=not overlaps_another, cidr=block.cidr)

"""Why no address is left for a node, in words: how full its pools are, and which rule stops it from going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipam.block import Block
    from ipam.pool import Pool
    from ipam.view import View


def exhausted_text(view: View, pools: Sequence[Pool], own: Sequence[Block], now: float) -> str:
    """Return what to tell who asked for an address of these pools, of one IP version, in which there is none.

    `own` are the node's blocks of that IP version; `now` is in epoch seconds.
    """
    configuration = view.configuration
    parts = [_pool_text(view, pool, [block for block in own if pool.contains(block.cidr)], now) for pool in pools]
    ways_out = ["remove workloads"]
    if len(own) >= configuration.max_blocks_per_node:
        parts.append(f"the node owns {len(own)} blocks, and {configuration.max_blocks_per_node} is the most it may own")
        ways_out.append("raise the most blocks per node")
    if not configuration.auto_allocate_blocks:
        parts.append("blocks are not claimed automatically")
        ways_out.append("switch automatic blocks on")
    if configuration.strict_affinity:
        parts.append("strict affinity forbids addresses out of the blocks of others")
        ways_out.append("switch strict affinity off")
    if configuration.auto_allocate_blocks and len(own) < configuration.max_blocks_per_node:
        ways_out.append("add a pool")
    return (
        f"node {view.node}: no IPv{pools[0].version} address is left: {'; '.join(parts)}; "
        f"{', '.join(ways_out[:-1])}{' or ' if ways_out[1:] else ''}{ways_out[-1]}"
    )


def _pool_text(view: View, pool: Pool, own: Sequence[Block], now: float) -> str:
    text = (
        f"pool {pool.name} ({pool.cidr}) has {len(view.existing(pool))} of {pool.block_count} blocks claimed, "
        f"{len(own)} of them by this node with {sum(block.in_use for block in own)} of "
        f"{sum(block.size for block in own)} addresses in use"
    )
    resting = sum(rest.until > now for block in own for rest in block.resting.values())
    if resting:
        text += f" and {resting} at rest after their release"
    reserved = sum(offsets.stop - offsets.start for offsets in view.reserved_in(pool.cidr))
    if reserved == pool.cidr.num_addresses:
        return f"{text}, and all of it is reserved"
    return f"{text}, and {reserved} of its {pool.cidr.num_addresses} addresses are reserved" if reserved else text

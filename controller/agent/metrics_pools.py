"""How one node uses each pool; summed over all nodes it is how full the pool is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipam.reservation import reserved_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controller.agent.cluster import Cluster
    from ipam.block import Block


@dataclass(frozen=True, slots=True)
class PoolUse:
    """One pool as one node uses it.

    The pool has `size` addresses, of which `reserved` are left alone. The node's workloads hold `held` of them,
    `borrowed` of those in blocks that are not the node's; it owns `own_blocks` blocks with `free` free addresses.
    """

    pool: str
    size: int
    reserved: int
    held: int = 0
    borrowed: int = 0
    own_blocks: int = 0
    free: int = 0


def pool_uses(cluster: Cluster, blocks: Iterable[Block], node: str) -> tuple[PoolUse, ...]:
    """Return the use of every pool; `blocks` are those that the node owns or holds addresses of."""
    known = tuple(blocks)
    reservations = tuple(cluster.reservations.values())
    uses = []
    for name, (pool, _) in cluster.pools.items():
        inside = [block for block in known if pool.contains(block.cidr)]
        own = [block for block in inside if block.affinity == node]
        held = {block.cidr: sum(holder.node == node for holder in block.holders.values()) for block in inside}
        uses.append(
            PoolUse(
                pool=name,
                size=pool.cidr.num_addresses,
                reserved=sum(part.stop - part.start for part in reserved_in(pool.cidr, reservations)),
                held=sum(held.values()),
                borrowed=sum(held[block.cidr] for block in inside if block.affinity != node),
                own_blocks=len(own),
                free=sum(len(block.free) for block in own),
            )
        )
    return tuple(uses)

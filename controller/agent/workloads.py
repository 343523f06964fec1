"""What the workloads of this node hold, block by block: of those, one changes with each workload that comes or goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.reconcile.desired import host_prefix, workload_routes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from controller.ports import KernelRoute
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block


@dataclass(frozen=True, slots=True)
class Workloads:
    """Every prefix that is held here, those of them in blocks of others, and a route to each whose link exists."""

    held: frozenset[IPNetwork]
    borrowed: tuple[IPNetwork, ...]
    routes: Mapping[IPNetwork, KernelRoute]


@dataclass(frozen=True, slots=True)
class _InBlock:
    """The same of one block; `link_of` has the name of each address's link, `indexes` theirs, None where it is gone."""

    block: Block
    link_of: Mapping[IPAddress, str]
    held: frozenset[IPNetwork]
    indexes: tuple[int | None, ...]
    routes: Mapping[IPNetwork, KernelRoute]


class HeldBlocks:
    """Remembers what follows from each block, so that only a changed one is gone through again."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._known: dict[IPNetwork, _InBlock] = {}

    def workloads(self, blocks: Iterable[Block], index_of: Mapping[str, int]) -> Workloads:
        """Return what workloads hold of these blocks; `index_of` has the index of each link that exists, by its name.

        The same arguments always give the same; who was asked before is only faster.
        """
        self._known = {block.cidr: self._in_block(block, index_of) for block in blocks}
        known = self._known.values()
        routes: dict[IPNetwork, KernelRoute] = {}
        for each in known:
            routes |= each.routes
        return Workloads(
            held=frozenset().union(*(each.held for each in known)),
            borrowed=tuple(prefix for each in known if each.block.affinity != self._node for prefix in each.held),
            routes=routes,
        )

    def _in_block(self, block: Block, index_of: Mapping[str, int]) -> _InBlock:
        known = self._known.get(block.cidr)
        if known is None or known.block is not block:
            link_of = {
                address: holder.interface for address, holder in block.assignments() if holder.node == self._node
            }
            known = _InBlock(block, link_of, frozenset(map(host_prefix, link_of)), (), {})
        indexes = tuple(map(index_of.get, known.link_of.values()))
        if indexes == known.indexes:
            return known
        return replace(known, indexes=indexes, routes=workload_routes(known.link_of, index_of))

"""What the store says should be: who owns and holds what, and who has to tell whom about it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from controller.diagnosis.report import Rule
from ipam.inventory import Inventory, Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controller.datamodel.records import Node
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block, Holder
    from ipam.pool import Pool
    from ipam.problem import Problem


class Delivery(NamedTuple):
    """A prefix that a node has to announce, and every other node has to route to it."""

    prefix: IPNetwork
    node: str
    rule: Rule


class Held(NamedTuple):
    """An address, the block it lies in, and who holds it."""

    address: IPAddress
    block: Block
    holder: Holder


@dataclass(frozen=True)
class Snapshot:
    """The store as of one instant: what address management holds, and what is wrong with that by itself.

    `plain_mesh` says that all sessions are between nodes, so that each node's address is the next hop to it; `drained`
    are the nodes that are to be routed around. It may be of a part of the blocks; then `inventory` holds only those.
    """

    inventory: Inventory
    nodes: Mapping[str, Node] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    plain_mesh: bool = True
    problems: tuple[Problem, ...] = ()

    def pool_of(self, network: IPNetwork | IPAddress) -> Pool | None:
        """Return the pool that a prefix or address lies in."""
        for cidr in self._pool_ranges.around(network):
            return next(pool for pool in self.inventory.pools if pool.cidr == cidr)
        return None

    def blocks_around(self, network: IPNetwork | IPAddress) -> Iterator[Block]:
        """Yield the blocks that a prefix or address lies in: one, unless they overlap."""
        return (self.inventory.blocks[cidr] for cidr in self._block_ranges.around(network))

    def held(self, address: IPAddress) -> Held | None:
        """Return who holds an address."""
        for block in self.blocks_around(address):
            holder = block.holders.get(block.ordinal_of(address))
            if holder is not None:
                return Held(address, block, holder)
        return None

    def all_held(self) -> Iterator[Held]:
        """Yield every address that is held, block by block."""
        for block in self.inventory.blocks.values():
            for address, holder in block.assignments():
                yield Held(address, block, holder)

    def deliveries(self) -> Iterator[Delivery]:
        """Yield everything that has to be announced: blocks by their owners, and other addresses by their holders."""
        for cidr, block in self.inventory.blocks.items():
            if block.affinity is not None:
                yield Delivery(cidr, block.affinity, Rule.OWNED)
        for held in self.all_held():
            if held.holder.node != held.block.affinity:
                yield self.delivery_of(held)

    def delivery_of(self, held: Held) -> Delivery:
        """Return what brings packets for a held address to its node: its block's announcement or its own."""
        owner, node = held.block.affinity, held.holder.node
        if node == owner:
            return Delivery(held.block.cidr, node, Rule.OWNED)
        rule = Rule.UNOWNED if owner is None else Rule.BORROWED
        return Delivery(ipaddress.ip_network(held.address), node, rule)

    def withheld(self, delivery: Delivery) -> str | None:
        """Return why a prefix is rightly not announced, None if it has to be."""
        node = self.nodes.get(delivery.node)
        if node is None:
            return f"node {delivery.node} does not exist"
        pool = self.pool_of(delivery.prefix)
        if pool is not None and pool.disable_bgp_export:
            return f"pool {pool.name} is not to be announced (disableBGPExport)"
        if node.name in self.drained:
            return f"node {node.name} is drained; `tortiectl node undrain {node.name}` ends that"
        if node.address(delivery.prefix.version) is None:
            return f"node {node.name} has no IPv{delivery.prefix.version} address to be reached at"
        return None

    @cached_property
    def _pool_ranges(self) -> Ranges:
        return Ranges(pool.cidr for pool in self.inventory.pools)

    @cached_property
    def _block_ranges(self) -> Ranges:
        return Ranges(self.inventory.blocks)

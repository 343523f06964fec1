"""Everything the address management of a cluster consists of, as of one instant: what an audit looks at."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block, Holder
    from ipam.pool import Pool
    from ipam.summary import BlockSummary


class Relation(Enum):
    """What a block is to a node: its own, or one of which it only holds addresses."""

    OWN = "own"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class ShareKey:
    """The key that tells a node what a block is to it."""

    node: str
    relation: Relation
    cidr: IPNetwork

    def __str__(self) -> str:
        return f"{self.cidr} ({self.relation.value}) of {self.node}"


@dataclass(frozen=True, slots=True)
class Wired:
    """The addresses that a node's kernel delivered to each workload link, by its name, at a time in epoch seconds."""

    seen_at: float
    addresses_by_link: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """An address that a block says is held, and the sequence of its ordinal."""

    address: IPAddress
    cidr: IPNetwork
    holder: Holder
    sequence: int | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All records of the address management.

    `unreadable_blocks` maps the CIDR in a block's key to the reason why its record makes no sense; `misplaced_blocks`
    maps it to the CIDR that the record describes instead. `unreadable` maps the keys of other records to the reason,
    and `all_pools_known` says that none of them is a pool. `junk` are keys that name nothing. A summary or share key
    whose record makes no sense is there with None; a share key otherwise with the block's sequence of which it tells.
    `wired_by_node` lacks the nodes that tell nobody what they have wired. `now` is in epoch seconds.
    """

    now: float
    pools: tuple[Pool, ...] = ()
    blocks: Mapping[IPNetwork, Block] = field(default_factory=dict)
    unreadable_blocks: Mapping[IPNetwork, str] = field(default_factory=dict)
    misplaced_blocks: Mapping[IPNetwork, IPNetwork] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    all_pools_known: bool = True
    junk: frozenset[str] = frozenset()
    summaries: Mapping[IPNetwork, BlockSummary | None] = field(default_factory=dict)
    shares: Mapping[ShareKey, int | None] = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()
    wired_by_node: Mapping[str, Wired] = field(default_factory=dict)
    configuration: IpamConfiguration = field(default_factory=IpamConfiguration)

    def held(self) -> Iterator[HeldAddress]:
        """Yield every address that a block says is held, block by block, lowest address first."""
        for cidr, block in self.blocks.items():
            for ordinal in sorted(block.holders):
                sequence = block.ordinal_sequence.get(ordinal)
                yield HeldAddress(block.address_at(ordinal), cidr, block.holders[ordinal], sequence)

    def unknown_contents(self) -> frozenset[IPNetwork]:
        """Return the CIDRs of which there is a record, and nobody can tell what it should say."""
        return frozenset(self.unreadable_blocks.keys() | self.misplaced_blocks.keys())

    def unchecked_nodes(self) -> tuple[str, ...]:
        """Return the nodes whose workloads hold addresses and which do not tell what they have wired, by name."""
        holding = {node for block in self.blocks.values() for node in block.holding_nodes()}
        return tuple(sorted((holding & self.nodes) - self.wired_by_node.keys()))


class Ranges:
    """Networks, and which of them lie around another one; a question takes as long as there are prefix lengths."""

    def __init__(self, cidrs: Iterable[IPNetwork]) -> None:
        self._cidrs = frozenset(cidrs)
        self._lengths = sorted({(cidr.version, cidr.prefixlen) for cidr in self._cidrs})

    def around(self, inside: IPNetwork | IPAddress) -> Iterator[IPNetwork]:
        """Yield the networks in which this network or address lies wholly, the largest first."""
        network = ipaddress.ip_network(inside)
        for version, length in self._lengths:
            if version == network.version and length <= network.prefixlen:
                found = network.supernet(new_prefix=length)
                if found in self._cidrs:
                    yield found


def overlaps(cidrs: Iterable[IPNetwork]) -> Iterator[tuple[IPNetwork, IPNetwork]]:
    """Yield each network that lies in another one (or is there twice), after the smallest in which it lies."""
    around: list[IPNetwork] = []
    for cidr in sorted(cidrs, key=lambda each: (each.version, int(each.network_address), each.prefixlen)):
        while around and not (around[-1].version == cidr.version and around[-1].overlaps(cidr)):
            around.pop()
        if around:
            yield around[-1], cidr
        around.append(cidr)

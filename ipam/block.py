"""Blocks: the unit of ownership and of routing, and who holds each of their addresses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from ipam.errors import InvalidBlock
from ipam.pool import BLOCK_PREFIX_LENGTHS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from ipam.address import IPAddress, IPNetwork

#: A block lends addresses for as long as its record and another one of this size go into one transaction of every store
#: (512 KiB in base64): a workload of both IP versions writes two blocks at once.
_MAX_RECORD_BYTES: Final = 190_000
#: What a record takes for each ordinal, and for each holder beside its texts, in bytes, rounded up.
_ORDINAL_BYTES: Final = 20
_HOLDER_BYTES: Final = 130
#: A block of this many addresses fits in any case.
_ALWAYS_FITS: Final = 256


@dataclass(frozen=True, slots=True)
class Holder:
    """One workload's attribute set: what an operator needs to know who holds an address.

    `handle` names the workload's whole set of addresses, both families; `node` is where the workload runs, which for
    a borrowed address is not the block's owner; `interface` is the host's end of the workload's link.
    `created_at` is in seconds since the epoch.
    """

    handle: str
    node: str
    workload: str
    namespace: str
    interface: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Block:
    """A run of addresses with one owner; raises `InvalidBlock` unless every ordinal is either held or free.

    `affinity` is the owning node or None. `holders` maps an ordinal (the offset from the block's first address) to its
    holder. `free` lists the unassigned ordinals, head first: assignment takes the head, release appends, so that
    an address rests as long as possible. `sequence` grows by one with every change; `ordinal_sequence` maps an
    ordinal to the block's sequence at its last assignment or release.
    """

    cidr: IPNetwork
    affinity: str | None
    claimed_at: float
    holders: Mapping[int, Holder]
    free: tuple[int, ...]
    sequence: int = 0
    ordinal_sequence: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the block's size is allowed and that no ordinal is lost or listed twice."""
        allowed = BLOCK_PREFIX_LENGTHS[self.cidr.version]
        if self.cidr.prefixlen not in allowed:
            raise InvalidBlock(
                f"block {self.cidr}: its prefix length is outside /{allowed[0]} to /{allowed[-1]}; restore the record"
            )
        if sorted([*self.holders, *self.free]) != list(range(self.size)):
            raise InvalidBlock(
                f"block {self.cidr}: {len(self.holders)} held and {len(self.free)} free ordinals are not each of its "
                f"{self.size} ordinals once; restore the record"
            )

    @classmethod
    def claimed(cls, cidr: IPNetwork, *, node: str, at: float) -> Block:
        """Return a new block of this node's with every address free, claimed at this time in epoch seconds."""
        return cls(cidr, node, at, holders={}, free=tuple(range(cidr.num_addresses)))

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return self.cidr.version

    @property
    def size(self) -> int:
        """How many addresses the block has; all of them can be assigned."""
        return self.cidr.num_addresses

    @property
    def in_use(self) -> int:
        """How many addresses are held."""
        return len(self.holders)

    @property
    def has_room(self) -> bool:
        """Whether another address can be assigned: one is free, and its holder still fits into the block's record."""
        return bool(self.free) and (self.size <= _ALWAYS_FITS or self._record_bytes() < _MAX_RECORD_BYTES)

    def _record_bytes(self) -> int:
        """Return about how large the block's record is."""
        texts = sum(
            len(holder.handle) + len(holder.node) + len(holder.workload) + len(holder.namespace) + len(holder.interface)
            for holder in self.holders.values()
        )
        return texts + self.size * _ORDINAL_BYTES + self.in_use * _HOLDER_BYTES

    def address_at(self, ordinal: int) -> IPAddress:
        """Return the address with this ordinal."""
        return self.cidr[ordinal]

    def assignments(self) -> Iterator[tuple[IPAddress, Holder]]:
        """Yield every held address and its holder, lowest address first."""
        for ordinal in sorted(self.holders):
            yield self.address_at(ordinal), self.holders[ordinal]

    def ordinals_of_handle(self, handle: str) -> tuple[int, ...]:
        """Return the ordinals held under a handle, lowest first."""
        return tuple(sorted(ordinal for ordinal, holder in self.holders.items() if holder.handle == handle))

    def ordinals_of_node(self, node: str) -> tuple[int, ...]:
        """Return the ordinals held by workloads of a node, lowest first."""
        return tuple(sorted(ordinal for ordinal, holder in self.holders.items() if holder.node == node))

    def holding_nodes(self) -> frozenset[str]:
        """Return the nodes whose workloads hold addresses of the block."""
        return frozenset(holder.node for holder in self.holders.values())

    def assign(self, holder: Holder) -> tuple[Block, IPAddress]:
        """Return the block with the head of the free list held, and that address; the block must have a free one."""
        ordinal, *rest = self.free
        sequence = self.sequence + 1
        block = replace(
            self,
            holders={**self.holders, ordinal: holder},
            free=tuple(rest),
            sequence=sequence,
            ordinal_sequence={**self.ordinal_sequence, ordinal: sequence},
        )
        return block, self.address_at(ordinal)

    def release(self, ordinals: Collection[int]) -> Block:
        """Return the block with these held ordinals free, at the tail of the free list in the order given."""
        sequence = self.sequence + 1
        return replace(
            self,
            holders={ordinal: holder for ordinal, holder in self.holders.items() if ordinal not in ordinals},
            free=(*self.free, *ordinals),
            sequence=sequence,
            ordinal_sequence={**self.ordinal_sequence, **dict.fromkeys(ordinals, sequence)},
        )

    def disown(self) -> Block:
        """Return the block with no owner; who holds its addresses goes on holding them."""
        return replace(self, affinity=None, sequence=self.sequence + 1)

"""Blocks: the unit of ownership and of routing, and who holds each of their addresses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from ipam.errors import InvalidBlock
from ipam.holder_index import HolderIndex, json_bytes
from ipam.pool import check_block_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ipam.address import IPAddress, IPNetwork

T = TypeVar("T")
#: A block lends addresses for as long as its record and another one of this size go into one transaction of every store
#: (512 KiB in base64): a workload of both IP versions writes two blocks at once.
_MAX_RECORD_BYTES: Final = 190_000
#: What a record takes for each ordinal, and for each holder beside its texts, in bytes, rounded up.
_ORDINAL_BYTES: Final = 20
_HOLDER_BYTES: Final = 150
#: What it takes for each ordinal that rests, beside the name it is kept for.
_REST_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class Holder:
    """One workload's attribute set: what an operator needs to know who holds an address.

    `handle` names the workload's whole set of addresses, both families; `node` is where the workload runs, which for
    a borrowed address is not the block's owner; `interface` is the host's end of the workload's link.
    `created_at` is in seconds since the epoch. `sticky` says that the address may be remembered for a workload of this
    name after its release.
    """

    handle: str
    node: str
    workload: str
    namespace: str
    interface: str
    created_at: float
    sticky: bool = False

    @property
    def full_name(self) -> str:
        """The namespace and the name of the workload, by which a sticky address is remembered."""
        return f"{self.namespace}/{self.workload}"


@dataclass(frozen=True, slots=True)
class Rest:
    """Why a released ordinal is lent to nobody yet.

    It rests until a time in epoch seconds; only the workload it is kept for, by its full name, may have it before.
    """

    until: float
    kept_for: str | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A run of addresses with one owner; raises `InvalidBlock` for a size that no block has.

    `affinity` is the owning node or None. `holders` maps an ordinal (the offset from the block's first address) to its
    holder. `free` lists the unassigned ordinals, head first: assignment takes the head, release appends, so that
    an address rests as long as possible. `resting` maps the ordinals that must rest for a set time to their rest. Each
    ordinal is in exactly one of the three. `sequence` grows by one with every change and is not used twice for one
    CIDR, also when the block is deleted and claimed again (see `claimed`); `ordinal_sequence` maps an ordinal to the
    block's sequence at its last assignment or release.
    """

    cidr: IPNetwork
    affinity: str | None
    claimed_at: float
    holders: Mapping[int, Holder]
    free: tuple[int, ...]
    sequence: int = 0
    ordinal_sequence: Mapping[int, int] = field(default_factory=dict)
    resting: Mapping[int, Rest] = field(default_factory=dict)
    #: What follows from `holders`, once it was asked for.
    _known_index: HolderIndex | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the block's size."""
        check_block_size(self.cidr)

    def check(self) -> None:
        """Raise `InvalidBlock` unless every ordinal is exactly once held, resting or free.

        Every operation keeps that, so it is checked where a block comes from outside.
        """
        listed = [*self.holders, *self.resting, *self.free]
        if len(listed) != self.size or set(listed) != set(range(self.size)):
            raise InvalidBlock(
                f"block {self.cidr}: {len(self.holders)} held, {len(self.resting)} resting and {len(self.free)} free "
                f"ordinals are not each of its {self.size} ordinals once; restore the record"
            )

    @classmethod
    def claimed(cls, cidr: IPNetwork, *, node: str | None, at: float) -> Block:
        """Return a new block with every address free, claimed by a node or by nobody, at this time in epoch seconds.

        Its sequence starts with the milliseconds of that time: another one than any that an earlier block of this CIDR
        had, and a later one unless that block came and went while this claim was planned or the nodes' clocks differ.
        """
        return cls(cidr, node, at, holders={}, free=tuple(range(cidr.num_addresses)), sequence=int(at * 1000))

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

    def is_empty(self, now: float) -> bool:
        """Tell whether nobody holds an address and none has to rest any longer."""
        return not self.holders and all(rest.until <= now for rest in self.resting.values())

    def next_free(self, now: float, reserved: Sequence[range] = ()) -> int | None:
        """Return the ordinal that the next automatic assignment takes, or None if the block has none to lend.

        It is the head of the free list, then what has rested longest; ordinals in `reserved` are passed over. A block
        whose record has no room for another holder lends nothing.
        """
        if not self.has_room(now):
            return None
        for ordinal in self.free:
            if not _is_in(ordinal, reserved):
                return ordinal
        rested = ((rest.until, ordinal) for ordinal, rest in self.resting.items() if rest.until <= now)
        allowed = (pair for pair in rested if not _is_in(pair[1], reserved))
        return min(allowed, default=(0.0, None))[1]

    def has_room(self, now: float) -> bool:
        """Tell whether the block's record has room for another holder.

        One of many addresses may be full before they are, and so may one whose holders have long names.
        """
        ordinal_bytes, holder_bytes = self.size * _ORDINAL_BYTES, self.in_use * _HOLDER_BYTES
        rest_bytes = sum(
            _REST_BYTES + json_bytes(rest.kept_for or "") for rest in self.resting.values() if rest.until > now
        )
        return self._index.text_bytes + ordinal_bytes + holder_bytes + rest_bytes < _MAX_RECORD_BYTES

    def rested(self, now: float) -> Block:
        """Return the block in which what has rested long enough is free, at the tail in the order in which it ended."""
        ended = sorted((rest.until, ordinal) for ordinal, rest in self.resting.items() if rest.until <= now)
        if not ended:
            return self
        ordinals = tuple(ordinal for _, ordinal in ended)
        block = replace(self, free=(*self.free, *ordinals), resting=_leaving(self.resting, ordinals))
        block._keep_index(self._index)  # noqa: SLF001  another block, the same class
        return block

    def kept_for(self, full_name: str, now: float, reserved: Sequence[range] = ()) -> int | None:
        """Return the ordinal that is remembered for a workload of this full name, if there is one to lend."""
        if not self.has_room(now):
            return None
        kept = (ordinal for ordinal, rest in self.resting.items() if rest.kept_for == full_name)
        return next((ordinal for ordinal in sorted(kept) if not _is_in(ordinal, reserved)), None)

    def address_at(self, ordinal: int) -> IPAddress:
        """Return the address with this ordinal."""
        return self.cidr[ordinal]

    def ordinal_of(self, address: IPAddress) -> int:
        """Return the ordinal of an address, which must lie in the block."""
        return int(address) - int(self.cidr.network_address)

    def assignments(self) -> Iterator[tuple[IPAddress, Holder]]:
        """Yield every held address and its holder, lowest address first."""
        for ordinal in sorted(self.holders):
            yield self.address_at(ordinal), self.holders[ordinal]

    def ordinals_of_handle(self, handle: str) -> tuple[int, ...]:
        """Return the ordinals held under a handle, lowest first."""
        return self._index.ordinals_by_handle.get(handle, ())

    def ordinals_of_node(self, node: str) -> tuple[int, ...]:
        """Return the ordinals held by workloads of a node, lowest first."""
        return tuple(sorted(ordinal for ordinal, holder in self.holders.items() if holder.node == node))

    def holding_nodes(self) -> frozenset[str]:
        """Return the nodes whose workloads hold addresses of the block."""
        return frozenset(holder.node for holder in self.holders.values())

    def assign(self, holder: Holder, ordinal: int | None = None) -> tuple[Block, IPAddress]:
        """Return the block in which an ordinal that nobody held is held, and its address.

        Without an ordinal it is the head of the free list, which must not be empty.
        """
        if ordinal is None:
            ordinal = self.free[0]
        sequence = self.sequence + 1
        rests = ordinal in self.resting
        block = replace(
            self,
            holders={**self.holders, ordinal: holder},
            free=self.free if rests else _without(self.free, ordinal),
            resting=_leaving(self.resting, (ordinal,)) if rests else self.resting,
            sequence=sequence,
            ordinal_sequence={**self.ordinal_sequence, ordinal: sequence},
        )
        block._keep_index(self._index.with_holder(ordinal, holder))  # noqa: SLF001  another block, the same class
        return block, self.address_at(ordinal)

    def renew(self, ordinals: Collection[int], *, at: float) -> Block:
        """Return the block in which these held ordinals are held as if assigned at this time, in epoch seconds."""
        sequence = self.sequence + 1
        block = replace(
            self,
            holders={
                **self.holders,
                **{ordinal: replace(self.holders[ordinal], created_at=at) for ordinal in ordinals},
            },
            sequence=sequence,
            ordinal_sequence={**self.ordinal_sequence, **dict.fromkeys(ordinals, sequence)},
        )
        block._keep_index(self._index)  # noqa: SLF001  another block, the same class
        return block

    def release(self, ordinals: Collection[int], rests: Mapping[int, Rest] | None = None) -> Block:
        """Return the block in which nobody holds these held ordinals.

        Those with a rest are resting, the others are at the tail of the free list in the order given.
        """
        rests = rests or {}
        sequence = self.sequence + 1
        block = replace(
            self,
            holders=_leaving(self.holders, ordinals),
            free=(*self.free, *(ordinal for ordinal in ordinals if ordinal not in rests)),
            resting={**self.resting, **{ordinal: rests[ordinal] for ordinal in ordinals if ordinal in rests}},
            sequence=sequence,
            ordinal_sequence={**self.ordinal_sequence, **dict.fromkeys(ordinals, sequence)},
        )
        gone = {ordinal: self.holders[ordinal] for ordinal in ordinals}
        block._keep_index(self._index.without(gone))  # noqa: SLF001  another block, the same class
        return block

    def reclaimed(self, *, node: str, at: float) -> Block:
        """Return the block as this node's from now on; the order of its free list and its sequences go on."""
        return replace(self, affinity=node, claimed_at=at, sequence=self.sequence + 1)

    def disown(self) -> Block:
        """Return the block with no owner; who holds its addresses goes on holding them."""
        return replace(self, affinity=None, sequence=self.sequence + 1)

    @property
    def _index(self) -> HolderIndex:
        return self._known_index or self._keep_index(HolderIndex.of(self.holders))

    def _keep_index(self, index: HolderIndex) -> HolderIndex:
        # Not a change of the value: what is kept follows from it.
        object.__setattr__(self, "_known_index", index)
        return index


def _is_in(ordinal: int, ranges: Sequence[range]) -> bool:
    return any(ordinal in each for each in ranges)


def _leaving(mapping: Mapping[int, T], ordinals: Iterable[int]) -> dict[int, T]:
    """Return the mapping without some of its ordinals."""
    left = dict(mapping)
    for ordinal in ordinals:
        del left[ordinal]
    return left


def _without(free: tuple[int, ...], ordinal: int) -> tuple[int, ...]:
    """Return the free list without an ordinal; it usually is the head."""
    if free and free[0] == ordinal:
        return free[1:]
    return tuple(other for other in free if other != ordinal)

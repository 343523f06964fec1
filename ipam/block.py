"""Blocks: the unit of ownership and of routing, and who holds each of their addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipam.address import IPNetwork


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
    """A run of addresses with one owner.

    `affinity` is the owning node or None. `holders` maps an ordinal (the offset from the block's first address) to its
    holder. `free` lists the unassigned ordinals, head first: assignment takes the head, release appends, so that
    an address rests as long as possible. `sequence` grows by one with every write; `ordinal_sequence` maps an
    ordinal to the block sequence at its last assignment or release.
    """

    cidr: IPNetwork
    affinity: str | None
    claimed_at: float
    holders: dict[int, Holder]
    free: tuple[int, ...]
    sequence: int = 0
    ordinal_sequence: dict[int, int] | None = None

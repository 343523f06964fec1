"""What a node gives back by itself: assignments whose link is gone, and empty blocks it does not need.

Both have to be so for the grace period, as this agent has seen it: what an earlier agent saw does not count, and a
clock that is set ages nothing. Pure: the same knowledge always gives the same finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ipam.selector import selects

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block, Holder
    from ipam.pool import Pool

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on two clocks, in seconds: the epoch's, and one that is never set and starts with every boot."""

    epoch: float
    monotonic: float


@dataclass(frozen=True, slots=True)
class Held:
    """An address that a workload of this node holds, and its ordinal's sequence, which every assignment changes."""

    address: IPAddress
    holder: Holder
    sequence: int | None


@dataclass(frozen=True, slots=True)
class HandleAddresses:
    """Everything a handle holds on this node, IPv4 first; at least one address."""

    handle: str
    held: tuple[Held, ...]

    @property
    def links(self) -> tuple[str, ...]:
        """The names of the links that the addresses were assigned for, on the host's side."""
        return tuple(sorted({held.holder.interface for held in self.held}))

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The addresses, IPv4 first."""
        return tuple(held.address for held in self.held)

    @property
    def created_at(self) -> float:
        """When the latest of the addresses was assigned, in epoch seconds."""
        return max(held.holder.created_at for held in self.held)


@dataclass(frozen=True, slots=True)
class EmptyBlock:
    """An own block that nobody uses; its sequence tells that nobody has used it meanwhile either."""

    cidr: IPNetwork
    sequence: int


@dataclass(frozen=True, slots=True)
class Finding(Generic[T]):
    """What is to be given back now, and what to remember of the rest.

    `since` maps everything suspected to the monotonic time at which it was first seen so; it goes into the next
    decision. `due_at` is the monotonic time at which the next of them comes due, None if nothing does.
    """

    due: tuple[T, ...]
    since: Mapping[T, float]
    due_at: float | None


def held_by_handle(blocks: Iterable[Block], node: str) -> tuple[HandleAddresses, ...]:
    """Return what each handle holds on the node, in these blocks."""
    found: defaultdict[str, list[Held]] = defaultdict(list)
    for block in blocks:
        for ordinal in block.ordinals_of_node(node):
            holder = block.holders[ordinal]
            sequence = block.ordinal_sequence.get(ordinal)
            found[holder.handle].append(Held(block.address_at(ordinal), holder, sequence))
    return tuple(HandleAddresses(handle, tuple(sorted(held, key=_order))) for handle, held in sorted(found.items()))


def leaked(
    holders: Iterable[HandleAddresses],
    wired: Mapping[str, tuple[IPAddress, ...]],
    since: Mapping[HandleAddresses, float],
    *,
    now: Moment,
    grace_seconds: float,
) -> Finding[HandleAddresses]:
    """Return the handles whose workloads are gone for the grace period, and not assigned within it.

    `wired` maps every workload link of the host to its addresses. A handle of which one link is there, or one address
    is wired to whatever link, is left alone as a whole.
    """
    delivered = {address for addresses in wired.values() for address in addresses}
    suspects = [
        handle
        for handle in holders
        # An empty name says that the workload never was to have a link.
        if all(handle.links) and wired.keys().isdisjoint(handle.links) and delivered.isdisjoint(handle.addresses)
    ]
    seen = _seen(suspects, since, now)
    due_at = {suspect: _suspected_from(suspect, seen[suspect], now) + grace_seconds for suspect in suspects}
    return _finding(seen, due_at, now)


def unneeded(
    own_blocks: Iterable[Block],
    pools: Iterable[Pool],
    labels: Mapping[str, str],
    since: Mapping[EmptyBlock, float],
    *,
    now: Moment,
    grace_seconds: float,
    claims: bool,
) -> Finding[EmptyBlock]:
    """Return the node's own blocks that are empty for the grace period and to be given back, newest first.

    Of each IP version the oldest empty block is kept, for the next workload; all of them are if the node never `claims`
    blocks by itself and could not get another. A block is kept for neither reason if no pool serves the node with such
    blocks any more: one that is enabled, selects it and has blocks of that size. `own_blocks` are ordered, the oldest
    claim first.
    """
    serving = [pool for pool in pools if not pool.disabled and selects(pool.node_selector, labels)]
    empty: list[EmptyBlock] = []
    returnable: list[EmptyBlock] = []
    kept_versions = set()
    for block in own_blocks:
        if not block.is_empty(now.epoch):
            continue
        suspect = EmptyBlock(block.cidr, block.sequence)
        empty.append(suspect)
        wanted = block.version not in kept_versions or not claims
        if wanted and any(_has_block(pool, block) for pool in serving):
            kept_versions.add(block.version)
        else:
            returnable.append(suspect)
    seen = _seen(empty, since, now)
    return _finding(seen, {suspect: seen[suspect] + grace_seconds for suspect in reversed(returnable)}, now)


def _suspected_from(suspect: HandleAddresses, seen_at: float, now: Moment) -> float:
    """Return the monotonic time from which the grace period runs: seen missing, and assigned.

    What seems assigned in the future was assigned under a clock that was set back since; it was seen all the same.
    """
    age = now.epoch - suspect.created_at
    return seen_at if age < 0 else max(seen_at, now.monotonic - age)


def _has_block(pool: Pool, block: Block) -> bool:
    return pool.block_prefix_length == block.cidr.prefixlen and pool.contains(block.cidr)


def _seen(suspects: Iterable[T], since: Mapping[T, float], now: Moment) -> dict[T, float]:
    return {suspect: since.get(suspect, now.monotonic) for suspect in suspects}


def _finding(since: Mapping[T, float], due_at: Mapping[T, float], now: Moment) -> Finding[T]:
    waiting = [at for at in due_at.values() if at > now.monotonic]
    due = tuple(suspect for suspect, at in due_at.items() if at <= now.monotonic)
    return Finding(due, since, min(waiting, default=None))


def _order(held: Held) -> tuple[int, int]:
    return held.address.version, int(held.address)

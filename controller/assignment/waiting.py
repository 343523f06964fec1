"""The requests that wait for one node's assigner: how many may, what has been tried for each, what each is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from controller.errors import TransientError
from ipam.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controller.assignment.draft import Outcome, Planner
    from ipam.address import IPAddress

#: The most requests that may wait; the next is turned away.
MAX_WAITING: Final = 4096


@dataclass(frozen=True, slots=True)
class Counters:
    """What an assigner has done since it was made.

    Transactions that the store confirmed, transactions that met a conflict, requests that were planned again after a
    conflict or an unanswered transaction, and requests that were told their outcome: addresses or a refusal.
    """

    transaction_count: int = 0
    conflict_count: int = 0
    retry_count: int = 0
    answer_count: int = 0


@dataclass(slots=True, eq=False)
class Waiting:
    """A request, and what has been tried for it.

    `confirmed`: everything was read again after it came; `reading_count`: how often more had to be read for it alone.
    """

    planner: Planner
    future: asyncio.Future[tuple[IPAddress, ...]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    conflict_count: int = 0
    outage_count: int = 0
    reading_count: int = 0
    confirmed: bool = False

    @property
    def waits(self) -> bool:
        """Whether it has neither been told its outcome nor been given up by its caller."""
        return not self.future.done()


class Queue:
    """Who waits, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def add(self, planner: Planner) -> Waiting:
        """Let a request wait; raises `TransientError` when too many do."""
        if len(self._waiting) >= MAX_WAITING:
            # Those who gave up since the last round count no more.
            self.all()
        if len(self._waiting) >= MAX_WAITING:
            raise TransientError(f"{MAX_WAITING} requests for addresses wait already; try again later")
        waiting = Waiting(planner)
        self._waiting.append(waiting)
        return waiting

    def all(self) -> list[Waiting]:
        """Return who waits at this moment, and forget who does not any more."""
        self._waiting = [waiting for waiting in self._waiting if waiting.waits]
        return list(self._waiting)


def answer(planned: Iterable[Waiting], outcomes: Iterable[Outcome]) -> int:
    """Tell those who wait their outcomes, and return how many were told; a refusal that is not confirmed is kept."""
    answer_count = 0
    for waiting, outcome in zip(planned, outcomes, strict=True):
        refused = isinstance(outcome, Refused)
        if not waiting.waits or (refused and not waiting.confirmed):
            continue
        answer_count += 1
        if isinstance(outcome, Refused):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
    return answer_count


def fail(batch: Iterable[Waiting], error: Exception) -> None:
    """Tell those of a batch who wait that they get nothing."""
    for waiting in batch:
        if waiting.waits:
            waiting.future.set_exception(error)

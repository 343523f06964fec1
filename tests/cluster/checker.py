"""Whether a history could have happened under the promises: nothing held twice, nothing lost, nothing left over.

The agents' word is taken for what they were told, the store's for what is there at the end, nobody's for what lies in
between. A handle certainly holds its addresses from the answer of its assignment to the invocation of its next release.
Where an answer is missing, both outcomes are allowed, until a release of that handle is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tests.cluster.history import CommitOutcome, Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ipam.address import IPAddress
    from tests.cluster.history import History, Operation


class Fault(Enum):
    """Which promise is broken."""

    DUPLICATE = "an address is held under two handles at once"
    LOST = "an acknowledged assignment is gone, or is another one than acknowledged"
    LEAK = "the store holds an address that nobody has been given, or that was released"
    ANSWER = "an answer is not one to its question"
    UNSETTLED = "the history ends before it is known what is held"
    STRUCTURE = "the records contradict each other"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise."""

    fault: Fault
    text: str


@dataclass(frozen=True, slots=True)
class _Span:
    """A time in which a handle certainly holds an address."""

    since: float
    until: float
    handle: str


def check(history: History, held: Mapping[IPAddress, str]) -> list[Finding]:
    """Return every promise that the history breaks; `held` maps each address that is held at its end to its handle."""
    by_handle: dict[str, list[Operation]] = {}
    for operation in sorted(history.operations, key=lambda each: each.invoked):
        if operation.handle:
            by_handle.setdefault(operation.handle, []).append(operation)
    outages = _outages(history)
    lives = [_Life(handle, operations, outages) for handle, operations in by_handle.items()]
    findings = [finding for life in lives for finding in life.findings]
    findings += _duplicates(lives)
    findings += _end(lives, held)
    return findings


def _outages(history: History) -> dict[str, list[float]]:
    """Return when each agent was left without an answer to a transaction."""
    found: dict[str, list[float]] = {}
    for commit in history.commits:
        if commit.outcome is CommitOutcome.UNKNOWN:
            found.setdefault(commit.agent, []).append(commit.at)
    return found


class _Life:
    """What is known of one handle, following its operations.

    `certain` maps each address that the handle certainly holds to the time since when; `open` are the IP versions of
    which it may hold others too. `spans` are all the certain times, those that last to the end included.
    """

    def __init__(self, handle: str, operations: Iterable[Operation], outages: Mapping[str, list[float]]) -> None:
        self.handle = handle
        self.certain: dict[IPAddress, float] = {}
        self.open: set[int] = set()
        self.spans: list[tuple[IPAddress, _Span]] = []
        self.findings: list[Finding] = []
        self._outages = outages
        before = float("-inf")
        for operation in operations:
            if operation.invoked < before:
                self._find(Fault.ANSWER, "two operations ran at once, so nothing can be said of it")
            before = operation.completed
            if operation.kind is Kind.ASSIGN:
                self._assign(operation)
            else:
                self._release(operation)
        self._close(float("inf"), forget=False)

    def _assign(self, operation: Operation) -> None:
        if operation.outcome is Outcome.UNKNOWN:
            self.open |= set(operation.versions)
        if operation.outcome is not Outcome.DONE:
            return
        answer = set(operation.addresses)
        if sorted(operation.versions) != [address.version for address in operation.addresses]:
            self._find(Fault.ANSWER, f"asked for {operation.versions} and was given {_text(answer)}")
        if not answer >= set(operation.asked):
            self._find(Fault.ANSWER, f"asked for {_text(operation.asked)} and was given {_text(answer)}")
        kept = {address for address in self.certain if address.version in operation.versions}
        if kept - answer:
            self._find(Fault.LOST, f"held {_text(kept)} and was then told {_text(answer)}")
        self.open -= set(operation.versions)
        for address in answer:
            self.certain.setdefault(address, operation.completed)

    def _release(self, operation: Operation) -> None:
        certain = set(self.certain)
        self._close(operation.invoked, forget=True)
        if operation.outcome is not Outcome.DONE:
            self.open |= {address.version for address in certain}
            return
        # Without an answer to its transaction the agent finds out by reading, and then there is nothing left to free.
        applied_unheard = not operation.addresses and any(
            operation.invoked <= at <= operation.completed for at in self._outages.get(operation.agent, ())
        )
        if not (certain <= set(operation.addresses) or applied_unheard):
            self._find(Fault.LOST, f"held {_text(certain)}, and its release freed {_text(operation.addresses)}")
        self.open = set()

    def _close(self, at: float, *, forget: bool) -> None:
        self.spans += [(address, _Span(since, at, self.handle)) for address, since in self.certain.items()]
        if forget:
            self.certain = {}

    def _find(self, fault: Fault, text: str) -> None:
        self.findings.append(Finding(fault, f"{self.handle}: {text}"))


def _duplicates(lives: Iterable[_Life]) -> Iterator[Finding]:
    by_address: dict[IPAddress, list[_Span]] = {}
    for life in lives:
        for address, span in life.spans:
            by_address.setdefault(address, []).append(span)
    for address, spans in by_address.items():
        last: _Span | None = None
        for span in sorted(spans, key=lambda each: (each.since, each.until)):
            if last is not None and span.since < last.until and span.handle != last.handle:
                yield Finding(Fault.DUPLICATE, f"{address}: {last.handle} and {span.handle}, from {span.since:.3f}")
            last = span if last is None or span.until > last.until else last


def _end(lives: Iterable[_Life], held: Mapping[IPAddress, str]) -> Iterator[Finding]:
    by_handle: dict[str, set[IPAddress]] = {}
    for address, handle in held.items():
        by_handle.setdefault(handle, set()).add(address)
    for life in lives:
        found = by_handle.pop(life.handle, set())
        certain = set(life.certain)
        if life.open:
            yield Finding(Fault.UNSETTLED, f"{life.handle}: at the end nobody has asked for its release")
        if certain - found:
            yield Finding(Fault.LOST, f"{life.handle}: {_text(certain - found)} not in the store at the end")
        if found - certain:
            yield Finding(Fault.LEAK, f"{life.handle}: {_text(found - certain)} in the store at the end")
    for handle, found in by_handle.items():
        yield Finding(Fault.LEAK, f"{handle}: nobody asked for it; {_text(found)} in the store at the end")


def _text(addresses: Iterable[IPAddress]) -> str:
    return ", ".join(sorted(map(str, addresses))) or "nothing"

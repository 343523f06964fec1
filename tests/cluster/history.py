"""What agents did under load, as they knew it themselves: who asked for what, when, and what was answered.

A history is lines of JSON. An operation is two: its invocation, and what came of it. One that was never answered has
the first alone, so a process that dies leaves a history that says so.
"""

from __future__ import annotations

import ipaddress
import json
import math
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from ipam.address import IPAddress


class Kind(Enum):
    """What was asked for."""

    ASSIGN = "assign"
    RELEASE = "release"
    RETURN = "return"


class Outcome(Enum):
    """What the agent was told: done, refused with nothing changed, or nothing that says whether it was done."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to an agent. Times are monotonic seconds of the machine; unanswered it completes at infinity.

    `handle` is empty for the return of blocks. `versions` and `asked` are an assignment's: the IP versions, and the
    addresses that were asked for by themselves. `addresses` is the answer.
    """

    agent: str
    kind: Kind
    handle: str
    invoked: float
    completed: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    versions: tuple[int, ...] = ()
    asked: tuple[IPAddress, ...] = ()
    addresses: tuple[IPAddress, ...] = ()


class CommitOutcome(Enum):
    """How the store answered a transaction."""

    DONE = "done"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction of an agent, and how many blocks it was to claim, reclaim, begin to borrow from, and give up.

    `at` is when its answer came, in monotonic seconds of the machine.
    """

    agent: str
    at: float
    outcome: CommitOutcome
    claims: int = 0
    reclaims: int = 0
    borrows: int = 0
    returns: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """Every operation and every transaction of a run, in no particular order."""

    operations: tuple[Operation, ...] = ()
    commits: tuple[Commit, ...] = field(default=())


class Recorder:
    """Writes a history, each line at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._count = 0

    def invoke(self, operation: Operation) -> int:
        """Write that an operation begins, and return its number."""
        self._count += 1
        self._write(
            {
                "invoke": self._count,
                "agent": operation.agent,
                "kind": operation.kind.value,
                "handle": operation.handle,
                "at": operation.invoked,
                "versions": operation.versions,
                "asked": [str(address) for address in operation.asked],
            }
        )
        return self._count

    def complete(self, number: int, outcome: Outcome, addresses: Iterable[IPAddress] = ()) -> None:
        """Write what came of an operation."""
        found = [str(address) for address in addresses]
        self._write({"complete": number, "outcome": outcome.value, "at": time.monotonic(), "addresses": found})

    def commit(self, commit: Commit) -> None:
        """Write what came of a transaction."""
        counts = {name: getattr(commit, name) for name in ("claims", "reclaims", "borrows", "returns")}
        self._write({"commit": commit.outcome.value, "agent": commit.agent, "at": commit.at, **counts})

    def _write(self, fields: dict[str, Any]) -> None:
        self._stream.write(json.dumps(fields) + "\n")
        self._stream.flush()


def read_history(streams: Iterable[Iterable[str]]) -> History:
    """Return what these recorders wrote, each into a stream of its own."""
    operations: list[Operation] = []
    commits: list[Commit] = []
    for lines in streams:
        open_operations: dict[int, Operation] = {}
        for fields in map(json.loads, lines):
            if "invoke" in fields:
                open_operations[fields["invoke"]] = _invoked(fields)
            elif "complete" in fields:
                operations.append(_completed(open_operations.pop(fields["complete"]), fields))
            else:
                commits.append(_commit(fields))
        operations += open_operations.values()
    return History(tuple(operations), tuple(commits))


def _invoked(fields: dict[str, Any]) -> Operation:
    return Operation(
        agent=fields["agent"],
        kind=Kind(fields["kind"]),
        handle=fields["handle"],
        invoked=fields["at"],
        versions=tuple(fields["versions"]),
        asked=tuple(map(ipaddress.ip_address, fields["asked"])),
    )


def _completed(operation: Operation, fields: dict[str, Any]) -> Operation:
    addresses = tuple(map(ipaddress.ip_address, fields["addresses"]))
    return replace(operation, completed=fields["at"], outcome=Outcome(fields["outcome"]), addresses=addresses)


def _commit(fields: dict[str, Any]) -> Commit:
    counts = {name: fields[name] for name in ("claims", "reclaims", "borrows", "returns")}
    return Commit(fields["agent"], fields["at"], CommitOutcome(fields["commit"]), **counts)

"""Readings of store and nodes until what they show is no passing thing.

Store and nodes are never read at one instant, and a change takes its time through all of them. So a finding counts only
if every reading shows it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from controller.cli.doctor_asking import ask_nodes
from controller.diagnosis.judge import Judge
from ipam.problem import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.diagnosis.finding import Finding
    from controller.diagnosis.snapshot import Snapshot
    from controller.ports import Store
    from ipam.address import IPNetwork

#: How long a node may take to tell the store what it has wired, in seconds.
_PUBLISHED_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Asking:
    """How nodes are asked: the port of their agents, how long for an answer, how long a fault must last; in seconds."""

    port: int
    timeout_seconds: float
    settle_seconds: float


async def settled(
    store: Store,
    asking: Asking,
    read: Callable[[Store], Awaitable[Snapshot]],
    find: Callable[[Judge], tuple[Finding, ...]],
    *,
    scope: Callable[[Snapshot], IPNetwork | None] = lambda _: None,
) -> tuple[Judge, tuple[Finding, ...]]:
    """Return the last reading and the findings that every reading showed; one reading is enough if it shows none.

    `scope` names the network that nodes are asked about, which has to hold all that `find` looks at; None asks for all.
    """
    known: set[tuple[str, str | None, str]] | None = None
    deadline = time.monotonic() + _PUBLISHED_SECONDS
    while True:
        snapshot = await read(store)
        reports, silence = await ask_nodes(
            snapshot.nodes, port=asking.port, timeout_seconds=asking.timeout_seconds, prefix=scope(snapshot)
        )
        judge = Judge(snapshot, reports, silence)
        findings = tuple(each for each in find(judge) if known is None or each.identity in known)
        unpublished = any(each.kind is ProblemKind.UNASSIGNED for each in findings)
        if not findings or (known is not None and (not unpublished or time.monotonic() >= deadline)):
            return judge, findings
        known = {each.identity for each in findings}
        await asyncio.sleep(asking.settle_seconds)

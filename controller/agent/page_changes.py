"""What changed from one picture to the next, as sentences for the page's log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from controller.agent.page_picture import LineState, NodeState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from controller.agent.page_picture import Picture, SessionPicture
    from controller.agent.page_pools import PoolPicture

#: How many changes of one moment are told one by one; the others are counted.
_MOST_CHANGES: Final = 40
_WELL: Final = (NodeState.READY.value, NodeState.DRAINING.value, NodeState.DRAINED.value)


class Tone(Enum):
    """Whether a change is for the worse, for the better, or neither."""

    WORSE = "worse"
    BETTER = "better"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of the log; `at` is in epoch seconds."""

    at: float
    tone: str
    text: str


def picture_changes(old: Picture, new: Picture, at: float) -> tuple[LogEntry, ...]:
    """Return what is different with nodes and sessions, nodes first."""
    return _bounded([*_node_changes(old, new), *_session_changes(old, new)], at)


def pool_changes(old: Sequence[PoolPicture], new: Sequence[PoolPicture], at: float) -> tuple[LogEntry, ...]:
    """Return which pools came and went and how many of their blocks are claimed; addresses come and go untold."""
    before, after = ({pool.name: pool for pool in pools} for pools in (old, new))
    changes = [(Tone.NEUTRAL, f"pool {name} was deleted") for name in before.keys() - after.keys()]
    for name, pool in after.items():
        if name not in before:
            changes.append((Tone.NEUTRAL, f"pool {name} ({pool.cidr}) is new"))
        elif (claimed := before[name].claimed_count) != pool.claimed_count:
            what = f"pool {name}: {pool.claimed_count} blocks claimed, {claimed} before"
            changes.append((Tone.NEUTRAL, what))
    return _bounded(changes, at)


def _bounded(changes: Sequence[tuple[Tone, str]], at: float) -> tuple[LogEntry, ...]:
    entries = [LogEntry(at, tone.value, text) for tone, text in changes[:_MOST_CHANGES]]
    if len(changes) > _MOST_CHANGES:
        left = len(changes) - _MOST_CHANGES
        entries.append(LogEntry(at, Tone.NEUTRAL.value, f"and {left} more changes at that moment"))
    return tuple(entries)


def _node_changes(old: Picture, new: Picture) -> Iterator[tuple[Tone, str]]:
    before, after = ({node.name: node for node in each.nodes if not node.is_peer} for each in (old, new))
    for name in before.keys() - after.keys():
        yield Tone.NEUTRAL, f"node {name} was deleted"
    for name, node in after.items():
        was = before[name].state if name in before else ""
        if name not in before:
            yield Tone.NEUTRAL, f"node {name} is new"
        elif was != node.state and NodeState.UNASKED.value not in (was, node.state):
            tone = Tone.BETTER if node.state in _WELL else Tone.WORSE
            yield tone, f"node {name}: {node.state}{f' ({node.reason})' if node.reason else ''}, {was} before"


def _session_changes(old: Picture, new: Picture) -> Iterator[tuple[Tone, str]]:
    before, after = _lines(old), _lines(new)
    # The sessions that are only counted are up: the others are told first.
    uncounted = [LineState.ESTABLISHED.value if each.counts.untold else "" for each in (old, new)]
    for pair in dict.fromkeys([*after, *before]):
        was = before[pair].state if pair in before else uncounted[0]
        state = after[pair].state if pair in after else uncounted[1]
        if state != was:
            yield _told(pair, was, state, _reason(after[pair]) if pair in after else "")


def _lines(picture: Picture) -> Mapping[tuple[str, str], SessionPicture]:
    return {(line.one, line.other): line for line in picture.sessions}


def _told(pair: tuple[str, str], was: str, state: str, reason: str) -> tuple[Tone, str]:
    session = f"session {pair[0]} – {pair[1]}"  # noqa: RUF001  the dash between two ends
    if not state:
        return Tone.NEUTRAL, f"{session} is no longer there"
    if state == LineState.ESTABLISHED.value:
        return Tone.BETTER, f"{session} is established"
    if state == LineState.BROKEN.value:
        return Tone.WORSE, f"{session} is {'broken' if was else 'new and not established yet'}{reason}"
    return Tone.WORSE, f"{session}: neither end knows its state"


def _reason(line: SessionPicture) -> str:
    for end in line.ends:
        if end.state not in (LineState.ESTABLISHED.value, LineState.UNKNOWN.value):
            return f": {end.node} says {end.state}{f', {end.info}' if end.info else ''}"
    return ""

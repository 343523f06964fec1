"""The cluster as one picture: what each node says of itself, put together; nothing here asks anybody anything.

A session has two ends and is broken if either says so. What a picture holds is bounded whatever the cluster's size:
beyond `MOST_SESSIONS` only those that are not established are told one by one, the others are counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from controller.agent.summary import NodeSummary, OpenSession
    from controller.datamodel.records import Node

#: How many sessions are told one by one, how many problems, and how many nodes one problem names.
MOST_SESSIONS: Final = 600
_MOST_PROBLEMS: Final = 100
_MOST_NAMES: Final = 8


class NodeState(Enum):
    """What is known of a node, in the word that people read."""

    READY = "ready"
    NOT_READY = "not ready"
    DRAINING = "draining"
    DRAINED = "drained"
    SILENT = "no answer"
    UNASKED = "not asked yet"


class LineState(Enum):
    """What is known of a session, in the word that people read."""

    ESTABLISHED = "established"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking a node: its last summary, if there ever was one, and why it does not answer now."""

    summary: NodeSummary | None = None
    silent_because: str | None = None


@dataclass(frozen=True, slots=True)
class NodePicture:
    """A node or, if `is_peer`, somebody else whom nodes have sessions with, a router of the fabric say.

    `established` counts the sessions that the node itself says are up, of `configured`; both are 0 for a peer.
    """

    name: str
    addresses: tuple[str, ...]
    state: str
    is_peer: bool = False
    is_reflector: bool = False
    is_here: bool = False
    version: str = ""
    established: int = 0
    configured: int = 0
    routes: int = 0
    workloads: int = 0
    problem_count: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """What one end says of a session: its state since a time in epoch seconds (0: not known), and why."""

    node: str
    state: str
    since: float
    info: str


@dataclass(frozen=True, slots=True)
class SessionPicture:
    """A session between two, in the order of their names; `ends` is what those that can be asked say of it."""

    one: str
    other: str
    state: str
    ends: tuple[End, ...]


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """How many sessions there are, by what is known of them; `untold` are those the picture has only counted."""

    established: int = 0
    broken: int = 0
    unknown: int = 0
    untold: int = 0


@dataclass(frozen=True, slots=True)
class ProblemPicture:
    """A sentence and the nodes that say it: the first by name, and how many there are."""

    text: str
    nodes: tuple[str, ...]
    node_count: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Nodes, sessions and problems at one moment; `untold_problems` were too many to be told."""

    nodes: tuple[NodePicture, ...] = ()
    sessions: tuple[SessionPicture, ...] = ()
    counts: SessionCounts = field(default_factory=SessionCounts)
    problems: tuple[ProblemPicture, ...] = ()
    untold_problems: int = 0


def picture_of(
    nodes: Collection[Node], asked: Mapping[str, Asked], here: str, peer_names: Mapping[str, str]
) -> Picture:
    """Return the picture.

    `asked` is by node name, `here` the node whose agent serves the page, and `peer_names` are the names by address of
    those peers that are no nodes and have one.
    """
    answers = {node.name: asked.get(node.name, Asked()) for node in nodes}
    summaries = {name: each.summary for name, each in answers.items() if each.summary and not each.silent_because}
    name_of = {**peer_names, **{str(address): node.name for node in nodes for address in node.addresses}}
    sessions, counts = _Lines(summaries, name_of).told()
    pictures = [_node(node, answers[node.name], is_here=node.name == here) for node in nodes]
    others = {end for line in sessions for end in (line.one, line.other)} - answers.keys()
    pictures += [NodePicture(peer, (), "", is_peer=True) for peer in others]
    problems = _problems(pictures, summaries)
    return Picture(
        nodes=tuple(sorted(pictures, key=lambda each: (each.is_peer, natural(each.name)))),
        sessions=sessions,
        counts=counts,
        problems=problems[:_MOST_PROBLEMS],
        untold_problems=max(0, len(problems) - _MOST_PROBLEMS)
        + sum(summary.problem_count - len(summary.problems) for summary in summaries.values()),
    )


def natural(name: str) -> tuple[tuple[str, int], ...]:
    """Return what to sort a name by, so that h2 comes before h10."""
    parts = [*re.split(r"([0-9]+)", name), "0"]
    return tuple((text, int(number)) for text, number in zip(parts[::2], parts[1::2], strict=True))


class _Lines:
    """The sessions of the nodes whose summaries are known; an end without a name goes by its address."""

    def __init__(self, summaries: Mapping[str, NodeSummary], name_of: Mapping[str, str]) -> None:
        self._summaries = summaries
        self._name_of = name_of
        self._addresses_of: dict[str, set[str]] = {}
        for address, name in name_of.items():
            self._addresses_of.setdefault(name, set()).add(address)

    def told(self) -> tuple[tuple[SessionPicture, ...], SessionCounts]:
        """Return the sessions to be told one by one, the broken ones first, and how many there are of each kind."""
        ends: dict[tuple[str, str], list[End]] = {}
        for node, summary in self._summaries.items():
            for other in summary.others:
                ends.setdefault(self._pair(node, other.address), []).append(_end(node, other))
        total = self._total()
        if total <= MOST_SESSIONS:
            for node, summary in self._summaries.items():
                for address in summary.established:
                    ends.setdefault(self._pair(node, address), [])
        self._add_established(ends)
        lines = sorted(
            (SessionPicture(*pair, _state(said).value, tuple(said)) for pair, said in ends.items()),
            key=lambda line: (line.state != LineState.BROKEN.value, natural(line.one), natural(line.other)),
        )
        broken = sum(line.state == LineState.BROKEN.value for line in lines)
        unknown = sum(line.state == LineState.UNKNOWN.value for line in lines)
        told = tuple(lines[:MOST_SESSIONS])
        return told, SessionCounts(total - broken - unknown, broken, unknown, total - len(told))

    def _add_established(self, ends: Mapping[tuple[str, str], list[End]]) -> None:
        """Add what those ends say that see their session established."""
        for (one, other), said in ends.items():
            for node, peer in ((one, other), (other, one)):
                summary = self._summaries.get(node)
                if summary and not summary.established.isdisjoint(self._addresses_of.get(peer, {peer})):
                    said.append(End(node, LineState.ESTABLISHED.value, 0.0, ""))

    def _total(self) -> int:
        """Return how many sessions there are; one whose two ends are known is counted by both of them."""
        known = frozenset(address for address, name in self._name_of.items() if name in self._summaries)
        halves = wholes = 0
        for summary in self._summaries.values():
            peers = summary.established.union(each.address for each in summary.others)
            both = len(peers & known)
            halves += both
            wholes += len(peers) - both
        # While a node is new, one end may know of the session and the other not yet.
        return (halves + 1) // 2 + wholes

    def _pair(self, node: str, address: str) -> tuple[str, str]:
        one, two = sorted((node, self._name_of.get(address, address)), key=natural)
        return one, two


def _state(ends: Iterable[End]) -> LineState:
    states = {end.state for end in ends}
    if states - {LineState.ESTABLISHED.value, LineState.UNKNOWN.value}:
        return LineState.BROKEN
    return LineState.ESTABLISHED if LineState.ESTABLISHED.value in states else LineState.UNKNOWN


def _end(node: str, session: OpenSession) -> End:
    state = session.state if session.observed else LineState.UNKNOWN.value
    return End(node, state, session.since, session.info)


def _node(node: Node, asked: Asked, *, is_here: bool) -> NodePicture:
    summary = asked.summary
    picture = NodePicture(
        name=node.name,
        addresses=tuple(map(str, node.addresses)),
        state=(NodeState.UNASKED if asked.silent_because is None else NodeState.SILENT).value,
        is_reflector=node.cluster_id is not None,
        is_here=is_here,
        version="" if summary is None else summary.version,
        reason=asked.silent_because or "",
    )
    if summary is None or asked.silent_because is not None:
        return picture
    return replace(
        picture,
        state=_node_state(summary).value,
        established=len(summary.established),
        configured=len(summary.established) + len(summary.others),
        routes=summary.routes,
        workloads=summary.workloads,
        problem_count=summary.problem_count,
    )


def _node_state(summary: NodeSummary) -> NodeState:
    if not summary.ready:
        return NodeState.NOT_READY
    return {"draining": NodeState.DRAINING, "drained": NodeState.DRAINED}.get(summary.drain, NodeState.READY)


def _problems(pictures: Iterable[NodePicture], summaries: Mapping[str, NodeSummary]) -> tuple[ProblemPicture, ...]:
    """Return every sentence once, with those that say it; what most say comes first."""
    names: dict[str, list[str]] = {}
    for name, text in _sentences(pictures, summaries):
        names.setdefault(text, []).append(name)
    return tuple(
        ProblemPicture(text, tuple(sorted(said, key=natural)[:_MOST_NAMES]), len(said))
        for text, said in sorted(names.items(), key=lambda item: (-len(item[1]), min(map(natural, item[1])), item[0]))
    )


def _sentences(pictures: Iterable[NodePicture], summaries: Mapping[str, NodeSummary]) -> Iterator[tuple[str, str]]:
    for picture in pictures:
        if picture.reason:
            yield picture.name, f"does not answer: {picture.reason}"
        elif picture.name in summaries:
            for text in summaries[picture.name].problems:
                yield picture.name, text

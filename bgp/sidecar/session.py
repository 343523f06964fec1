"""One session: what is observed of it, what was learned and sent on it, and what is to be sent next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from bgp import exabgp_commands, nlri
from bgp.events import EndOfRib, SessionDown, SessionState
from bgp.holding import Holding
from bgp.policy import RejectedRoutes, Rejection
from bgp.sidecar.steps import Change, Ending, Flush
from bgp.updates import Group, Prefixes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgp.address import IPAddress, IPNetwork
    from bgp.updates import Shared, Update

#: ASes, communities and reflectors: so many a route has at most, all together, if nobody means harm.
_COMMON_ELEMENTS: Final = 16
#: How many prefixes are named of those that are not passed on.
_EXAMPLES: Final = 5


@dataclass(slots=True)
class Session:
    """One session as observed, what was learned on it, and what was sent on it.

    `unsure` are those of `sent` that a former sidecar may have sent or not. `queued` holds the attribute text of each
    prefix's last change since the queue was last seen empty. `in_sync` says that nothing is left to be sent,
    `announced_last` that the last change since it was so was an announcement. Prefixes that are sent are kept as text:
    they are compared by the thousand for each peer, and texts compare much faster. `known` has for each prefix what it
    was announced with, or why that counts as a withdrawal; `refuses` says whether there ever was a reason, and
    `told_rejected` is what clients were told of it last.
    """

    state: SessionState
    since: float
    info: str = ""
    known: Holding[Shared | Rejection] = field(default_factory=lambda: Holding(_weight))
    refuses: bool = False
    told_rejected: tuple[RejectedRoutes, ...] = ()
    received_ends: set[int] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    queued: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    in_sync: bool = False
    announced_last: bool = False

    @property
    def is_established(self) -> bool:
        """Whether the session is up."""
        return self.state is SessionState.ESTABLISHED

    def presume_sent(self, texts: Mapping[str, str]) -> None:
        """Take these for sent, or not, and for queued with attributes nobody knows."""
        self.sent = dict(texts)
        self.unsure = set(texts)
        self.queued = dict.fromkeys(texts, "")

    def learn(self, event: Update | EndOfRib) -> Update | EndOfRib:
        """Take what the peer told, and return what a client should hear of it: less, if there is no room for all."""
        if isinstance(event, EndOfRib):
            self.received_ends.add(event.version)
            return event
        for gone in event.withdrawn:
            self.known.drop(gone.version, gone.parts)
        for refused in event.refused:
            self.refuses = True
            self.known.put(refused.prefixes.version, refused.prefixes.parts, refused.reason)
        beyond = [self.keep(group) for group in event.announced]
        return _without(event, beyond) if any(beyond) else event

    def keep(self, group: Group) -> tuple[bytes, ...]:
        """Take routes that the peer announced, and return the prefixes for which there is no room."""
        beyond = self.known.put(group.prefixes.version, group.prefixes.parts, group.shared)
        self.refuses = self.refuses or bool(beyond)
        return beyond

    def groups(self) -> list[Group]:
        """Return all routes that were learned."""
        parts_by_shared: dict[tuple[int, Shared], list[bytes]] = {}
        for version, shared, parts in self.known.alike():
            if not isinstance(shared, Rejection):
                parts_by_shared.setdefault((version, shared), []).extend(parts)
        return [Group(Prefixes(version, tuple(parts)), shared) for (version, shared), parts in parts_by_shared.items()]

    def rejected(self, peer: IPAddress) -> tuple[RejectedRoutes, ...]:
        """Return what the peer announces and is not passed on."""
        if not self.refuses:
            return ()
        counts: Counter[Rejection] = Counter({Rejection.SESSION_FULL: self.known.left_out})
        examples: dict[Rejection, list[IPNetwork]] = {}
        for version, reason, parts in self.known.alike():
            if isinstance(reason, Rejection):
                counts[reason] += len(parts)
                examples.setdefault(reason, []).extend(nlri.prefixes(version, b"".join(parts[:_EXAMPLES])))
        return tuple(
            RejectedRoutes(peer, reason, count, tuple(examples.get(reason, ())[:_EXAMPLES]))
            for reason, count in sorted(counts.items(), key=lambda item: item[0].value)
            if count
        )

    def note(self, step: Change | Ending | Flush) -> None:
        """Note what is sent, or that the queue was seen empty."""
        if isinstance(step, Ending):
            self.ended = True
        elif isinstance(step, Flush):
            self.queued.clear()
        else:
            self._note_change(step)

    def next_step(
        self, address: IPAddress, wanted: Mapping[str, str], *, leaving: bool
    ) -> Change | Ending | Flush | None:
        """Return the next step towards the texts wanted; a `Change` without peers, so that equal ones can be joined.

        Announcements come before withdrawals: where a single address takes the place of its block, or the other way
        round, traffic has a way at every moment. Where there is more of both they take turns. End-of-RIB comes after
        everything it ends, and a leaving peer's queue is seen empty at last.
        """
        gone = {prefix: text for prefix, text in self.sent.items() if prefix not in wanted}
        new = {
            prefix: text for prefix, text in wanted.items() if prefix in self.unsure or self.sent.get(prefix) != text
        }
        for announce, prefixes in ((False, gone), (True, new)) if self.announced_last else ((True, new), (False, gone)):
            if prefixes:
                return self._first_change(address, prefixes, announce=announce)
        if leaving:
            return Flush(address) if self.queued else None
        return None if self.ended else Ending(address)

    def _first_change(self, address: IPAddress, prefixes: Mapping[str, str], *, announce: bool) -> Change | Flush:
        """Return as many prefixes as share their attributes and fit one line, or the flush that must come first."""
        attributes = next(iter(prefixes.values()))
        alike = (prefix for prefix, text in prefixes.items() if text == attributes)
        chosen = tuple(alike)[: exabgp_commands.MAX_PREFIXES]
        if any(self.queued.get(prefix, attributes) != attributes for prefix in chosen):
            return Flush(address)
        return Change((), announce, attributes, chosen)

    def _note_change(self, change: Change) -> None:
        self.announced_last = change.announce
        self.unsure.difference_update(change.prefixes)
        for prefix in change.prefixes:
            self.queued[prefix] = change.attributes
            if change.announce:
                self.sent[prefix] = change.attributes
            else:
                self.sent.pop(prefix, None)


def _weight(what: Shared | Rejection) -> int:
    """Return how much room it takes beside its prefixes, in prefixes: none, if it is of a common size."""
    if isinstance(what, Rejection):
        return 0
    _, _, as_path, _, _, _, communities, _, cluster_list = what
    return (len(as_path) + len(communities) + len(cluster_list)) // _COMMON_ELEMENTS


def _without(update: Update, beyond: list[tuple[bytes, ...]]) -> Update:
    """Return the update with those prefixes of each group withdrawn instead."""
    gone = {each.version: each.parts for each in update.withdrawn}
    announced = []
    for group, parts in zip(update.announced, map(frozenset, beyond), strict=True):
        version = group.prefixes.version
        gone[version] = (*gone.get(version, ()), *parts)
        left = tuple(part for part in group.prefixes.parts if part not in parts)
        announced.append(Group(Prefixes(version, left), group.shared))
    return replace(
        update,
        withdrawn=tuple(Prefixes(version, parts) for version, parts in gone.items()),
        announced=tuple(announced),
    )


def lost(address: IPAddress, session: Session | None, reason: str) -> SessionDown | None:
    """Return that the session is down, if it was up."""
    return SessionDown(address, reason) if session is not None and session.is_established else None

"""One session: what is observed of it, what was learned and sent on it, and what is to be sent next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bgp import exabgp_commands
from bgp.events import EndOfRib, SessionDown, SessionState
from bgp.sidecar.steps import Change, Ending, Flush
from bgp.updates import Group, Prefixes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgp.address import IPAddress
    from bgp.updates import Shared, Update


@dataclass(slots=True)
class Session:
    """One session as observed, what was learned on it, and what was sent on it.

    `unsure` are those of `sent` that a former sidecar may have sent or not. `queued` holds the attribute text of each
    prefix's last change since the queue was last seen empty. `in_sync` says that nothing is left to be sent,
    `announced_last` that the last change since it was so was an announcement. Prefixes that are sent are kept as text:
    they are compared by the thousand for each peer, and texts compare much faster. `routes` has what each learned
    prefix was announced with, by IP version and octets.
    """

    state: SessionState
    since: float
    info: str = ""
    routes: dict[int, dict[bytes, Shared]] = field(default_factory=lambda: {4: {}, 6: {}})
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

    def learn(self, event: Update | EndOfRib) -> None:
        """Take what the peer told."""
        if isinstance(event, EndOfRib):
            self.received_ends.add(event.version)
            return
        for gone in event.withdrawn:
            for part in gone.parts:
                self.routes[gone.version].pop(part, None)
        for group in event.announced:
            self.keep(group)

    def keep(self, group: Group) -> None:
        """Take routes that the peer announced."""
        self.routes[group.prefixes.version].update(dict.fromkeys(group.prefixes.parts, group.shared))

    def groups(self) -> list[Group]:
        """Return all routes that were learned."""
        groups = []
        for version, shared_by_part in self.routes.items():
            # Routes that came together share their attributes: to compare those by identity first takes much less time.
            alike: dict[int, tuple[Shared, list[bytes]]] = {}
            for part, shared in shared_by_part.items():
                alike.setdefault(id(shared), (shared, []))[1].append(part)
            parts_by_shared: dict[Shared, list[bytes]] = {}
            for shared, parts in alike.values():
                parts_by_shared.setdefault(shared, []).extend(parts)
            groups += [Group(Prefixes(version, tuple(parts)), shared) for shared, parts in parts_by_shared.items()]
        return groups

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


def lost(address: IPAddress, session: Session | None, reason: str) -> SessionDown | None:
    """Return that the session is down, if it was up."""
    return SessionDown(address, reason) if session is not None and session.is_established else None

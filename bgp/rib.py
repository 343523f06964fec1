"""Adj-RIB-In: what every peer announced, kept through restarts of the peer, of the speaker and of this process.

A session that ends takes nothing with it at once: the routes stay as stale until the peer comes back and ends its
RIB, or until its restart time is over (RFC 4724, section 4.2). Only time in which the speaker is heard counts: without
it nothing can be known of any peer, and what is not known is not gone. There is no clock here: `now` is in seconds, on
any scale that only grows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bgp.events import EndOfRib, RoutesChanged, RoutesRejected, SessionDown, SessionUp, SpeakerLost, SpeakerSnapshot
from bgp.limits import speaker_of
from bgp.stale import Stale

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bgp.address import IPAddress, IPNetwork
    from bgp.events import SpeakerEvent
    from bgp.limits import Speaker
    from bgp.peer import Peer
    from bgp.policy import RejectedRoutes
    from bgp.route import LearnedRoute, Row

#: The families a session carries, as IP versions.
VERSIONS = frozenset({4, 6})


@dataclass(slots=True)
class _PeerRib:
    """What one peer announced; all times are on the scale of `AdjRibIn._heard`.

    `restart_time_seconds` is None while the peer is not configured: what it announces is kept, so that nothing is
    missing if it is configured while its session stands, but none of it is used. `settle_at` is None once the peer has
    settled, `is_late` says whether it was given more time for that. `rejected` is what the speaker does not pass on,
    `counts` has who announces how many routes. The keys of `touched` are the prefixes that came, went or changed since
    somebody asked; those that came together stay together.
    """

    restart_time_seconds: int | None = None
    settle_at: float | None = None
    is_late: bool = False
    routes: dict[IPNetwork, LearnedRoute] = field(default_factory=dict)
    stale: Stale = field(default_factory=Stale)
    ended: set[int] = field(default_factory=set)
    counts: Counter[Speaker] = field(default_factory=Counter)
    rejected: tuple[RejectedRoutes, ...] = ()
    touched: dict[IPNetwork, object] = field(default_factory=dict)

    def configure(self, restart_time_seconds: int, heard: float) -> None:
        """Use what the peer announces from now on, if it was not used before."""
        if self.restart_time_seconds is None and not self.ended >= VERSIONS:
            self.settle_at, self.is_late = heard + restart_time_seconds, False
        if self.restart_time_seconds is None:
            self.touched.update(self.routes)
        self.restart_time_seconds = restart_time_seconds

    def retain(self, heard: float) -> None:
        """Make every route stale; those that were already keep the deadline they had."""
        self.stale.retain(self.routes.keys(), heard + (self.restart_time_seconds or 0))
        self.ended.clear()
        self.rejected = ()

    def begin(self, heard: float) -> None:
        """Give a peer whose session is up the restart time to announce everything again: once, if sessions flap."""
        until = heard + (self.restart_time_seconds or 0)
        self.stale.begin(self.routes.keys(), until)
        self.ended.clear()
        self.rejected = ()
        if self.settle_at is not None and not self.is_late:
            self.settle_at, self.is_late = until, True

    def drop(self, prefixes: Collection[IPNetwork]) -> None:
        """Forget the routes for these prefixes."""
        for prefix in prefixes:
            self._forget(prefix)
        self.touched.update(dict.fromkeys(prefixes))
        if self.stale:
            self.stale.refresh(prefixes)

    def end(self, version: int) -> None:
        """Note that the peer has sent all of one IP version: what is stale of it is gone for good."""
        self.ended.add(version)
        self.drop(self.stale.of(version))
        if self.ended >= VERSIONS:
            self.settle_at = None

    def change(self, event: RoutesChanged) -> None:
        """Take in one update."""
        self.drop(event.withdrawn)
        for row in event.announced:
            self.learn(row)

    def learn(self, row: Row) -> None:
        """Take in routes the peer announced."""
        learned = {route.prefix: route for route in row}
        if len(set(learned).difference(self.routes)) < len(learned):  # set and dict know the hashes: this costs little
            for prefix in learned:
                self._forget(prefix)
        self.routes.update(learned)
        self.counts[speaker_of(row[0])] += len(learned)
        self.touched.update(learned)
        if self.stale:
            self.stale.refresh(learned)

    def _forget(self, prefix: IPNetwork) -> None:
        route = self.routes.pop(prefix, None)
        if route is None:
            return
        speaker = speaker_of(route)
        self.counts[speaker] -= 1
        if not self.counts[speaker]:
            del self.counts[speaker]


class AdjRibIn:
    """The routes of every configured peer; feed it every event of the speaker, in order."""

    def __init__(self) -> None:
        self._peers: dict[IPAddress, _PeerRib] = {}
        self._heard_before = 0.0
        self._heard_since: float | None = None
        # What peers took along that are no more configured, or known.
        self._touched: dict[IPNetwork, object] = {}

    def configure(self, peers: Collection[Peer], now: float) -> None:
        """Make these the configured peers; the routes of others are gone at once.

        Events may come before a peer is configured and while it is not: what they told counts once it is.
        """
        wanted = {peer.address: peer.restart_time_seconds for peer in peers}
        # Those that were not configured before are kept as they are: nothing of theirs is used, so nothing changes.
        for address in [each for each, rib in self._peers.items() if rib.restart_time_seconds is not None]:
            if address not in wanted:
                self._unconfigure(address)
        for address, restart_time_seconds in wanted.items():
            self._peers.setdefault(address, _PeerRib()).configure(restart_time_seconds, self._heard(now))

    def feed(self, event: SpeakerEvent, now: float) -> None:
        """Take one event of the speaker."""
        if isinstance(event, SpeakerLost):
            self._lose(now)
            return
        if self._heard_since is None:
            self._heard_since = now
        if isinstance(event, SpeakerSnapshot):
            self._replace(event, self._heard(now))
            return
        self._apply(event, self._heard(now))

    def expire(self, now: float) -> None:
        """Forget the routes whose time as stale is over, and wait no longer for peers whose restart time is."""
        heard = self._heard(now)
        for rib in self._peers.values():
            rib.drop(rib.stale.expired(heard))
            if rib.settle_at is not None and rib.settle_at <= heard:
                rib.settle_at = None

    def next_expiry(self) -> float | None:
        """Return when `expire` will next change something, or None if nothing waits for time to pass."""
        if self._heard_since is None:
            return None
        deadlines = [when for rib in self._peers.values() for when in (rib.stale.until, rib.settle_at)]
        first = min((when for when in deadlines if when is not None), default=None)
        return None if first is None else first - self._heard_before + self._heard_since

    def settled(self, now: float) -> bool:
        """Say whether every configured peer has ended its RIB since it was configured, or had its time to.

        Only then is a route in the kernel that is not known here really gone.
        """
        heard = self._heard(now)
        return all(rib.settle_at is None or rib.settle_at <= heard for rib in self._peers.values())

    def routes(self) -> dict[IPNetwork, tuple[LearnedRoute, ...]]:
        """Return everything known of the configured peers, stale or not, by prefix."""
        first, *others = sorted(
            (rib.routes for rib in self._peers.values() if rib.restart_time_seconds is not None), key=len, reverse=True
        ) or ({},)
        # The peer with the most routes comes first: most prefixes are looked up once then, or never again.
        by_prefix: dict[IPNetwork, tuple[LearnedRoute, ...]] = dict(zip(first, zip(first.values()), strict=True))
        for routes in others:
            for prefix, route in routes.items():
                by_prefix[prefix] = (*by_prefix.get(prefix, ()), route)
        return by_prefix

    def take_touched(self) -> Collection[IPNetwork]:
        """Return the prefixes whose routes may be others than when this was last asked; those of the rest are not."""
        touched, self._touched = self._touched, {}
        for rib in self._peers.values():
            if rib.restart_time_seconds is not None:
                touched.update(rib.touched)
            rib.touched = {}  # of a peer that is not configured all is new once it is
        return touched

    def route_counts(self) -> dict[IPAddress, int]:
        """Return how many prefixes each configured peer announces, whether the speaker passes them on or not."""
        return {
            peer: len(rib.routes) + sum(routes.count for routes in rib.rejected)
            for peer, rib in self._peers.items()
            if rib.restart_time_seconds is not None
        }

    def speaker_counts(self) -> dict[IPAddress, Mapping[Speaker, int]]:
        """Return how many routes each speaker behind each configured peer has announced, as of now."""
        return {peer: rib.counts for peer, rib in self._peers.items() if rib.restart_time_seconds is not None}

    def rejected(self) -> tuple[RejectedRoutes, ...]:
        """Return what configured peers announce and the speaker does not pass on."""
        ribs = (rib for rib in self._peers.values() if rib.restart_time_seconds is not None)
        return tuple(routes for rib in ribs for routes in rib.rejected)

    def stale_count(self) -> int:
        """Return how many routes are stale."""
        return sum(len(rib.stale) for rib in self._peers.values())

    def _heard(self, now: float) -> float:
        """Return for how long the speaker has been heard altogether, in seconds."""
        return self._heard_before + (0.0 if self._heard_since is None else now - self._heard_since)

    def _unconfigure(self, address: IPAddress) -> None:
        rib = self._peers[address]
        self._touched.update(rib.touched)
        self._touched.update(rib.routes)
        rib.restart_time_seconds = rib.settle_at = None
        for version in VERSIONS:
            rib.drop(rib.stale.of(version))
        if not rib.routes:
            del self._peers[address]

    def _lose(self, now: float) -> None:
        self._heard_before, self._heard_since = self._heard(now), None
        for address, rib in list(self._peers.items()):
            if rib.restart_time_seconds is None:
                del self._peers[address]  # a snapshot tells it again
            else:
                rib.retain(self._heard_before)

    def _replace(self, snapshot: SpeakerSnapshot, heard: float) -> None:
        for rib in self._peers.values():
            rib.retain(heard)
        for row in snapshot.rows:
            self._peers.setdefault(row[0].peer, _PeerRib()).learn(row)
        for address, version in snapshot.ended:
            self._peers.setdefault(address, _PeerRib()).end(version)

    def _apply(self, event: SessionUp | SessionDown | RoutesChanged | EndOfRib | RoutesRejected, heard: float) -> None:
        rib = self._peers.setdefault(event.peer, _PeerRib())
        if isinstance(event, SessionUp):
            rib.begin(heard)
        elif isinstance(event, EndOfRib):
            rib.end(event.version)
        elif isinstance(event, RoutesChanged):
            rib.change(event)
        elif isinstance(event, RoutesRejected):
            rib.rejected = event.rejected
        elif rib.restart_time_seconds is None:
            del self._peers[event.peer]
        else:
            rib.retain(heard)

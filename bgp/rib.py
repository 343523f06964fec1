"""Adj-RIB-In: what every peer announced, kept through restarts of the peer, of the speaker and of this process.

A session that ends takes nothing with it at once: the routes stay as stale until the peer comes back and ends its
RIB, or until its restart time is over (RFC 4724, section 4.2). There is no clock here: `now` is in seconds, on any
scale that only grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bgp.events import EndOfRib, RoutesChanged, SessionDown, SessionUp, SpeakerLost, SpeakerSnapshot

if TYPE_CHECKING:
    from collections.abc import Collection

    from bgp.address import IPAddress, IPNetwork
    from bgp.events import SpeakerEvent
    from bgp.peer import Peer
    from bgp.route import LearnedRoute

#: The families a session carries, as IP versions.
VERSIONS = frozenset({4, 6})


@dataclass(slots=True)
class _PeerRib:
    """What one peer announced. `settle_at` is None once the peer has settled, `stale_until` while nothing is stale."""

    restart_time_seconds: int
    settle_at: float | None
    routes: dict[IPNetwork, LearnedRoute] = field(default_factory=dict)
    stale: set[IPNetwork] = field(default_factory=set)
    stale_until: float | None = None
    ended: set[int] = field(default_factory=set)

    def retain(self, now: float) -> None:
        """Make every route stale; those that were already keep the deadline they had."""
        if not self.stale:
            self.stale_until = None
        self.stale.update(self.routes)
        self.ended.clear()
        if self.stale and self.stale_until is None:
            self.stale_until = now + self.restart_time_seconds

    def drop_stale(self, versions: Collection[int] = VERSIONS) -> None:
        """Forget what is still stale of these IP versions."""
        for prefix in [prefix for prefix in self.stale if prefix.version in versions]:
            self.stale.discard(prefix)
            self.routes.pop(prefix, None)
        if not self.stale:
            self.stale_until = None

    def end(self, version: int) -> None:
        """Note that the peer has sent all of one IP version: what is stale of it is gone for good."""
        self.ended.add(version)
        self.drop_stale({version})
        if self.ended >= VERSIONS:
            self.settle_at = None


class AdjRibIn:
    """The routes of every configured peer; feed it every event of the speaker, in order."""

    def __init__(self) -> None:
        self._peers: dict[IPAddress, _PeerRib] = {}

    def configure(self, peers: Collection[Peer], now: float) -> None:
        """Make these the configured peers; the routes of others are gone at once.

        Call it before the speaker is told of the peers: events of a peer that is not configured are ignored.
        """
        wanted = {peer.address: peer for peer in peers}
        for address in self._peers.keys() - wanted.keys():
            del self._peers[address]
        for address, peer in wanted.items():
            known = self._peers.get(address)
            if known is None:
                self._peers[address] = _PeerRib(peer.restart_time_seconds, now + peer.restart_time_seconds)
            else:
                known.restart_time_seconds = peer.restart_time_seconds

    def feed(self, event: SpeakerEvent, now: float) -> None:
        """Take one event of the speaker."""
        if isinstance(event, SpeakerSnapshot):
            self._replace(event, now)
            return
        if isinstance(event, SpeakerLost):
            for rib in self._peers.values():
                rib.retain(now)
            return
        known = self._peers.get(event.peer)
        if known is not None:
            _apply(known, event, now)

    def expire(self, now: float) -> None:
        """Forget the routes whose time as stale is over, and wait no longer for peers whose restart time is."""
        for rib in self._peers.values():
            if rib.stale_until is not None and rib.stale_until <= now:
                rib.drop_stale()
            if rib.settle_at is not None and rib.settle_at <= now:
                rib.settle_at = None

    def next_expiry(self) -> float | None:
        """Return when `expire` will next change something, or None if nothing waits for time to pass."""
        deadlines = [when for rib in self._peers.values() for when in (rib.stale_until, rib.settle_at)]
        return min((when for when in deadlines if when is not None), default=None)

    def settled(self, now: float) -> bool:
        """Say whether every configured peer has ended its RIB since it was configured, or had its time to.

        Only then is a route in the kernel that is not known here really gone.
        """
        return all(rib.settle_at is None or rib.settle_at <= now for rib in self._peers.values())

    def routes(self) -> dict[IPNetwork, tuple[LearnedRoute, ...]]:
        """Return everything known, stale or not, by prefix."""
        by_prefix: dict[IPNetwork, tuple[LearnedRoute, ...]] = {}
        for rib in self._peers.values():
            for prefix, route in rib.routes.items():
                by_prefix[prefix] = (*by_prefix.get(prefix, ()), route)
        return by_prefix

    def stale_count(self) -> int:
        """Return how many routes are stale."""
        return sum(len(rib.stale) for rib in self._peers.values())

    def _replace(self, snapshot: SpeakerSnapshot, now: float) -> None:
        for rib in self._peers.values():
            rib.retain(now)
        for route in snapshot.routes:
            known = self._peers.get(route.peer)
            if known is not None:
                known.routes[route.prefix] = route
                known.stale.discard(route.prefix)
        for address, version in snapshot.ended:
            if (known := self._peers.get(address)) is not None:
                known.end(version)


def _apply(rib: _PeerRib, event: SessionUp | SessionDown | RoutesChanged | EndOfRib, now: float) -> None:
    if isinstance(event, SessionUp):
        rib.stale_until = None
        rib.retain(now)
    elif isinstance(event, SessionDown):
        rib.retain(now)
    elif isinstance(event, EndOfRib):
        rib.end(event.version)
    else:
        for prefix in event.withdrawn:
            rib.routes.pop(prefix, None)
            rib.stale.discard(prefix)
        for route in event.announced:
            rib.routes[route.prefix] = route
            rib.stale.discard(route.prefix)

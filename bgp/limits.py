"""How many prefixes one speaker may announce through a peer.

A reflector passes on what many announce: what one of them does must not cost the others their routes. So speakers are
told apart, by the identifier of the originator that a reflector adds (RFC 4456, section 8), otherwise by the next hop.
An originator can be made up by whoever announces. Therefore only those that are nodes of the cluster count by
themselves, all others together; from outside the AS it means nothing (RFC 7606, section 7.9), and a node passes on
nothing of others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bgp.peer import PeerOrigin

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bgp.address import IPAddress
    from bgp.peer import Peer
    from bgp.route import LearnedRoute

#: Who announced a route: the identifier of its originator, or its next hop; an empty text for all that count together.
Speaker: TypeAlias = "str | IPAddress"


def speaker_of(route: LearnedRoute) -> Speaker:
    """Return who announced the route, as it says itself."""
    return route.originator_id or route.next_hop


@dataclass(frozen=True, slots=True)
class Overfull:
    """Who announces more than it may: pairs of a peer and a speaker behind it, at least one.

    `told_apart` are the originators that count by themselves, for each of these peers; None if nobody behind it does.
    """

    speakers: frozenset[tuple[IPAddress, Speaker]]
    told_apart: Mapping[IPAddress, frozenset[str] | None]

    def includes(self, route: LearnedRoute) -> bool:
        """Say whether whoever announced the route announces too much."""
        told_apart = self.told_apart.get(route.peer, frozenset())
        return (route.peer, _counted_as(speaker_of(route), told_apart)) in self.speakers


def is_crowded(peer: Peer, counts: Mapping[Speaker, int]) -> bool:
    """Say whether so many prefixes are announced through the peer that somebody may announce too many."""
    return peer.max_prefixes is not None and sum(counts.values()) > peer.max_prefixes


def overfull(
    peers: Collection[Peer], counts_by_peer: Mapping[IPAddress, Mapping[Speaker, int]], identifiers: frozenset[str]
) -> Overfull | None:
    """Return who of those behind the peers announces too much, if anybody does.

    `identifiers` are the nodes' BGP identifiers.
    """
    found: dict[IPAddress, set[Speaker]] = {}
    told_apart = {peer.address: _told_apart(peer, identifiers) for peer in peers}
    for peer in peers:
        counts: Counter[Speaker] = Counter()
        for speaker, count in counts_by_peer[peer.address].items():
            counts[_counted_as(speaker, told_apart[peer.address])] += count
        for speaker, count in counts.items():
            if peer.max_prefixes is not None and count > peer.max_prefixes:
                found.setdefault(peer.address, set()).add(speaker)
    if not found:
        return None
    speakers = frozenset((address, speaker) for address, each in found.items() for speaker in each)
    return Overfull(speakers, {address: told_apart[address] for address in found})


def _told_apart(peer: Peer, identifiers: frozenset[str]) -> frozenset[str] | None:
    if peer.origin is PeerOrigin.MESH:
        return None
    return identifiers if peer.peer_as == peer.local_as else frozenset()


def _counted_as(speaker: Speaker, told_apart: frozenset[str] | None) -> Speaker:
    if told_apart is None or (isinstance(speaker, str) and speaker not in told_apart):
        return ""
    return speaker

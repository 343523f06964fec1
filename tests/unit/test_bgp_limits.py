"""Who announces too much: one speaker behind a reflector, never the others; and whoever makes up its name."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.events import EndOfRib, RoutesChanged, SessionDown, SessionUp
from bgp.limits import is_crowded, overfull, speaker_of
from bgp.peer import Peer, PeerOrigin
from bgp.rib import AdjRibIn
from bgp.route import LearnedRoute

if TYPE_CHECKING:
    from bgp.events import SpeakerEvent

HERE, REFLECTOR = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.9")
NODES = frozenset({"10.0.0.1", "10.0.0.2", "10.0.0.3"})
HOPS = tuple(ipaddress.ip_address(text) for text in ("10.0.0.2", "10.0.0.3", "fd00::2"))
MOST = 3


def peer(origin: PeerOrigin = PeerOrigin.GLOBAL, peer_as: int = 64512) -> Peer:
    """Return the peer, through which nobody may announce more than three prefixes."""
    return Peer(REFLECTOR, HERE, 64512, peer_as, "10.0.0.1", origin, max_prefixes=MOST)


def routes(count: int, originator: str, next_hop: str = "10.0.0.2") -> list[LearnedRoute]:
    """Return so many routes of one speaker."""
    return [
        LearnedRoute(
            ipaddress.ip_network(f"10.9.{number}.0/26"),
            ipaddress.ip_address(next_hop),
            REFLECTOR,
            originator_id=originator,
        )
        for number in range(count)
    ]


def refused(through: Peer, *announced: list[LearnedRoute]) -> list[bool]:
    """Return for each group of routes whether it is refused, which is so for all of a group or for none."""
    counts = Counter(speaker_of(route) for group in announced for route in group)
    found = overfull([through], {REFLECTOR: counts}, NODES)
    verdicts = [{found is not None and found.includes(route) for route in group} for group in announced]
    return [verdict for (verdict,) in verdicts]


def test_behind_a_reflector_each_node_counts_by_itself() -> None:
    """One that announces too much costs the others nothing, whatever next hop it names."""
    flood, good = routes(MOST + 1, "10.0.0.2", "10.0.0.3"), routes(MOST, "10.0.0.3")
    assert refused(peer(), flood, good, routes(MOST, "10.0.0.1")) == [True, False, False]
    assert refused(peer(), good, routes(MOST, "10.0.0.1")) == [False, False]


def test_originators_that_are_no_nodes_count_together() -> None:
    """Names are made up easily; nodes are not refused for them."""
    made_up = [routes(1, f"203.0.113.{number}") for number in range(MOST + 1)]
    assert refused(peer(), *made_up, routes(MOST, "10.0.0.2")) == [True] * (MOST + 1) + [False]


def test_without_originators_speakers_are_told_apart_by_next_hop() -> None:
    """A router that keeps next hops passes on what several announce, too."""
    announced = routes(MOST + 1, "", "10.0.0.2"), routes(MOST, "", "10.0.0.3")
    assert refused(peer(), *announced) == [True, False]
    assert refused(peer(peer_as=64999), *announced) == [True, False]


def test_from_outside_an_originator_means_nothing() -> None:
    """Not even if it is a node's (RFC 7606, section 7.9): all such routes count together."""
    assert refused(peer(peer_as=64999), routes(2, "10.0.0.2"), routes(2, "10.0.0.3")) == [True, True]


def test_a_node_of_the_mesh_passes_on_nothing_of_others() -> None:
    """All of its routes count together, whosever they are said to be."""
    mesh = peer(PeerOrigin.MESH)
    assert refused(mesh, routes(2, "10.0.0.2"), routes(1, "", "10.0.0.3"), routes(1, "10.0.0.3")) == [True] * 3
    assert refused(mesh, routes(2, "10.0.0.2"), routes(1, "10.0.0.3")) == [False, False]


@pytest.mark.parametrize(("count", "crowded"), [(MOST, False), (MOST + 1, True)])
def test_only_where_much_is_announced_is_looked_who_does(count: int, *, crowded: bool) -> None:
    """A session without a limit is never crowded."""
    assert is_crowded(peer(), Counter({"10.0.0.2": count - 1, "10.0.0.3": 1})) is crowded
    assert not is_crowded(Peer(REFLECTOR, HERE, 64512, 64512, "10.0.0.1"), Counter({"10.0.0.2": 10**6}))


prefixes = st.lists(
    st.integers(0, 9).map(lambda number: ipaddress.ip_network(f"10.9.{number}.0/26")), max_size=5, unique=True
)
rows = st.builds(
    lambda members, next_hop, originator: [
        LearnedRoute(prefix, next_hop, REFLECTOR, originator_id=originator) for prefix in members
    ],
    prefixes.filter(bool),
    st.sampled_from(HOPS),
    st.sampled_from(["", "10.0.0.2", "203.0.113.1"]),
)
happenings = st.one_of(
    st.builds(
        lambda withdrawn, announced: RoutesChanged(REFLECTOR, tuple(withdrawn), tuple(announced)),
        prefixes,
        st.lists(rows, max_size=2),
    ),
    st.sampled_from([SessionUp(REFLECTOR), SessionDown(REFLECTOR, "reset"), EndOfRib(REFLECTOR, 4)]),
)


@given(st.lists(st.tuples(happenings, st.booleans()), max_size=20))
def test_what_is_counted_on_the_way_is_what_there_is(events: list[tuple[SpeakerEvent, bool]]) -> None:
    """However routes come, change hands, go and are swept, and whether or not somebody asks in between."""
    rib = AdjRibIn()
    rib.configure([peer()], 0)
    for event, asked in [*events, (EndOfRib(REFLECTOR, 6), True)]:
        rib.feed(event, 0)
        if asked:
            counts = {speaker: count for speaker, count in rib.speaker_counts()[REFLECTOR].items() if count}
            assert counts == Counter(speaker_of(route) for found in rib.routes().values() for route in found)

"""Adj-RIB-In through restarts: what is kept, for how long, and what makes it go."""

from __future__ import annotations

import ipaddress

import pytest

from bgp.events import EndOfRib, RoutesChanged, RoutesRejected, SessionDown, SessionUp, SpeakerLost, SpeakerSnapshot
from bgp.peer import Peer
from bgp.policy import RejectedRoutes, Rejection
from bgp.rib import AdjRibIn
from bgp.route import LearnedRoute

A = ipaddress.ip_address("10.0.0.2")
B = ipaddress.ip_address("10.0.0.3")
HERE = ipaddress.ip_address("10.0.0.1")


def peer(address: ipaddress.IPv4Address | ipaddress.IPv6Address, restart: int = 120) -> Peer:
    """Return a configured peer."""
    return Peer(address, HERE, 64512, 64512, "10.0.0.1", restart_time_seconds=restart)


def route(prefix: str, source: ipaddress.IPv4Address | ipaddress.IPv6Address = A) -> LearnedRoute:
    """Return a route of a peer."""
    return LearnedRoute(ipaddress.ip_network(prefix), source, source)


def changed(*prefixes: str, withdrawn: tuple[str, ...] = ()) -> RoutesChanged:
    """Return an update of the first peer."""
    return RoutesChanged(
        A, tuple(ipaddress.ip_network(text) for text in withdrawn), tuple([route(text)] for text in prefixes)
    )


def known(rib: AdjRibIn) -> set[str]:
    """Return the prefixes known."""
    return {str(prefix) for prefix in rib.routes()}


@pytest.fixture
def rib() -> AdjRibIn:
    """Return a RIB with one peer, an established session and a route of each version, at second 0."""
    rib = AdjRibIn()
    rib.configure([peer(A)], 0)
    for event in (SessionUp(A), changed("10.9.0.0/26", "fd09::/122"), EndOfRib(A, 4), EndOfRib(A, 6)):
        rib.feed(event, 0)
    return rib


def test_an_update_withdraws_before_it_announces(rib: AdjRibIn) -> None:
    """A prefix in both parts of one update is announced afterwards."""
    rib.feed(changed("10.9.1.0/26", "10.9.0.0/26", withdrawn=("10.9.0.0/26", "fd09::/122")), 1)
    assert known(rib) == {"10.9.0.0/26", "10.9.1.0/26"}


def test_a_session_lost_keeps_the_routes_for_the_restart_time(rib: AdjRibIn) -> None:
    """They are stale but there until the restart time after the first loss; a second loss gives no more time."""
    loss = SessionDown(A, "reset")
    rib.feed(loss, 10)
    rib.feed(loss, 100)
    rib.expire(129)
    assert known(rib) == {"10.9.0.0/26", "fd09::/122"}
    assert rib.next_expiry() == 130
    rib.expire(130)
    assert known(rib) == set()
    assert rib.next_expiry() is None


def test_without_the_speaker_no_time_passes(rib: AdjRibIn) -> None:
    """A lost speaker takes no route with it, however long it is away; the restart time goes on when it is back."""
    rib.feed(SessionDown(A, "reset"), 10)
    rib.feed(SpeakerLost("gone"), 30)
    rib.expire(1_000)
    assert rib.next_expiry() is None
    assert known(rib) == {"10.9.0.0/26", "fd09::/122"}
    rib.feed(SpeakerSnapshot(frozenset(), frozenset(), ()), 1_000)
    assert rib.next_expiry() == 1_100
    rib.expire(1_099)
    assert known(rib) == {"10.9.0.0/26", "fd09::/122"}
    rib.expire(1_100)
    assert known(rib) == set()


def test_nothing_is_settled_by_waiting_for_a_speaker_that_is_not_there() -> None:
    """The restart time of a peer counts from the first word of the speaker, not from the start of this process."""
    rib = AdjRibIn()
    rib.configure([peer(A)], 0)
    assert not rib.settled(1_000)
    assert rib.next_expiry() is None
    rib.feed(SpeakerSnapshot(frozenset(), frozenset(), ()), 1_000)
    assert not rib.settled(1_119)
    assert rib.settled(1_120)


def test_a_peer_that_comes_late_is_given_its_time_to_announce() -> None:
    """A session that comes up just before the wait for it ends is waited for again: its routes are on their way."""
    rib = AdjRibIn()
    rib.configure([peer(A)], 0)
    rib.feed(SpeakerSnapshot(frozenset(), frozenset(), ()), 0)
    rib.feed(SessionUp(A), 119)
    assert not rib.settled(238)
    assert rib.settled(239)


def test_end_of_rib_sweeps_what_was_not_announced_again(rib: AdjRibIn) -> None:
    """After a restart each family is swept at its own End-of-RIB, and what was announced again stays for good."""
    rib.feed(SessionDown(A, "reset"), 10)
    rib.feed(changed("10.9.1.0/26"), 11)
    rib.feed(SessionUp(A), 20)
    rib.feed(changed("10.9.5.0/26"), 20)
    rib.feed(EndOfRib(A, 4), 21)
    assert known(rib) == {"10.9.5.0/26", "fd09::/122"}
    rib.feed(EndOfRib(A, 6), 21)
    assert known(rib) == {"10.9.5.0/26"}
    rib.expire(10_000)
    assert known(rib) == {"10.9.5.0/26"}


def test_a_peer_that_returns_without_end_of_rib_is_swept_by_time(rib: AdjRibIn) -> None:
    """The restart time counts anew from the moment the session is back."""
    rib.feed(SessionDown(A, "reset"), 10)
    rib.feed(SessionUp(A), 100)
    rib.feed(changed("10.9.0.0/26"), 101)
    rib.expire(219)
    assert known(rib) == {"10.9.0.0/26", "fd09::/122"}
    rib.expire(220)
    assert known(rib) == {"10.9.0.0/26"}


def test_a_session_that_flaps_keeps_no_stale_route_alive(rib: AdjRibIn) -> None:
    """A route has the time of one session to be announced again; what that session announced has its own."""
    rib.feed(SessionDown(A, "reset"), 10)
    rib.feed(SessionUp(A), 100)
    rib.feed(changed("10.9.1.0/26"), 101)
    for down, up in ((150, 160), (170, 180), (200, 210)):
        rib.feed(SessionDown(A, "reset"), down)
        rib.feed(SessionUp(A), up)
    assert rib.next_expiry() == 220
    rib.expire(219)
    assert known(rib) == {"10.9.0.0/26", "fd09::/122", "10.9.1.0/26"}
    rib.expire(220)
    assert known(rib) == {"10.9.1.0/26"}
    assert rib.next_expiry() == 280
    rib.expire(280)
    assert known(rib) == set()
    assert rib.stale_count() == 0


def test_a_session_that_flaps_is_not_waited_for_without_end() -> None:
    """It is given its time once, when it comes up for the first time."""
    rib = AdjRibIn()
    rib.configure([peer(A)], 0)
    rib.feed(SpeakerSnapshot(frozenset(), frozenset(), ()), 0)
    for up in (100, 150, 200):
        rib.feed(SessionUp(A), up)
        rib.feed(SessionDown(A, "reset"), up + 1)
    assert not rib.settled(219)
    assert rib.settled(220)


def test_a_snapshot_replaces_what_is_known_and_keeps_the_rest_as_stale(rib: AdjRibIn) -> None:
    """What a snapshot lacks stays for the restart time, unless the peer had ended its RIB before the snapshot."""
    rib.feed(SpeakerLost("gone"), 10)
    rib.feed(SpeakerSnapshot(frozenset({A}), frozenset({(A, 6)}), ([route("10.9.7.0/26")],)), 20)
    assert known(rib) == {"10.9.7.0/26", "10.9.0.0/26"}
    assert rib.stale_count() == 1
    rib.expire(139)
    assert known(rib) == {"10.9.7.0/26", "10.9.0.0/26"}
    rib.expire(140)
    assert known(rib) == {"10.9.7.0/26"}


def test_a_peer_no_longer_configured_takes_its_routes_with_it_at_once(rib: AdjRibIn) -> None:
    """And nothing that is heard of a peer that is not configured is used."""
    rib.configure([peer(B)], 5)
    assert known(rib) == set()
    rib.feed(changed("10.9.0.0/26"), 6)
    rib.feed(SpeakerSnapshot(frozenset({A}), frozenset(), ([route("10.9.0.0/26")],)), 6)
    assert known(rib) == set()


def test_a_peer_removed_and_configured_again_while_its_session_stands_has_its_routes_back(rib: AdjRibIn) -> None:
    """It announces nothing again, so what was heard of it before and in between is what there is."""
    rib.configure([], 5)
    rib.feed(changed("10.9.1.0/26", withdrawn=("fd09::/122",)), 6)
    rib.configure([peer(A)], 7)
    assert known(rib) == {"10.9.0.0/26", "10.9.1.0/26"}
    assert rib.settled(7)


def test_a_peer_heard_before_it_is_configured_has_its_routes() -> None:
    """The speaker may be known before the cluster is."""
    rib = AdjRibIn()
    ends = frozenset({(A, 4), (A, 6)})
    rib.feed(SpeakerSnapshot(frozenset({A}), ends, ([route("10.9.0.0/26")],)), 0)
    rib.configure([peer(A)], 1)
    assert known(rib) == {"10.9.0.0/26"}
    assert rib.settled(1)


@pytest.mark.parametrize("loss", [SessionDown(A, "not configured any more"), SpeakerLost("gone")])
def test_a_peer_removed_whose_session_ends_is_forgotten(rib: AdjRibIn, loss: SessionDown | SpeakerLost) -> None:
    """Configured again later, it begins with nothing, and is waited for."""
    rib.configure([], 5)
    rib.feed(loss, 6)
    rib.configure([peer(A)], 7)
    rib.feed(SpeakerSnapshot(frozenset(), frozenset(), ()), 7)
    assert known(rib) == set()
    assert not rib.settled(7)


def test_what_the_speaker_does_not_pass_on_counts_as_announced_until_its_session_ends(rib: AdjRibIn) -> None:
    """It is said anew for each session and after each snapshot, and only of peers that are configured."""
    withheld = RejectedRoutes(A, Rejection.MALFORMED, 3, ())
    rib.feed(RoutesRejected(A, (withheld,)), 1)
    assert (rib.rejected(), rib.route_counts()) == ((withheld,), {A: 5})
    rib.configure([peer(B)], 2)
    assert (rib.rejected(), rib.route_counts()) == ((), {B: 0})
    rib.configure([peer(A)], 3)
    assert rib.rejected() == (withheld,)
    rib.feed(SessionDown(A, "reset"), 4)
    assert (rib.rejected(), rib.route_counts()) == ((), {A: 2})


def test_the_same_prefix_of_two_peers_is_two_routes(rib: AdjRibIn) -> None:
    """Routes of different peers live and die apart."""
    rib.configure([peer(A), peer(B)], 0)
    rib.feed(RoutesChanged(B, (), ([route("10.9.0.0/26", B)],)), 1)
    assert len(rib.routes()[ipaddress.ip_network("10.9.0.0/26")]) == 2
    rib.feed(changed(withdrawn=("10.9.0.0/26",)), 2)
    assert [one.peer for one in rib.routes()[ipaddress.ip_network("10.9.0.0/26")]] == [B]


def test_settled_only_when_every_peer_has_ended_its_rib_or_had_its_time(rib: AdjRibIn) -> None:
    """Until then the kernel's routes may still be right; a new peer unsettles, a lost speaker does not."""
    assert rib.settled(0)
    rib.configure([peer(A), peer(B, restart=60)], 100)
    assert not rib.settled(159)
    assert rib.next_expiry() == 160
    rib.feed(SessionUp(B), 110)
    rib.feed(EndOfRib(B, 4), 111)
    assert not rib.settled(111)
    rib.feed(EndOfRib(B, 6), 112)
    assert rib.settled(112)
    rib.feed(SpeakerLost("gone"), 113)
    assert rib.settled(113)


def test_a_peer_that_never_comes_is_waited_for_only_once(rib: AdjRibIn) -> None:
    """Its restart time after it was configured is over: settled, also after its time was noted."""
    rib.configure([peer(A), peer(B, restart=60)], 100)
    assert rib.settled(160)
    rib.expire(160)
    assert rib.next_expiry() is None
    assert rib.settled(161)

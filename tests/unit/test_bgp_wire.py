"""The socket protocol: every message survives the wire, and nothing malformed is believed."""

from __future__ import annotations

import ipaddress

import pytest

from bgp import nlri, wire
from bgp.events import (
    EndOfRib,
    RoutesChanged,
    RoutesRejected,
    SessionDown,
    SessionState,
    SessionStatus,
    SessionUp,
    SpeakerLost,
    SpeakerSnapshot,
)
from bgp.messages import Desired, Heartbeat, Hello, Message, Refusal, Sessions, Told
from bgp.peer import Peer, PeerOrigin
from bgp.policy import RejectedRoutes, Rejection
from bgp.route import Announcement, LearnedRoute
from bgp.updates import Group, Known, Prefixes, Update

PEER = ipaddress.ip_address("10.0.0.2")
SIX = ipaddress.ip_address("fd00::2")
PREFIX = ipaddress.ip_network("10.9.0.0/26")
ROUTE = LearnedRoute(PREFIX, PEER, PEER, (1, 2), 90, 3, "egp", ((64512, 1),), "1.2.3.4", ("5.6.7.8",))
PLAIN = LearnedRoute(ipaddress.ip_network("fd10::/122"), SIX, PEER)
CONFIGURED = Peer(PEER, ipaddress.ip_address("10.0.0.1"), 1, 2, "10.0.0.1", PeerOrigin.GLOBAL, True, 30, 60, "s3cret")


@pytest.mark.parametrize(
    "message",
    [
        Hello(1),
        Heartbeat(),
        Refusal("no"),
        Sessions((SessionStatus(PEER, SessionState.IDLE, 1.5, "closed"),)),
        Told(frozenset({PREFIX, PLAIN.prefix})),
        Told(frozenset()),
        Desired((CONFIGURED,), (Announcement(PREFIX, PEER, ((65535, 0),), 50), Announcement(PREFIX, PEER))),
        SessionUp(PEER),
        SessionDown(SIX, "reset"),
        EndOfRib(PEER, 6),
        RoutesRejected(PEER, ()),
        RoutesRejected(SIX, (RejectedRoutes(SIX, Rejection.SESSION_FULL, 7, (PREFIX, PLAIN.prefix)),)),
    ],
)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    """One line each, and equal afterwards."""
    line = wire.encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert wire.decode(line) == message


def grouped(route: LearnedRoute) -> Group:
    """Return a route as the sidecar has it."""
    return Group(Prefixes(route.prefix.version, (nlri.row([route.prefix]),)), route[1:])


def test_learned_routes_are_read_one_by_one() -> None:
    """The sidecar has them by what they share; the snapshot and every change say the same."""
    groups = (grouped(ROUTE), grouped(PLAIN))
    established, ended = frozenset({PEER, SIX}), frozenset({(PEER, 4), (SIX, 6)})
    told = wire.decode(wire.encode(Known(established, ended, groups)))
    assert told == SpeakerSnapshot(established, ended, ([ROUTE], [PLAIN]))
    gone = (Prefixes(4, (nlri.row([PREFIX]),)), Prefixes(6, ()))
    assert wire.decode(wire.encode(Update(PEER, gone, groups))) == RoutesChanged(PEER, (PREFIX,), ([ROUTE], [PLAIN]))


def test_what_is_no_message_cannot_be_sent() -> None:
    """Losing the speaker is what a client notices, not what it is told."""
    with pytest.raises(TypeError, match="SpeakerLost"):
        wire.encode(SpeakerLost("gone"))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"[]",
        b"{}",
        b'{"type":5}',
        b'{"type":"up"}',
        b'{"type":"up","peer":5}',
        b'{"type":"up","peer":"10.0.0.256"}',
        b'{"type":"set","peers":{},"announcements":[]}',
        b'{"type":"set","peers":[{"password":"s3cret"}],"announcements":[]}',
        b'{"type":"set","peers":["s3cret"],"announcements":[]}',
        b"\xff\xfe",
    ],
)
def test_a_malformed_line_is_named_as_such_and_shows_no_secret(line: bytes) -> None:
    """The reason says what is wrong, never what a field held."""
    with pytest.raises(wire.MalformedMessage) as caught:
        wire.decode(line)
    assert "s3cret" not in str(caught.value)


def test_a_message_of_a_later_version_is_passed_over() -> None:
    """An unknown type is no error, nor is an unknown reason."""
    assert wire.decode(b'{"type":"weather","sunny":true}') is None
    line = b'{"type":"rejected","peer":"10.0.0.2","rejected":[{"reason":"too_sunny","count":1,"examples":{}}]}'
    assert wire.decode(line) == RoutesRejected(PEER, ())

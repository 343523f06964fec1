"""What the speaker tells the agent: a snapshot first, then what happens, in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bgp.address import IPAddress, IPNetwork
    from bgp.policy import RejectedRoutes
    from bgp.route import Row


@dataclass(frozen=True, slots=True)
class SpeakerSnapshot:
    """Everything the speaker knows at the moment the agent connects.

    `established` are the peers with an established session; `ended` the (peer, IP version) pairs whose End-of-RIB
    (RFC 4724, section 2) has been seen on that session; `rows` the Adj-RIB-In of all sessions. If that is much, the
    snapshot has the beginning and ends nothing: the rest follows as changes, and then each End-of-RIB.
    """

    established: frozenset[IPAddress]
    ended: frozenset[tuple[IPAddress, int]]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class SessionUp:
    """A session was established."""

    peer: IPAddress


@dataclass(frozen=True, slots=True)
class SessionDown:
    """An established session ended; its routes may still be good for the restart time."""

    peer: IPAddress
    reason: str


@dataclass(frozen=True, slots=True)
class RoutesChanged:
    """One update of a peer: the withdrawals come first, then what it announces."""

    peer: IPAddress
    withdrawn: tuple[IPNetwork, ...]
    announced: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """The peer has sent all it had of one IP version (RFC 4724, section 2)."""

    peer: IPAddress
    version: int


@dataclass(frozen=True, slots=True)
class RoutesRejected:
    """All that the peer announces on its session and the speaker does not pass on; none of it is known otherwise."""

    peer: IPAddress
    rejected: tuple[RejectedRoutes, ...]


@dataclass(frozen=True, slots=True)
class SpeakerLost:
    """The speaker's socket is gone; everything learned stays, as stale, until a snapshot says otherwise."""

    reason: str


SpeakerEvent: TypeAlias = (
    SpeakerSnapshot | SessionUp | SessionDown | RoutesChanged | EndOfRib | RoutesRejected | SpeakerLost
)


class SessionState(Enum):
    """How far a configured peer's session is."""

    ESTABLISHED = "established"
    OPENING = "opening"
    IDLE = "idle"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What is observed of one configured peer, for people.

    `since` is when the state began, in seconds since the epoch; `info` the reason for it, possibly empty. A refused
    peer is one the speaker cannot be configured with.
    """

    peer: IPAddress
    state: SessionState
    since: float
    info: str

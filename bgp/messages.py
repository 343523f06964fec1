"""What travels between the sidecar and its clients besides the speaker's events (the protocol is in `bgp.wire`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bgp.events import SpeakerEvent
from bgp.updates import Known, Update

if TYPE_CHECKING:
    from bgp.address import IPNetwork
    from bgp.events import SessionStatus
    from bgp.peer import Peer
    from bgp.route import Announcement


@dataclass(frozen=True, slots=True)
class Hello:
    """The sidecar's first line."""

    protocol: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The sidecar is alive."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """What is observed of every configured peer."""

    sessions: tuple[SessionStatus, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """Everything desired has been given to the speaker for every established session; these prefixes are announced."""

    prefixes: frozenset[IPNetwork]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The sidecar did not understand the client."""

    message: str


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything the speaker is to do: sessions with exactly these peers, exactly these prefixes announced."""

    peers: tuple[Peer, ...] = ()
    announcements: tuple[Announcement, ...] = ()


Message: TypeAlias = Hello | Heartbeat | Sessions | Told | Refusal | Desired | SpeakerEvent
#: What the sidecar sends: learned routes as it has them, in the place of a `SpeakerSnapshot` and of `RoutesChanged`.
Outgoing: TypeAlias = Message | Known | Update

"""The sidecar's socket protocol: newline-delimited JSON documents, each with a `type`. Version 2.

Sidecar to client
    hello        protocol: int; always first
    snapshot     established: [address], ended: [{peer, version}], routes: [group]; once, when the sidecar knows, and
                 before it nothing but heartbeats. If there are many routes, these are the first: the others follow in
                 `routes`, then what has ended
    up           peer
    down         peer, reason
    routes       peer, withdrawn: prefixes, announced: [group]
    end-of-rib   peer, version
    rejected     peer, rejected: [{reason, count, examples: prefixes}]; all that the sidecar keeps to itself of what the
                 peer announces on its session, after the snapshot as told last, and when it has changed, at heartbeats
    sessions     sessions: [{peer, state, since, info}]; the whole list, after the snapshot and whenever it changes
    told         prefixes; the announcements that every established session has been given, whenever they change
    heartbeat    nothing; at least every HEARTBEAT_SECONDS
    error        message; the client's last line was not understood
Client to sidecar
    set          peers: [...], announcements: [...]; the whole desired state

A group is a set of attributes with `prefixes`: routes mostly share their attributes. Prefixes are texts in hexadecimal
digits, `ipv4` and `ipv6`, of the octets that BGP's messages have for them (`bgp.nlri`); one that would be empty is left
out.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from bgp import documents
from bgp.events import EndOfRib, RoutesChanged, RoutesRejected, SessionDown, SessionUp, SpeakerSnapshot
from bgp.messages import Desired, Heartbeat, Hello, Refusal, Sessions, Told
from bgp.policy import Rejection
from bgp.updates import Known, Update

if TYPE_CHECKING:
    from bgp.messages import Message, Outgoing

Document: TypeAlias = Mapping[str, object]

PROTOCOL: Final = 2
#: A client that hears nothing for three times as long may take the sidecar for gone.
HEARTBEAT_SECONDS: Final = 5.0
#: The longest line either side accepts. The sidecar's are much shorter; those of an agent hold its whole wish.
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
#: Reasons that are understood; a later sidecar may know more.
_REASONS: Final = frozenset(reason.value for reason in Rejection)


class MalformedMessage(ValueError):
    """A line that is not a message of this protocol; the text says what was wrong with it."""


def encode(message: Outgoing) -> bytes:
    """Return the message as one line, newline included."""
    return json.dumps(_document(message), separators=(",", ":")).encode() + b"\n"


def decode(line: bytes | str) -> Message | None:
    """Return the message of a line, or None if its type is one of a later version.

    Raises `MalformedMessage` for anything that is not a message.
    """
    try:
        document = documents.mapping(json.loads(line))
        reader = _READERS.get(documents.text(document, "type"))
        return None if reader is None else reader(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"not a message of protocol {PROTOCOL}: {type(error).__name__}: {error}"
        raise MalformedMessage(reason) from error


def _document(message: Outgoing) -> dict[str, object]:  # noqa: PLR0911, PLR0912 - one kind of message, one return
    match message:
        case Hello(protocol):
            return {"type": "hello", "protocol": protocol}
        case Heartbeat():
            return {"type": "heartbeat"}
        case Refusal(text):
            return {"type": "error", "message": text}
        case Sessions(sessions):
            return {"type": "sessions", "sessions": [documents.session_document(session) for session in sessions]}
        case Told(prefixes):
            return {"type": "told", "prefixes": documents.prefixes_document(prefixes)}
        case Desired(peers, announcements):
            return {
                "type": "set",
                "peers": [documents.peer_document(peer) for peer in peers],
                "announcements": [documents.announcement_document(announcement) for announcement in announcements],
            }
        case Known(established, ended, groups):
            return {
                "type": "snapshot",
                "established": sorted(map(str, established)),
                "ended": [{"peer": str(peer), "version": version} for peer, version in ended],
                "routes": [documents.group_document(group) for group in groups],
            }
        case SessionUp(peer):
            return {"type": "up", "peer": str(peer)}
        case SessionDown(peer, reason):
            return {"type": "down", "peer": str(peer), "reason": reason}
        case Update(peer, withdrawn, announced):
            return {
                "type": "routes",
                "peer": str(peer),
                "withdrawn": documents.octets_document(withdrawn),
                "announced": [documents.group_document(group) for group in announced],
            }
        case EndOfRib(peer, version):
            return {"type": "end-of-rib", "peer": str(peer), "version": version}
        case RoutesRejected(peer, rejected):
            return {
                "type": "rejected",
                "peer": str(peer),
                "rejected": [documents.rejected_document(routes) for routes in rejected],
            }
        case _:
            raise TypeError(f"{type(message).__name__} is no message of the socket protocol")


def _read_hello(document: Document) -> Hello:
    return Hello(documents.integer(document, "protocol"))


def _read_heartbeat(_: Document) -> Heartbeat:
    return Heartbeat()


def _read_refusal(document: Document) -> Refusal:
    return Refusal(documents.text(document, "message"))


def _read_sessions(document: Document) -> Sessions:
    return Sessions(tuple(documents.read_session(item) for item in documents.mappings(document, "sessions")))


def _read_told(document: Document) -> Told:
    return Told(frozenset(documents.read_prefixes(document, "prefixes")))


def _read_desired(document: Document) -> Desired:
    return Desired(
        peers=tuple(documents.read_peer(item) for item in documents.mappings(document, "peers")),
        announcements=tuple(
            documents.read_announcement(item) for item in documents.mappings(document, "announcements")
        ),
    )


def _read_snapshot(document: Document) -> SpeakerSnapshot:
    return SpeakerSnapshot(
        established=frozenset(ipaddress.ip_address(text) for text in documents.texts(document, "established")),
        ended=frozenset(
            (documents.address(item, "peer"), documents.integer(item, "version"))
            for item in documents.mappings(document, "ended")
        ),
        rows=documents.read_groups(document, "routes"),
    )


def _read_up(document: Document) -> SessionUp:
    return SessionUp(documents.address(document, "peer"))


def _read_down(document: Document) -> SessionDown:
    return SessionDown(documents.address(document, "peer"), documents.text(document, "reason"))


def _read_changes(document: Document) -> RoutesChanged:
    return RoutesChanged(
        peer=documents.address(document, "peer"),
        withdrawn=tuple(documents.read_prefixes(document, "withdrawn")),
        announced=documents.read_groups(document, "announced"),
    )


def _read_end_of_rib(document: Document) -> EndOfRib:
    return EndOfRib(documents.address(document, "peer"), documents.integer(document, "version"))


def _read_rejected(document: Document) -> RoutesRejected:
    peer = documents.address(document, "peer")
    items = documents.mappings(document, "rejected")
    return RoutesRejected(
        peer, tuple(documents.read_rejected(item, peer) for item in items if item["reason"] in _REASONS)
    )


_READERS: Mapping[str, Callable[[Document], Message]] = {
    "hello": _read_hello,
    "heartbeat": _read_heartbeat,
    "error": _read_refusal,
    "sessions": _read_sessions,
    "told": _read_told,
    "set": _read_desired,
    "snapshot": _read_snapshot,
    "up": _read_up,
    "down": _read_down,
    "routes": _read_changes,
    "end-of-rib": _read_end_of_rib,
    "rejected": _read_rejected,
}

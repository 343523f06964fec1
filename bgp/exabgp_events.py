"""What ExaBGP writes to its API process: JSON lines for events, text for answers (ExaBGP 5, "API: JSON").

Everything unknown is passed over, never raised: an error in the API process would in the end stop ExaBGP itself.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bgp import nlri
from bgp.events import EndOfRib
from bgp.policy import Rejection
from bgp.updates import Group, Prefixes, Refused, Update

if TYPE_CHECKING:
    from bgp.address import IPAddress

#: Stands before a row of prefixes that the peer announced and ExaBGP takes for withdrawn.
REFUSED_MARK: Final = "!"
#: What ExaBGP then says is wrong, if there are more attributes than it is to take (`bgp.sidecar.bounds`).
LONG_ATTRIBUTES: Final = "attributes too long"
_VERSION = {"ipv4": 4, "ipv6": 6}
_DEFAULT_PREFERENCE = 100
#: Names ExaBGP gives to communities (IANA, "BGP Well-known Communities").
_WELL_KNOWN = {
    "no-export": (65535, 65281),
    "no-advertise": (65535, 65282),
    "no-export-subconfed": (65535, 65283),
    "no-peer": (65535, 65284),
    "blackhole": (65535, 666),
}


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A TCP connection with the peer stands; the session is opening. `time` is in seconds since the epoch."""

    peer: IPAddress
    time: float


@dataclass(frozen=True, slots=True)
class PeerUp:
    """The session is established."""

    peer: IPAddress
    time: float


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A session or an attempt at one ended."""

    peer: IPAddress
    time: float
    reason: str


ExabgpEvent: TypeAlias = PeerConnected | PeerUp | PeerDown | Update | EndOfRib


def is_event(line: str) -> bool:
    """Say whether the line is an event; every other line belongs to the answer of a command."""
    return line.startswith('{ "exabgp"')


def parse_event(line: str) -> ExabgpEvent | None:
    """Return what the line tells, or None if it tells nothing we know."""
    try:
        document = json.loads(line)
        neighbour = document["neighbor"]
        peer = ipaddress.ip_address(neighbour["address"]["peer"])
        if document["type"] == "state":
            return _parse_state(peer, float(document["time"]), neighbour)
        if document["type"] == "update":
            return _parse_message(peer, neighbour["message"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return None


def parse_routes(line: str) -> Group | None:
    """Return the routes of one line of the answer to `show adj-rib in json` (format v2); None for any other line."""
    try:
        document = json.loads(line)
        row = document["route"]["nlri"]
        version = _VERSION[row["family"]["afi"]]
        shared = (
            ipaddress.ip_address(row["nexthop"]),
            ipaddress.ip_address(document["peer"]["address"]),
            *_attributes(document["route"]["attributes"]),
        )
        return Group(_prefixes(version, [row["prefixes"]]), shared)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def parse_established(lines: Iterable[str]) -> dict[IPAddress, bool] | None:
    """Return for each peer in the answer of `show neighbor json` whether its session is established.

    None if the lines hold no such answer.
    """
    for line in lines:
        if line.startswith("["):
            try:
                return {
                    ipaddress.ip_address(neighbour["peer"]["address"]): neighbour["fsm"] == "ESTABLISHED"
                    for neighbour in json.loads(line)
                }
            except (ValueError, KeyError, TypeError):
                return None
    return None


def parse_loaded(lines: Iterable[str]) -> dict[IPAddress, str]:
    """Return the description of each neighbour in the answer of `show neighbor configuration`."""
    loaded: dict[IPAddress, str] = {}
    peer: IPAddress | None = None
    for line in lines:
        words = line.split()
        if line.startswith("neighbor "):
            peer = _named_peer(line)
        elif peer is not None and words[:1] == ["description"]:
            loaded[peer] = " ".join(words[1:]).strip('";')
    return loaded


def parse_queued(lines: Iterable[str], peer: IPAddress) -> bool:
    """Say whether anything is queued for the peer in the answer of `show neighbor PEER configuration`."""
    current: IPAddress | None = None
    in_queue = False
    for line in lines:
        if line.startswith("neighbor "):
            current, in_queue = _named_peer(line), False
        elif line.strip().startswith("static {"):
            in_queue = True
        elif in_queue and current == peer and line.strip() not in {"", "}", "}}"}:
            return True
    return False


def _parse_state(peer: IPAddress, time: float, neighbour: Mapping[str, object]) -> ExabgpEvent | None:
    if neighbour["state"] == "up":
        return PeerUp(peer, time)
    if neighbour["state"] == "connected":
        return PeerConnected(peer, time)
    if neighbour["state"] == "down":
        return PeerDown(peer, time, str(neighbour.get("reason", "")))
    return None


def _parse_message(peer: IPAddress, message: Mapping[str, Mapping[str, object]]) -> ExabgpEvent | None:
    if "eor" in message:
        version = _VERSION[str(message["eor"]["afi"])]
        return EndOfRib(peer, version) if message["eor"]["safi"] == "unicast" else None
    return _parse_update(peer, message["update"])


def _parse_update(peer: IPAddress, update: Mapping[str, object]) -> Update:
    """Return the update; what of it cannot be understood, or ExaBGP refused, withdraws its prefixes (RFC 7606)."""
    attributes = update.get("attribute", {})
    gone: dict[int, tuple[bytes, ...]] = {}
    refused = []
    for version, rows in _unicast(update.get("withdraw", {})):
        gone[version] = _prefixes(version, [row.removeprefix(REFUSED_MARK) for row in rows]).parts
        marked = [row.removeprefix(REFUSED_MARK) for row in rows if row.startswith(REFUSED_MARK)]
        if marked:
            refused.append(Refused(_reason(attributes), _prefixes(version, marked)))
    announced = []
    shared = _understood(attributes)
    for version, by_next_hop in _unicast(update.get("announce", {})):
        for text, rows in by_next_hop.items():
            prefixes, next_hop = _prefixes(version, rows), _next_hop(text)
            if shared is not None and next_hop is not None:
                announced.append(Group(prefixes, (next_hop, peer, *shared)))
            else:
                gone[version] = (*gone.get(version, ()), *prefixes.parts)
                refused.append(Refused(Rejection.MALFORMED, prefixes))
    withdrawn = tuple(Prefixes(version, parts) for version, parts in gone.items())
    return Update(peer, withdrawn, tuple(announced), tuple(refused))


def _reason(attributes: object) -> Rejection:
    """Return why ExaBGP takes an announcement for a withdrawal."""
    error = attributes.get("error") if isinstance(attributes, Mapping) else None
    return Rejection.LONG_ATTRIBUTES if error == LONG_ATTRIBUTES else Rejection.MALFORMED


def _next_hop(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _unicast(families: object) -> list[tuple[int, Any]]:
    if not isinstance(families, Mapping):
        return []
    return [
        (version, families[f"{name} unicast"]) for name, version in _VERSION.items() if f"{name} unicast" in families
    ]


def _prefixes(version: int, rows: object) -> Prefixes:
    """Return the prefixes of rows in hexadecimal digits, as `bgp.sidecar.rows` has ExaBGP write them."""
    octets = b"".join(map(bytes.fromhex, rows)) if isinstance(rows, list) else b""
    return Prefixes(version, tuple(nlri.split(version, octets)))


_Attributes: TypeAlias = tuple[tuple[int, ...], int, int, str, tuple[tuple[int, int], ...], str, tuple[str, ...]]


def _understood(attributes: object) -> _Attributes | None:
    try:
        return _attributes(attributes) if isinstance(attributes, Mapping) else None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _attributes(attributes: Mapping[str, object]) -> _Attributes:
    """Return the attributes in the order of `LearnedRoute`'s fields from `as_path` on."""
    clusters = attributes.get("cluster-list", [])
    return (
        tuple(_as_path(attributes.get("as-path", {}))),
        int(str(attributes.get("local-preference", _DEFAULT_PREFERENCE))),
        int(str(attributes.get("med", 0))),
        str(attributes.get("origin", "igp")),
        tuple(_communities(attributes.get("community"))),
        str(attributes.get("originator-id", "")),
        tuple(map(str, clusters)) if isinstance(clusters, list) else (),
    )


def _as_path(segments: object) -> Iterable[int]:
    if not isinstance(segments, Mapping):
        return
    for segment in segments.values():
        yield from (int(number) for number in segment["value"])


def _communities(values: object) -> Iterable[tuple[int, int]]:
    """Return the communities; ExaBGP writes `[as, value]` in events, `as:value` or a well-known name in answers."""
    if not isinstance(values, list):
        return
    for value in values:
        if isinstance(value, list):
            yield int(value[0]), int(value[1])
        elif value in _WELL_KNOWN:
            yield _WELL_KNOWN[value]
        elif ":" in value:
            as_number, _, number = value.partition(":")
            yield int(as_number), int(number)


def _named_peer(line: str) -> IPAddress | None:
    """Return the peer of a line `neighbor PEER {`."""
    try:
        return ipaddress.ip_address(line.split()[1])
    except (ValueError, IndexError):
        return None

"""Peers, announcements, routes and sessions as JSON documents, and back.

Reading raises ValueError, KeyError or TypeError for a document that does not fit; the text never holds the value of a
field that may be secret.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from bgp import nlri
from bgp.events import SessionState, SessionStatus
from bgp.filter import Action, CidrMatch, Rule
from bgp.peer import Peer, PeerOrigin
from bgp.policy import RejectedRoutes, Rejection
from bgp.route import Announcement, routes_alike

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bgp.address import IPAddress, IPNetwork
    from bgp.route import LearnedRoute, Row
    from bgp.updates import Group, Prefixes


def announcement_document(announcement: Announcement) -> dict[str, object]:
    """Return the announcement as JSON."""
    return {
        "prefix": str(announcement.prefix),
        "next_hop": str(announcement.next_hop),
        "communities": announcement.communities,
        "local_preference": announcement.local_preference,
    }


def read_announcement(document: Mapping[str, object]) -> Announcement:
    """Return the announcement of a JSON document."""
    return Announcement(
        prefix=ipaddress.ip_network(text(document, "prefix")),
        next_hop=address(document, "next_hop"),
        communities=_communities(document),
        local_preference=integer(document, "local_preference"),
    )


def peer_document(peer: Peer) -> dict[str, object]:
    """Return what the sidecar needs of a peer as JSON, its password included."""
    return {
        "address": str(peer.address),
        "local_address": str(peer.local_address),
        "local_as": peer.local_as,
        "peer_as": peer.peer_as,
        "router_id": peer.router_id,
        "origin": peer.origin.value,
        "passive": peer.passive,
        "hold_time_seconds": peer.hold_time_seconds,
        "restart_time_seconds": peer.restart_time_seconds,
        "password": peer.password,
        "ttl_security_hops": peer.ttl_security_hops,
        "next_hop_self": peer.next_hop_self,
        "export_rules": [rule_document(rule) for rule in peer.export_rules],
    }


def read_peer(document: Mapping[str, object]) -> Peer:
    """Return the peer of a JSON document."""
    password, hops = document["password"], document["ttl_security_hops"]
    return Peer(
        address=address(document, "address"),
        local_address=address(document, "local_address"),
        local_as=integer(document, "local_as"),
        peer_as=integer(document, "peer_as"),
        router_id=text(document, "router_id"),
        origin=PeerOrigin(document["origin"]),
        passive=bool(document["passive"]),
        hold_time_seconds=integer(document, "hold_time_seconds"),
        restart_time_seconds=integer(document, "restart_time_seconds"),
        password=None if password is None else str(password),
        ttl_security_hops=None if hops is None else _number(hops),
        next_hop_self=bool(document["next_hop_self"]),
        export_rules=tuple(read_rule(rule) for rule in mappings(document, "export_rules")),
    )


def rule_document(rule: Rule) -> dict[str, object]:
    """Return the rule as JSON."""
    return {
        "action": rule.action.value,
        "cidr": None if rule.cidr is None else str(rule.cidr),
        "cidr_match": rule.cidr_match.value,
        "min_length": rule.min_length,
        "max_length": rule.max_length,
        "community": rule.community,
        "version": rule.version,
    }


def read_rule(document: Mapping[str, object]) -> Rule:
    """Return the rule of a JSON document."""
    community = document["community"]
    return Rule(
        action=Action(document["action"]),
        cidr=None if document["cidr"] is None else ipaddress.ip_network(text(document, "cidr")),
        cidr_match=CidrMatch(document["cidr_match"]),
        min_length=None if document["min_length"] is None else integer(document, "min_length"),
        max_length=None if document["max_length"] is None else integer(document, "max_length"),
        community=None if community is None else _pair(community),
        version=None if document["version"] is None else integer(document, "version"),
    )


def session_document(session: SessionStatus) -> dict[str, object]:
    """Return the session as JSON."""
    return {
        "peer": str(session.peer),
        "state": session.state.value,
        "since": session.since,
        "info": session.info,
    }


def read_session(document: Mapping[str, object]) -> SessionStatus:
    """Return the session of a JSON document."""
    return SessionStatus(
        peer=address(document, "peer"),
        state=SessionState(document["state"]),
        since=float(str(document["since"])),
        info=text(document, "info"),
    )


def prefixes_document(prefixes: Iterable[IPNetwork]) -> dict[str, str]:
    """Return the prefixes of each IP version as they are in BGP's messages, in hexadecimal digits."""
    found: dict[int, list[IPNetwork]] = {}
    for prefix in prefixes:
        found.setdefault(prefix.version, []).append(prefix)
    return {f"ipv{version}": nlri.row(members).hex() for version, members in found.items()}


def read_prefixes(document: Mapping[str, object], key: str) -> list[IPNetwork]:
    """Return the prefixes of a field."""
    rows = mapping(document[key])
    return [
        prefix
        for version in (4, 6)
        if f"ipv{version}" in rows
        for prefix in nlri.prefixes(version, bytes.fromhex(text(rows, f"ipv{version}")))
    ]


def octets_document(rows: Iterable[Prefixes]) -> dict[str, str]:
    """Return prefixes that are in the octets of BGP's messages already; at most one row of each IP version."""
    return {f"ipv{row.version}": b"".join(row.parts).hex() for row in rows if row.parts}


def group_document(group: Group) -> dict[str, object]:
    """Return routes as JSON."""
    next_hop, peer, as_path, local_preference, med, origin, communities, originator_id, cluster_list = group.shared
    return {
        "peer": str(peer),
        "next_hop": str(next_hop),
        "as_path": as_path,
        "local_preference": local_preference,
        "med": med,
        "origin": origin,
        "communities": communities,
        "originator_id": originator_id,
        "cluster_list": cluster_list,
        "prefixes": octets_document([group.prefixes]),
    }


def read_groups(document: Mapping[str, object], key: str) -> tuple[Row, ...]:
    """Return the routes of a field of groups."""
    rows = map(_read_group, mappings(document, key))
    return tuple(row for row in rows if row)


def _read_group(group: Mapping[str, object]) -> list[LearnedRoute]:
    shared = (
        address(group, "next_hop"),
        address(group, "peer"),
        tuple(_number(number) for number in _items(group, "as_path")),
        integer(group, "local_preference"),
        integer(group, "med"),
        text(group, "origin"),
        _communities(group),
        text(group, "originator_id"),
        tuple(texts(group, "cluster_list")),
    )
    return routes_alike(read_prefixes(group, "prefixes"), shared)


def rejected_document(rejected: RejectedRoutes) -> dict[str, object]:
    """Return routes that are not passed on as JSON."""
    return {
        "reason": rejected.reason.value,
        "count": rejected.count,
        "examples": prefixes_document(rejected.examples),
    }


def read_rejected(document: Mapping[str, object], peer: IPAddress) -> RejectedRoutes:
    """Return the rejected routes of a JSON document."""
    return RejectedRoutes(
        peer=peer,
        reason=Rejection(document["reason"]),
        count=integer(document, "count"),
        examples=tuple(read_prefixes(document, "examples")),
    )


def address(document: Mapping[str, object], key: str) -> IPAddress:
    """Return an address field."""
    return ipaddress.ip_address(text(document, key))


def text(document: Mapping[str, object], key: str) -> str:
    """Return a text field."""
    value = document[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a text")
    return value


def integer(document: Mapping[str, object], key: str) -> int:
    """Return a field that is a whole number."""
    return _number(document[key])


def texts(document: Mapping[str, object], key: str) -> list[str]:
    """Return a field that is a list of texts."""
    values = _items(document, key)
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{key} holds something that is not a text")
    return [str(value) for value in values]


def mappings(document: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    """Return a field that is a list of objects."""
    return [mapping(value) for value in _items(document, key)]


def mapping(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object."""
    if not isinstance(value, dict):
        raise TypeError("a JSON object is expected")
    return value


def _items(document: Mapping[str, object], key: str) -> list[object]:
    value = document[key]
    if not isinstance(value, list):
        raise TypeError(f"{key} is not a list")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("a whole number is expected")
    return value


def _communities(document: Mapping[str, object]) -> tuple[tuple[int, int], ...]:
    return tuple(_pair(pair) for pair in _items(document, "communities"))


def _pair(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004 - AS and value
        raise TypeError("a community is not a pair of AS number and value")
    return _number(value[0]), _number(value[1])

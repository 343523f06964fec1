"""Texts exchanged with ExaBGP: configuration, commands, events and answers."""

from __future__ import annotations

import dataclasses
import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import exabgp_commands, exabgp_config, exabgp_events, wire
from bgp.events import EndOfRib, RoutesChanged
from bgp.exabgp_events import PeerConnected, PeerDown, PeerUp
from bgp.filter import Action, Rule
from bgp.peer import Peer
from bgp.policy import Rejection
from bgp.route import Announcement
from bgp.updates import Update

PEER = ipaddress.ip_address("10.0.0.2")
GOOD = Peer(PEER, ipaddress.ip_address("10.0.0.1"), 64512, 64513, "10.0.0.1", password="s3cret")


def event(kind: str, **neighbour: object) -> str:
    """Return an event line about the peer."""
    body = {"address": {"local": "10.0.0.1", "peer": "10.0.0.2"}, **neighbour}
    return json.dumps({"exabgp": "5.0.0", "time": 12.5, "type": kind, "neighbor": body}).replace("{", "{ ", 1)


def test_a_neighbour_has_everything_the_recipe_asks_for() -> None:
    """One API process, both families, graceful restart, manual End-of-RIB, the key in base64, and no route."""
    text = exabgp_config.render("/usr/bin/python3 -m bgp.sidecar", [GOOD])
    for line in (
        "run /usr/bin/python3 -m bgp.sidecar;",
        "neighbor 10.0.0.2 {",
        "local-as 64512;",
        "peer-as 64513;",
        "passive false;",
        "adj-rib-out false;",
        "manual-eor true;",
        'md5-password "czNjcmV0";',
        "family { ipv4 unicast; ipv6 unicast; }",
        "graceful-restart 120;",
    ):
        assert line in text
    assert "s3cret" not in text


def test_a_fingerprint_changes_with_every_setting() -> None:
    """Two peers have one fingerprint only if ExaBGP is told the same of them."""
    variants = [
        GOOD,
        dataclasses.replace(GOOD, password=None),
        dataclasses.replace(GOOD, password="other"),
        dataclasses.replace(GOOD, passive=True),
        dataclasses.replace(GOOD, hold_time_seconds=30),
        dataclasses.replace(GOOD, restart_time_seconds=60),
        dataclasses.replace(GOOD, peer_as=1),
        dataclasses.replace(GOOD, local_as=1),
        dataclasses.replace(GOOD, local_address=ipaddress.ip_address("10.0.0.9")),
        dataclasses.replace(GOOD, ttl_security_hops=1),
        dataclasses.replace(GOOD, ttl_security_hops=2),
    ]
    assert len({exabgp_config.fingerprint(peer) for peer in variants}) == len(variants)


def test_a_fingerprint_does_not_change_with_what_exabgp_is_not_told() -> None:
    """Filters, next hop and limits are ours: changing them loads nothing and resets no session."""
    rules = (Rule(Action.REJECT),)
    ours = dataclasses.replace(GOOD, next_hop_self=True, max_prefixes=5, import_rules=rules, export_rules=rules)
    assert exabgp_config.fingerprint(ours) == exabgp_config.fingerprint(GOOD)


@pytest.mark.parametrize(("hops", "lowest"), [(1, 255), (2, 254), (254, 2)])
def test_ttl_security_takes_what_comes_from_that_near_and_sends_the_highest(hops: int, lowest: int) -> None:
    """A peer one hop away is on the same link: nothing that passed a router is taken (RFC 5082)."""
    text = exabgp_config.render("/bin/true", [dataclasses.replace(GOOD, ttl_security_hops=hops)])
    assert f"incoming-ttl {lowest};" in text
    assert "outgoing-ttl 255;" in text
    assert "ttl" not in exabgp_config.render("/bin/true", [GOOD])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, ""),
        ({"local_address": ipaddress.ip_address("fd00::1")}, "IP version"),
        ({"local_address": PEER}, "own"),
        ({"peer_as": 0}, "peer AS 0"),
        ({"local_as": 2**32}, "local AS"),
        ({"router_id": "0.0.0.0"}, "router id"),
        ({"router_id": "10.0.0.1; }"}, "router id"),
        ({"hold_time_seconds": 2}, "hold time 2"),
        ({"restart_time_seconds": 4096}, "restart time 4096"),
        ({"password": "ü" * 41}, "password"),
        ({"password": ""}, "password is empty"),
        ({"ttl_security_hops": 0}, "TTL security of 0"),
        ({"ttl_security_hops": 255}, "TTL security of 255"),
        ({"local_address": ipaddress.ip_address("0.0.0.0")}, "source address 0.0.0.0"),
        ({"local_address": ipaddress.ip_address("224.0.0.1")}, "multicast"),
        ({"address": ipaddress.ip_address("224.0.0.1")}, "multicast"),
        ({"address": ipaddress.ip_address("0.0.0.0")}, "no peer's address"),
        ({"local_as": 65001, "peer_as": 4_200_000_001, "ttl_security_hops": 254}, ""),
    ],
)
def test_a_peer_exabgp_cannot_take_is_refused_with_the_reason(change: dict[str, object], word: str) -> None:
    """The reason names the value, except the password's."""
    refusal = exabgp_config.refusal(dataclasses.replace(GOOD, **change))  # type: ignore[arg-type]  # fields differ
    assert (word in refusal) if word else refusal == ""


def test_a_withdrawal_repeats_the_attributes_of_the_announcement() -> None:
    """Both commands of a prefix differ in one word."""
    announcement = Announcement(ipaddress.ip_network("10.9.0.0/26"), PEER, ((64512, 1), (65535, 0)), 50)
    text = exabgp_commands.attributes(announcement)
    assert text == "next-hop 10.0.0.2 local-preference 50 community [ 64512:1 65535:0 ]"
    made = exabgp_commands.announce([PEER, PEER], text, [announcement.prefix])
    assert made == f"neighbor 10.0.0.2 , neighbor 10.0.0.2 announce attributes {text} nlri 10.9.0.0/26"
    assert exabgp_commands.withdraw([PEER, PEER], text, [announcement.prefix]) == made.replace("announce", "withdraw")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (event("state", state="up"), PeerUp(PEER, 12.5)),
        (event("state", state="connected"), PeerConnected(PEER, 12.5)),
        (event("state", state="down", reason="closed"), PeerDown(PEER, 12.5, "closed")),
        (event("update", message={"eor": {"afi": "ipv6", "safi": "unicast"}}), EndOfRib(PEER, 6)),
        (event("update", message={"eor": {"afi": "ipv6", "safi": "flow"}}), None),
        (event("state", state="dreaming"), None),
        (event("keepalive"), None),
        (event("update", message={"update": {"announce": {"ipv4 flow": {}}}}), Update(PEER, (), ())),
        ("{", None),
        ("[]", None),
        ('{ "exabgp": "5.0.0", "type": "notification", "notification": "shutdown" }', None),
    ],
)
def test_events_become_values_and_unknown_ones_nothing(line: str, expected: object) -> None:
    """States, End-of-RIB and updates of unicast families are understood."""
    assert exabgp_events.parse_event(line) == expected


def test_an_event_and_an_answer_give_the_same_route() -> None:
    """Every attribute we know is read, from both forms in which ExaBGP writes it."""
    attributes = {
        "origin": "incomplete",
        "as-path": {"0": {"element": "as-sequence", "value": [1, 2]}, "1": {"element": "as-set", "value": [3]}},
        "med": 5,
        "local-preference": 70,
        "originator-id": "1.2.3.4",
        "cluster-list": ["5.6.7.8"],
        "large-community": [[1, 2, 3]],
    }
    update = {
        "attribute": {**attributes, "community": [[64512, 1], [65535, 65281]]},
        "announce": {"ipv6 unicast": {"fd00::1": ["10fd10"]}},
        "withdraw": {"ipv4 unicast": ["1a0a090300", "00"]},
    }
    event_heard = exabgp_events.parse_event(event("update", message={"update": update}))
    assert isinstance(event_heard, Update)
    heard = wire.decode(wire.encode(event_heard))
    assert isinstance(heard, RoutesChanged)
    assert [str(prefix) for prefix in heard.withdrawn] == ["10.9.3.0/26", "0.0.0.0/0"]
    ((route,),) = heard.announced
    assert (route.as_path, route.med, route.local_preference, route.origin) == ((1, 2, 3), 5, 70, "incomplete")
    assert (route.communities, route.cluster_list) == (((64512, 1), (65535, 65281)), ("5.6.7.8",))
    assert route.prefix == ipaddress.ip_network("fd10::/16")
    nlri = {"prefixes": "10fd10", "nexthop": "fd00::1", "family": {"afi": "ipv6", "safi": "unicast"}}
    shown = {
        "peer": {"address": "10.0.0.2"},
        "route": {"nlri": nlri, "attributes": {**attributes, "community": ["64512:1", "no-export", "odd"]}},
    }
    assert exabgp_events.parse_routes(json.dumps(shown)) == event_heard.announced[0]
    assert exabgp_events.parse_routes("done") is None


def test_a_part_that_is_bad_takes_no_other_part_of_its_update_along() -> None:
    """What cannot be used counts as withdrawn, beside what is withdrawn and what is announced well."""
    update = {
        "attribute": {"origin": "igp"},
        "announce": {
            "ipv4 unicast": {"no-nexthop": ["1a0a090300"], "10.0.0.2": ["1a0a090340"]},
            "ipv6 unicast": {"null": ["10fd10"]},
        },
        "withdraw": {"ipv4 unicast": ["180a0801"]},
    }
    heard = exabgp_events.parse_event(event("update", message={"update": update}))
    assert isinstance(heard, Update)
    assert [(row.version, row.parts) for row in heard.withdrawn] == [
        (4, (bytes.fromhex("180a0801"), bytes.fromhex("1a0a090300"))),
        (6, (bytes.fromhex("10fd10"),)),
    ]
    assert [group.prefixes.parts for group in heard.announced] == [(bytes.fromhex("1a0a090340"),)]
    assert [(refused.reason, refused.prefixes.version) for refused in heard.refused] == [
        (Rejection.MALFORMED, 4),
        (Rejection.MALFORMED, 6),
    ]
    update["attribute"] = {"med": "much"}
    heard = exabgp_events.parse_event(event("update", message={"update": update}))
    assert isinstance(heard, Update)
    assert not heard.announced
    assert len(heard.refused) == 3


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_no_line_raises(line: str) -> None:
    """Whatever ExaBGP writes, reading it ends in a value or in nothing."""
    exabgp_events.parse_event(line)
    exabgp_events.parse_routes(line)
    exabgp_events.parse_established([line, f"[{line}]"])
    exabgp_events.parse_loaded([line, "neighbor " + line])
    exabgp_events.parse_queued([line, "neighbor " + line], PEER)


def test_answers_tell_sessions_descriptions_and_queues() -> None:
    """The session's state is read from `fsm`: `state` says down in a session's first second."""
    session = {"state": "down", "fsm": "ESTABLISHED", "peer": {"address": "10.0.0.2"}}
    assert exabgp_events.parse_established([json.dumps([session])]) == {PEER: True}
    assert exabgp_events.parse_established(["reload in progress"]) is None
    lines = ["neighbor 10.0.0.2 {", '  description "abc";', "static { ", "    10.9.0.0/26 next-hop self", "}}"]
    assert exabgp_events.parse_loaded(lines) == {PEER: "abc"}
    assert exabgp_events.parse_queued(lines, PEER)
    assert not exabgp_events.parse_queued(lines, ipaddress.ip_address("10.0.0.20"))
    assert not exabgp_events.parse_queued([*lines[:3], "}}"], PEER)

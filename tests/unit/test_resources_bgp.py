"""Documents about BGP: what they become, and which mistake is reported how."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from bgp.configuration import BgpConfiguration
from bgp.filter import Action, CidrMatch, Rule
from bgp.peering import Filter, PeerDefinition
from controller.errors import RefusedError
from controller.resources import Resource, parse_resource, resource_document
from ipam.pool import Pool

PEER = {"peerAddress": "192.0.2.9", "peerAS": 64500}


def of_kind(kind: str, spec: object, name: str = "default") -> dict[str, Any]:
    """Return a document of this kind."""
    return {"apiVersion": "tortie/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def complaint(document: object) -> str:
    """Return the message with which a document is refused."""
    with pytest.raises(RefusedError) as refusal:
        parse_resource(document)
    return str(refusal.value)


def test_a_peer_needs_only_an_address_and_an_as_number() -> None:
    """It is every node's, with the node's own times, and routes are told with the session's next hop."""
    assert parse_resource(of_kind("BGPPeer", PEER)) == PeerDefinition("default", ip_address("192.0.2.9"), 64500)


def test_every_field_of_a_peer_is_taken() -> None:
    """Each reaches the definition."""
    spec = {
        "peerAddress": "2001:db8::9",
        "peerAS": 4294967294,
        "nodeSelector": "rack == 'a'",
        "password": "s3cret",
        "holdTimeSeconds": 3,
        "restartTimeSeconds": 4095,
        "ttlSecurityHops": 254,
        "localAS": 1,
        "sourceAddress": "2001:db8::1",
        "nextHop": "Keep",
        "passive": True,
        "filters": ["in", "out"],
        "maxPrefixes": 5,
    }
    assert parse_resource(of_kind("BGPPeer", spec, "tor")) == PeerDefinition(
        "tor",
        ip_address("2001:db8::9"),
        4294967294,
        node_selector="rack == 'a'",
        password="s3cret",
        hold_time_seconds=3,
        restart_time_seconds=4095,
        ttl_security_hops=254,
        local_as=1,
        source_address=ip_address("2001:db8::1"),
        next_hop_self=False,
        passive=True,
        filters=("in", "out"),
        max_prefixes=5,
    )


def test_a_peer_of_one_node_names_it() -> None:
    """Nodes may have capitals in their names."""
    peer = parse_resource(of_kind("BGPPeer", {**PEER, "node": "Host-7.rack"}))
    assert isinstance(peer, PeerDefinition)
    assert peer.node == "Host-7.rack"


RULES = [
    {"action": "Accept", "cidr": "10.0.0.0/8", "prefixLength": {"min": 20, "max": 28}, "community": "64512:7"},
    {"action": "reject", "cidr": "fd00::/16", "matchOperator": "notin", "ipVersion": 6},
    {"action": "Accept", "prefixLength": {"max": 0}, "ipVersion": 4},
    {"action": "Reject"},
]
FILTER = Filter(
    "rules",
    imports=(
        Rule(Action.ACCEPT, ip_network("10.0.0.0/8"), min_length=20, max_length=28, community=(64512, 7)),
        Rule(Action.REJECT, ip_network("fd00::/16"), CidrMatch.NOT_IN, version=6),
        Rule(Action.ACCEPT, max_length=0, version=4),
        Rule(Action.REJECT),
    ),
    exports=(Rule(Action.REJECT),),
)


def test_a_filter_has_rules_for_both_directions() -> None:
    """In the order in which they are written; a range alone means what lies in it."""
    assert parse_resource(of_kind("BGPFilter", {"imports": RULES, "exports": RULES[-1:]}, "rules")) == FILTER


@pytest.mark.parametrize("mesh", [True, False])
def test_the_mesh_is_on_unless_it_is_turned_off(*, mesh: bool) -> None:
    """There is one BGP configuration."""
    assert parse_resource(of_kind("BGPConfiguration", {"nodeToNodeMesh": mesh})) == BgpConfiguration(mesh=mesh)
    assert parse_resource(of_kind("BGPConfiguration", {})) == BgpConfiguration(mesh=True)


@pytest.mark.parametrize(
    "resource",
    [
        FILTER,
        Filter("empty"),
        PeerDefinition("plain", ip_address("192.0.2.9"), 64500),
        PeerDefinition("one", ip_address("192.0.2.9"), 64500, node="H1", password="0: 'x' #", filters=("rules",)),
        BgpConfiguration(mesh=False),
        Pool("marked", ip_network("10.0.0.0/16"), 26, communities=((64512, 10), (65535, 0))),
    ],
)
def test_what_is_shown_reads_back_as_itself(resource: Resource) -> None:
    """Through YAML, in which 64512:10 without quotes would be a number."""
    assert parse_resource(yaml.safe_load(yaml.safe_dump(resource_document(resource)))) == resource


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"peerAS": 1}, "spec.peerAddress: missing; it has no default"),
        ({"peerAddress": "192.0.2.9"}, "spec.peerAS: missing; it has no default"),
        ({**PEER, "peerAddress": "tor.example"}, "spec.peerAddress: 'tor.example' is no address; write it as"),
        ({**PEER, "peerAddress": "192.0.2.0/24"}, "spec.peerAddress: '192.0.2.0/24' is no address"),
        ({**PEER, "peerAddress": "fe80::1"}, "spec.peerAddress: fe80::1 is link-local and means another host on each"),
        ({**PEER, "peerAddress": "0.0.0.0"}, "spec.peerAddress: 0.0.0.0 is the address of no single host"),
        ({**PEER, "peerAddress": "ff02::1"}, "spec.peerAddress: ff02::1 is the address of no single host"),
        ({**PEER, "peerAS": 0}, "spec.peerAS: 0: Input should be greater than or equal to 1"),
        ({**PEER, "peerAS": 4294967295}, "spec.peerAS: 4294967295: Input should be less than or equal to 4294967294"),
        ({**PEER, "localAS": 0}, "spec.localAS: 0: "),
        ({**PEER, "node": "h1", "nodeSelector": "all()"}, "spec.node: spec.nodeSelector is set too; keep one of them"),
        ({**PEER, "node": "a/b"}, "spec.node: 'a/b': String should match pattern"),
        ({**PEER, "nodeSelector": "rack ="}, "spec.nodeSelector: selector 'rack ='"),
        ({**PEER, "holdTimeSeconds": 2}, "spec.holdTimeSeconds: 2: Input should be greater than or equal to 3"),
        ({**PEER, "restartTimeSeconds": 4096}, "spec.restartTimeSeconds: 4096: Input should be less than or equal"),
        ({**PEER, "ttlSecurityHops": 0}, "spec.ttlSecurityHops: 0: Input should be greater than or equal to 1"),
        ({**PEER, "ttlSecurityHops": 255}, "spec.ttlSecurityHops: 255: Input should be less than or equal to 254"),
        ({**PEER, "nextHop": "other"}, "spec.nextHop: 'other': Input should be 'self' or 'keep'"),
        ({**PEER, "sourceAddress": "fd00::1"}, "spec.sourceAddress: fd00::1 and spec.peerAddress 192.0.2.9 are of"),
        ({**PEER, "sourceAddress": "192.0.2.9"}, "spec.sourceAddress: 192.0.2.9 is the peer's own address"),
        ({**PEER, "filters": ["a", "b", "a"]}, "spec.filters: a is there twice; keep one"),
        ({**PEER, "filters": ["A"]}, "spec.filters.0: 'A': String should match pattern"),
        ({**PEER, "maxPrefixes": 0}, "spec.maxPrefixes: 0: "),
        ({**PEER, "asNumber": 1}, "spec.asNumber: no such field"),
    ],
)
def test_a_mistake_in_a_peer_is_named(spec: object, expected: str) -> None:
    """Field, value and rule."""
    assert complaint(of_kind("BGPPeer", spec)).startswith(expected)


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("", "it must have 1 to 80 bytes; leave it out"),
        ("tell-me-not" * 8, "it must have 1 to 80 bytes"),
        ("ä" * 41, "it must have 1 to 80 bytes"),
        ("tell-me-not\n", "it has a line break"),
        (7331733173, "Input should be a valid string; write it in quotes"),
        (["tell-me-not"], "Input should be a valid string; write it in quotes"),
    ],
)
def test_a_mistake_in_a_password_does_not_tell_it(password: object, expected: str) -> None:
    """The field and the rule are named, never the value."""
    told = complaint(of_kind("BGPPeer", {**PEER, "password": password}))
    assert told.startswith(f"spec.password: {expected}")
    assert "tell-me-not" not in told
    assert "7331733173" not in told


def test_a_password_is_in_no_text_of_the_peer() -> None:
    """Whoever logs one logs no secret."""
    assert "s3cret" not in repr(parse_resource(of_kind("BGPPeer", {**PEER, "password": "s3cret"})))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, "action: missing; it has no default"),
        ({"action": "Allow"}, "action: 'Allow': Input should be 'Accept' or 'Reject'"),
        ({"action": "Accept", "cidr": "10.0.0.1/8"}, "cidr: 10.0.0.1/8 has host bits set; write 10.0.0.0/8"),
        (
            {"action": "Accept", "matchOperator": "Equal"},
            "matchOperator: Equal compares with a cidr, and there is none",
        ),
        (
            {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Within"},
            "matchOperator: 'Within': Input should be 'In', 'NotIn', 'Equal' or 'NotEqual'",
        ),
        ({"action": "Accept", "cidr": "10.0.0.0/8", "ipVersion": 6}, "ipVersion: 10.0.0.0/8 is IPv4; no route could"),
        ({"action": "Accept", "ipVersion": 5}, "ipVersion: 5: Input should be 4 or 6"),
        ({"action": "Accept", "prefixLength": {}}, "prefixLength: it has neither min nor max"),
        ({"action": "Accept", "prefixLength": {"min": 3, "max": 2}}, "prefixLength: min 3 is greater than max 2"),
        ({"action": "Accept", "prefixLength": {"max": 129}}, "prefixLength.max: 129: "),
        (
            {"action": "Accept", "cidr": "10.0.0.0/8", "prefixLength": {"max": 33}},
            "prefixLength: an IPv4 prefix length is at most 32, not 33",
        ),
        (
            {"action": "Accept", "ipVersion": 4, "prefixLength": {"min": 64}},
            "prefixLength: an IPv4 prefix length is at most 32, not 64",
        ),
        ({"action": "Accept", "community": "64512"}, "community: '64512' is no community; write two numbers from 0 to"),
        ({"action": "Accept", "community": "65536:0"}, "community: '65536:0' is no community"),
        ({"action": "Accept", "community": "0:65536"}, "community: '0:65536' is no community"),
        (
            yaml.safe_load("{action: Accept, community: 64512:10}"),
            "community: 3870730 is no community; write it in quotes, as '64512:100'",
        ),
    ],
)
@pytest.mark.parametrize("direction", ["imports", "exports"])
def test_a_mistake_in_a_rule_is_named(direction: str, rule: object, expected: str) -> None:
    """Direction and number of the rule, then field, value and what is wrong with it."""
    told = complaint(of_kind("BGPFilter", {direction: [{"action": "Accept"}, rule]}))
    assert told.startswith(f"spec.{direction}.1.{expected}")


def test_a_mistake_in_a_pools_communities_is_named() -> None:
    """Each community by its number."""
    spec = {"cidr": "10.0.0.0/16", "communities": ["0:0", "65535:65535", "1:65536"]}
    assert complaint(of_kind("Pool", spec)).startswith("spec.communities.2: '1:65536' is no community")


def test_there_is_only_one_bgp_configuration() -> None:
    """Its name is default."""
    told = complaint(of_kind("BGPConfiguration", {}, "other"))
    assert told == "metadata.name: 'other': Input should be 'default'"

"""What is remembered of earlier decisions makes the next one faster and changes nothing."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from bgp.configuration import BgpConfiguration
from bgp.filter import Action, Rule
from bgp.limits import speaker_of
from bgp.peer import Peer
from bgp.route import LearnedRoute
from controller.agent.cluster import Cluster
from controller.agent.decision import Decision, DrainPhase, Knowledge, decide
from controller.agent.selection import Selection
from controller.agent.workloads import Workloads
from controller.datamodel.records import Node
from controller.ports import InterfaceAddress, Version
from ipam.pool import Pool

if TYPE_CHECKING:
    from ipam.address import IPNetwork

HERE = Node("here", 64512, IPv4Address("192.0.2.1"), None)
NODES = [Node(name, 64512, IPv4Address(f"192.0.2.{number}"), None) for number, name in ((2, "two"), (3, "three"))]
POOLS = [Pool("small", ip_network("10.0.0.0/24"), 26), Pool("large", ip_network("10.0.0.0/16"), 28)]
UPLINK = InterfaceAddress("eth0", 2, ip_address("192.0.2.1"), ip_network("192.0.2.0/24"), scope_global=True)
PREFIXES = [ip_network(text) for text in ("10.0.0.0/26", "10.0.0.64/26", "10.0.0.5/32", "10.0.0.70/32", "10.0.1.0/28")]
PREFIXES.append(ip_network("0.0.0.0/0"))
PEERS = [ip_address(f"192.0.2.{number}") for number in (2, 3)]
RULE = Rule(Action.REJECT, cidr=ip_network("10.0.0.64/26"))

peers = st.sampled_from(PEERS)
next_hops = st.sampled_from([*PEERS, ip_address("192.0.2.4"), ip_address("198.51.100.1")])
routes = st.builds(
    LearnedRoute, st.sampled_from(PREFIXES), next_hops, peers, local_preference=st.sampled_from([100, 200])
)


@st.composite
def knowledge(draw: st.DrawFn) -> Knowledge:
    """Draw all that changes what becomes of a route."""
    learned: dict[IPNetwork, tuple[LearnedRoute, ...]] = {}
    for each in draw(st.lists(routes, max_size=8, unique_by=lambda each: (each.prefix, each.peer))):
        learned[each.prefix] = (*learned.get(each.prefix, ()), each)
    pools = draw(st.sampled_from([POOLS[:1], POOLS[1:], []]))
    configured = [
        Peer(address, HERE.addresses[0], 64512, 64512, "192.0.2.1", max_prefixes=most, import_rules=rules)
        for address in PEERS
        for most in [draw(st.sampled_from([None, 1]))]
        for rules in [draw(st.sampled_from([(), (RULE,)]))]
    ]
    return Knowledge(
        node=HERE,
        cluster=Cluster(
            {pool.name: (pool, Version(1)) for pool in pools},
            {node.name: node for node in (HERE, *draw(st.sampled_from([NODES, NODES[:1]])))},
            bgp_configuration=BgpConfiguration(),
        ),
        peers=tuple(configured),
        counts_by_peer={
            peer: Counter(speaker_of(route) for found in learned.values() for route in found if route.peer == peer)
            for peer in PEERS
        },
        own_blocks=draw(st.sampled_from([(), (PREFIXES[0],)])),
        workloads=Workloads(
            frozenset(draw(st.sets(st.sampled_from([ip_network("10.0.0.5"), ip_network("10.0.0.70")])))), (), {}
        ),
        interfaces=draw(st.sampled_from([(), (UPLINK,)])),
        learned=learned,
        settled=True,
        drain=DrainPhase.NONE,
    )


@given(st.lists(knowledge(), min_size=2, max_size=5))
def test_a_decision_does_not_depend_on_those_before(known: list[Knowledge]) -> None:
    """However routes, pools, peers, workloads and links change, a selection that was kept chooses as a fresh one."""
    kept = Selection()
    for each in known:
        assert _comparable(decide(each, kept)) == _comparable(decide(each))


def _comparable(decision: Decision) -> tuple[object, ...]:
    """Return the decision without the order in which prefixes came up."""
    rejected = {(each.peer, each.reason): (each.count, frozenset(each.examples)) for each in decision.rejected}
    return decision.routes, decision.announcements, decision.learned_count, rejected, frozenset(decision.unresolved)

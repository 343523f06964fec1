"""What an explanation says of an address, a block, a pool and a node given as values."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from controller.diagnosis.explain import explain_address, explain_block, explain_node, explain_range
from controller.diagnosis.report import StoreReport
from ipam.block import Block
from ipam.problem import Problem, ProblemKind

if TYPE_CHECKING:
    from typing import TypeAlias

    from controller.diagnosis.explain import Explanation

    Case: TypeAlias = Any

BLOCK_1, BLOCK_2 = "10.65.1.0/26", "10.65.2.0/26"
BORROWED = ip_address("10.65.2.1")


def facts(explanation: Explanation) -> dict[str, str]:
    """Return the facts by their labels."""
    return dict(explanation.facts)


def rows(explanation: Explanation) -> list[tuple[str, str, str, str]]:
    """Return what is said of each node."""
    return [
        (view.node, view.expected, view.actual, "ok" if view.finding is None else view.finding.kind.value)
        for view in explanation.nodes
    ]


def test_an_address_in_its_holders_block(case: Case) -> None:
    """Its block's announcement brings packets to it, and its own route on its node."""
    found = explain_address(case.judge, ip_address("10.65.1.0"))
    told = facts(found)
    assert told["held by"] == "shop/w1 on h1, link torw1, since 1970-01-01T00:16:40Z"
    assert told["block"] == "10.65.1.0/26, owned by h1, 1 of 64 addresses in use"
    assert told["pool"] == "four, 10.65.0.0/16 in blocks of /26"
    assert told["announced"] == "10.65.1.0/26 by h1: it owns the block"
    assert rows(found) == [
        ("h1", "10.65.1.0/32 dev torw1", "10.65.1.0/32 dev torw1", "ok"),
        ("h2", "10.65.1.0/26 via 192.0.2.1", "10.65.1.0/26 via 192.0.2.1 dev eth0", "ok"),
        ("h3", "10.65.1.0/26 via 192.0.2.1", "10.65.1.0/26 via 192.0.2.1 dev eth0", "ok"),
    ]
    assert found.findings == ()


def test_a_borrowed_address_is_announced_by_itself(case: Case) -> None:
    """Also to the owner of the block."""
    found = explain_address(case.judge, BORROWED)
    assert facts(found)["announced"] == "10.65.2.1/32 by h3: it holds the address out of another node's block"
    assert rows(found)[1] == ("h2", "10.65.2.1/32 via 192.0.2.3", "10.65.2.1/32 via 192.0.2.3 dev eth0", "ok")
    case.without("h2", "kernel", "10.65.2.1/32")
    found = explain_address(case.judge, BORROWED)
    assert rows(found)[1] == ("h2", "10.65.2.1/32 via 192.0.2.3", "-", "route-missing")
    assert [each.identity for each in found.findings] == [("route-missing", "h2", "10.65.2.1/32")]


def test_the_first_broken_link_is_that_which_a_packet_needs_last(case: Case) -> None:
    """The workload's link before the route on another node: without it no route helps."""
    link = case.reports["h1"].links["torw1"]
    case.change("h1", links={"torw1": replace(link, up=False)})
    case.without("h3", "kernel", BLOCK_1)
    found = explain_address(case.judge, ip_address("10.65.1.0"))
    assert [each.kind.value for each in found.findings] == ["link-down", "route-missing"]


def test_faults_of_other_addresses_are_left_out(case: Case) -> None:
    """Another block's route, and a foreign route to a neighbour in the block."""
    case.without("h3", "kernel", BLOCK_2)
    case.foreign("h1", "10.65.2.0/32")
    assert explain_address(case.judge, ip_address("10.65.1.0")).findings == ()
    assert explain_address(case.judge, BORROWED).findings == ()
    case.foreign("h1", "10.65.2.1/32")
    assert [each.kind.value for each in explain_address(case.judge, BORROWED).findings] == ["foreign-route"]


def test_an_address_that_nobody_holds(case: Case) -> None:
    """In a block, in a pool, and outside of all."""
    free = explain_address(case.judge, ip_address("10.65.1.9"))
    assert (facts(free)["held by"], rows(free)[0]) == (
        "nobody",
        ("h1", "blackhole 10.65.1.0/26", "blackhole 10.65.1.0/26", "ok"),
    )
    unclaimed = explain_address(case.judge, ip_address("10.65.77.1"))
    assert facts(unclaimed)["block"] == "none is claimed around it"
    outside = explain_address(case.judge, ip_address("198.51.100.1"))
    assert facts(outside) == {"held by": "nobody", "block": "none, for it lies in no pool", "pool": "none"}
    assert (*free.findings, *unclaimed.findings, *outside.findings) == ()


def test_a_nodes_own_address_leads_to_the_node(case: Case) -> None:
    """It lies in no pool."""
    assert facts(explain_address(case.judge, ip_address("192.0.2.2")))["node"] == "it is the address of h2; explain h2"


def test_a_leaked_address_begins_the_chain(case: Case) -> None:
    """What follows from it on its node is not told."""
    address = ip_address("10.65.1.0")
    case.problems = (Problem(ProblemKind.LEAKED, address, "leaked", node="h1"),)
    case.change("h1", links={})
    assert [each.kind.value for each in explain_address(case.judge, address).findings] == ["leaked-address"]
    assert explain_address(case.judge, BORROWED).findings == ()


def test_a_silent_node_breaks_the_chain(case: Case) -> None:
    """What its kernel has is not known, and that is said."""
    case.silence["h1"] = "no answer"
    found = explain_address(case.judge, ip_address("10.65.1.0"))
    assert found.findings[0].identity == ("node-silent", "h1", "h1")
    assert rows(found)[0] == ("h1", "10.65.1.0/32 dev torw1", "not known", "node-silent")
    assert facts(found)["announced"].startswith("10.65.1.0/26 by h1 by the store")


def test_a_block_without_an_owner(case: Case) -> None:
    """It is announced by nobody as a whole: that is the first broken link of it and of each address, before routes."""
    case.blocks[ip_network(BLOCK_2)] = case.blocks[ip_network(BLOCK_2)].disown()
    case.report_anew()
    unowned = ("block-without-affinity", None, BLOCK_2)
    found = explain_block(case.judge, case.blocks[ip_network(BLOCK_2)])
    assert facts(found)["announced"] == "not as a whole, since no node owns it"
    assert [each.identity for each in found.findings] == [unowned]
    found = explain_address(case.judge, BORROWED)
    assert facts(found)["announced"] == "10.65.2.1/32 by h3: it holds the address out of a block that no node owns"
    assert [each.identity for each in found.findings] == [unowned]
    case.without("h1", "kernel", "10.65.2.0/32")
    found = explain_block(case.judge, case.blocks[ip_network(BLOCK_2)])
    assert [each.identity for each in found.findings] == [unowned, ("route-missing", "h1", "10.65.2.0/32")]


def test_an_empty_block_without_an_owner_waits_for_one(case: Case) -> None:
    """Nothing of it is in use, so nothing is broken."""
    case.blocks = {ip_network("10.65.9.0/26"): Block.claimed(ip_network("10.65.9.0/26"), node="h1", at=1.0).disown()}
    case.report_anew()
    assert explain_range(case.judge, ip_network("10.65.9.0/24")).findings == ()


@pytest.mark.parametrize(
    ("fields", "kind", "subject"),
    [
        ({"store": StoreReport("consul", connected=False, reason="refused")}, "store-stale", "consul"),
        ({"speaker": "no socket"}, "speaker-lost", "tortie-bgp"),
        ({"decided": False}, "undecided", "h3"),
    ],
)
def test_a_node_that_is_behind_breaks_the_chains_of_its_own(
    case: Case, fields: dict[str, Any], kind: str, subject: str
) -> None:
    """Of its block, of addresses in it and of one that it borrowed, before what follows; not those of others."""
    case.change("h3", **fields, links={})
    own = explain_block(case.judge, case.blocks[ip_network("10.65.3.0/26")])
    free, borrowed = explain_address(case.judge, ip_address("10.65.3.7")), explain_address(case.judge, BORROWED)
    assert [each.findings[0].identity for each in (own, free, borrowed)] == [(kind, "h3", subject)] * 3
    assert explain_address(case.judge, ip_address("10.65.1.0")).findings == ()


def test_a_block_that_is_not_announced_on_purpose(case: Case) -> None:
    """The reason is told."""
    case.drained = frozenset({"h1"})
    case.report_anew()
    found = explain_block(case.judge, case.blocks[ip_network(BLOCK_1)])
    assert facts(found)["announced"].startswith("not: node h1 is drained")
    assert rows(found)[1] == ("h2", "-", "-", "ok")


def test_a_pool(case: Case) -> None:
    """How many of the routes to its blocks each node has."""
    case.without("h3", "kernel", BLOCK_1)
    found = explain_range(case.judge, ip_network("10.65.0.0/16"))
    assert facts(found)["blocks"] == "3"
    assert rows(found) == [
        ("h1", "3 routes", "3 routes", "ok"),
        ("h2", "3 routes", "3 routes", "ok"),
        ("h3", "3 routes", "2 routes", "route-missing"),
    ]


def test_a_node(case: Case) -> None:
    """What it has, its sessions, and only its own findings."""
    case.without("h3", "kernel", BLOCK_1)
    assert explain_node(case.judge, case.nodes["h1"]).findings == ()
    found = explain_node(case.judge, case.nodes["h3"])
    assert facts(found)["holds"] == "1 addresses, 1 of them out of blocks of others"
    assert facts(found)["routes"].endswith("1 of them not so in the kernel")
    assert rows(found) == [
        ("h1", "session with 192.0.2.1", "established", "ok"),
        ("h2", "session with 192.0.2.2", "established", "ok"),
    ]
    assert [each.identity for each in found.findings] == [("route-missing", "h3", BLOCK_1)]

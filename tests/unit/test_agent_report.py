"""The report of a node for whoever compares it with others: what it is made of, and how it is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from bgp.events import SessionState, SessionStatus
from bgp.peer import Peer
from bgp.policy import Rejection
from bgp.route import Announcement, LearnedRoute
from controller.agent import report
from controller.agent.decision import Decision
from controller.agent.report import Known, report_of, report_page
from controller.agent.status import Observed
from controller.datamodel.records import Node
from controller.diagnosis.document import decode_report
from controller.diagnosis.report import ForeignRoute, Hop, LinkReport, Path, Route, Rule
from controller.errors import KernelUnavailable
from controller.kernel.inspection import KernelFacts, WorkloadEnd
from controller.kernel.route_messages import MainRoute
from controller.ports import KernelRoute, NextHop, RouteFailure, RouteKind
from controller.reconcile.desired import Unresolved
from controller.reconcile.difference import DesiredRoutes, Sweep
from ipam.block import Block, Holder

if TYPE_CHECKING:
    from collections.abc import Collection

    from ipam.address import IPNetwork

NODE = Node("n1", 64512, IPv4Address("192.0.2.1"), None)
OWN, NOBODYS, THEIRS, OTHER = (ip_network(f"10.0.{number}.0/26") for number in range(4))
PEER = ip_address("192.0.2.2")
HELD, BORROWED, ORPHANED = ip_address("10.0.0.5"), ip_address("10.0.2.9"), ip_address("10.0.1.9")
VIA = (NextHop(PEER, 2),)
ETH0 = (Hop(PEER, "eth0"),)


def host(address: object) -> IPNetwork:
    """Return the network of one address."""
    return ip_network(str(address))


def holder(link: str) -> Holder:
    """Return who holds an address."""
    return Holder(link, "n1", link, "default", link, 1.0)


@pytest.fixture
def known() -> Known:
    """Return what an agent knows that owns a block, and holds addresses in another node's and in nobody's."""
    routes = {
        OWN: KernelRoute(OWN, RouteKind.BLACKHOLE),
        host(HELD): KernelRoute(host(HELD), RouteKind.UNICAST, (NextHop(None, 7),)),
        THEIRS: KernelRoute(THEIRS, RouteKind.UNICAST, VIA),
    }
    decision = Decision(
        DesiredRoutes(routes, Sweep.EVERYTHING),
        announcements=tuple(Announcement(prefix, PEER) for prefix in (OWN, host(BORROWED), host(ORPHANED))),
        learned_count=1,
        rejected=(),
        unresolved=(Unresolved(OTHER, ip_address("198.51.100.1")),),
    )
    observed = Observed(
        node=NODE,
        version="1.2.3",
        peer_names={PEER: "n2"},
        store_kind="consul",
        store_reason=None,
        complaints=("could not be done: reason",),
        speaker_reason=None,
        peers=(Peer(PEER, IPv4Address("192.0.2.1"), 64512, 64512, "192.0.2.1"),),
        sessions={PEER: SessionStatus(PEER, SessionState.ESTABLISHED, 1000.5, "hello")},
        decision=decision,
        routes_in_sync=True,
        route_failures={OTHER: RouteFailure(OTHER, 17, "in the way")},
        missing_addresses=(),
        holders={HELD: holder("tor1"), BORROWED: holder("tor2")},
        pool_count=1,
        malformed={"key": "record key cannot be read"},
    )
    return Known(
        taken_at=5000.0,
        observed=observed,
        store_lost_at=None,
        blocks=(
            Block.claimed(OWN, node="n1", at=1.0),
            Block.claimed(NOBODYS, node=None, at=1.0),
            Block.claimed(THEIRS, node="n2", at=1.0),
        ),
        pools=(ip_network("10.0.0.0/16"),),
        learned={THEIRS: (LearnedRoute(THEIRS, PEER, PEER), LearnedRoute(THEIRS, PEER, ip_address("192.0.2.3")))},
        refused=((THEIRS, ip_address("192.0.2.3"), Rejection.FILTERED),),
    )


KERNEL = KernelFacts(
    routes=(KernelRoute(OWN, RouteKind.BLACKHOLE), KernelRoute(THEIRS, RouteKind.UNICAST, (NextHop(PEER, 9),))),
    others=(MainRoute(OTHER, 4, 50, VIA),),
    device_names={2: "eth0", 7: "tor1"},
    ends={"tor1": WorkloadEnd(up=True, wired=(HELD,)), "tor2": WorkloadEnd(up=False, wired=())},
    forwarding={4: True, 6: False},
)


def test_a_report_is_whole(known: Known) -> None:
    """What is wanted, what the kernel has, and what BGP told, each route with its devices by name."""
    found = report_of(known, KERNEL)
    assert (found.node, found.version, found.taken_at, found.addresses) == ("n1", "1.2.3", 5000.0, NODE.addresses)
    assert (found.store.connected, found.speaker, found.decided, found.left_off) == (True, None, True, 0)
    assert found.blocks == {OWN}
    assert found.announced == {OWN: Rule.OWNED, host(BORROWED): Rule.BORROWED, host(ORPHANED): Rule.UNOWNED}
    assert [(each.peer, each.name, each.state) for each in found.sessions] == [(PEER, "n2", "established")]
    assert found.learned == {THEIRS: (Path(PEER, PEER), Path(ip_address("192.0.2.3"), PEER, "filtered"))}
    assert found.unresolved == {OTHER}
    assert found.wanted[THEIRS] == Route(THEIRS, RouteKind.UNICAST, ETH0)
    assert found.kernel == {
        OWN: Route(OWN, RouteKind.BLACKHOLE),
        THEIRS: Route(THEIRS, RouteKind.UNICAST, (Hop(PEER, "number 9"),)),
    }
    assert found.foreign == (ForeignRoute(OTHER, 4, 50, ETH0),)
    assert found.failures == {OTHER: "in the way"}
    assert found.links == {
        "tor1": LinkReport("tor1", up=True, wired=(HELD,)),
        "tor2": LinkReport("tor2", up=False, wired=()),
    }
    assert found.forwarding == {4: True, 6: False}
    assert found.problems == (
        "could not be done: reason",
        "record key cannot be read; what it said before stays until it is written anew",
    )


def test_a_report_about_an_address_holds_what_concerns_it(known: Known) -> None:
    """What it lies in, its own route and link, and nothing of others."""
    found = report_of(known, KERNEL, host(HELD))
    assert found.blocks == found.announced.keys() == found.kernel.keys() == {OWN}
    assert found.wanted.keys() == {OWN, host(HELD)}
    assert found.links.keys() == {"tor1"}
    assert [found.learned, found.foreign, found.failures, found.unresolved] == [{}, (), {}, frozenset()]
    assert found.sessions


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("10.0.2.0/26", {THEIRS}),
        ("10.0.2.63/32", {THEIRS}),
        ("10.0.2.64/32", set()),
        ("10.0.1.255/32", set()),
        ("10.0.0.0/16", {OWN, THEIRS}),
        ("10.0.2.0/23", {THEIRS}),
        ("::a00:200/122", set()),
        ("0.0.0.0/0", {OWN, THEIRS}),
    ],
)
def test_a_report_is_about_what_overlaps(known: Known, asked: str, told: set[object]) -> None:
    """To the address, and of one IP version."""
    assert report_of(known, KERNEL, ip_network(asked)).kernel.keys() == told


def test_a_report_about_a_held_address_has_its_link_though_nothing_is_wired(known: Known) -> None:
    """Or it would seem to be gone."""
    assert report_of(known, KERNEL, host(BORROWED)).links.keys() == {"tor2"}


def test_an_agent_that_knows_nothing_yet_reports_so(known: Known) -> None:
    """It has not decided, and the store's reason is there."""
    observed = replace(known.observed, decision=None, store_reason="no route to host")
    found = report_of(replace(known, observed=observed, blocks=(), store_lost_at=4000.0), KERNEL)
    assert (found.decided, found.wanted, found.announced, found.blocks) == (False, {}, {}, frozenset())
    assert (found.store.connected, found.store.reason, found.store.lost_at) == (False, "no route to host", 4000.0)
    assert "could not be done: reason" not in found.problems


def test_a_report_has_an_end(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had no room is counted."""
    monkeypatch.setattr(report, "MOST_PREFIXES", 1)
    found = report_of(known, KERNEL)
    assert (len(found.wanted), len(found.kernel), found.left_off) == (1, 1, 3)


async def test_the_page_reads_the_kernel_when_it_is_asked(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes of others are looked for in the pools."""
    asked: list[Collection[IPNetwork]] = []

    def read(ranges: Collection[IPNetwork]) -> KernelFacts:
        asked.append(ranges)
        return KERNEL

    monkeypatch.setattr(report, "inspect_kernel", read)
    page = report_page(lambda: known)
    answer = await page(make_mocked_request("GET", f"{report.PATH}?prefix=10.0.0.5"))
    assert isinstance(answer, web.Response)
    assert isinstance(answer.body, bytes)
    assert answer.content_type == "application/json"
    assert decode_report(answer.body) == report_of(known, KERNEL, host(HELD))
    assert json.loads(answer.body)["node"] == "n1"
    assert asked == [known.pools]


async def test_what_cannot_be_answered_is_said(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix that is none is the asker's fault, a kernel that does not answer nobody's."""

    def read(_: object) -> KernelFacts:
        raise KernelUnavailable("no answer")

    monkeypatch.setattr(report, "inspect_kernel", read)
    page = report_page(lambda: known)
    with pytest.raises(web.HTTPBadRequest) as bad:
        await page(make_mocked_request("GET", f"{report.PATH}?prefix=10.0.0.5/24"))
    assert "host bits" in str(bad.value.text)
    with pytest.raises(web.HTTPServiceUnavailable) as gone:
        await page(make_mocked_request("GET", report.PATH))
    assert "no answer" in str(gone.value.text)

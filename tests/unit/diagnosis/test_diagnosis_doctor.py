"""What a diagnosis finds in a cluster given as values, and what follows from something else and is not told."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.diagnosis.report import Hop, LinkReport, Path, Route, SessionReport, StoreReport
from controller.ports import RouteKind
from ipam.problem import Problem, ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Case: TypeAlias = Any

BLOCK_1, BLOCK_2, BLOCK_3, SIX = "10.65.1.0/26", "10.65.2.0/26", "10.65.3.0/26", "fd00:65::/122"
ADDRESS_1, ADDRESS_2, BORROWED = "10.65.1.0", "10.65.2.0", "10.65.2.1"
DOWN = SessionReport(ip_address("192.0.2.2"), "h2", "opening", 1000.0, "connection refused")


def test_nothing_is_found_where_all_is_well(case: Case) -> None:
    """Own blocks, a borrowed address and both IP versions included."""
    assert case.diagnose() == ()


def _route_removed(case: Case) -> None:
    case.without("h3", "kernel", BLOCK_1)


def _wrong_next_hop(case: Case) -> None:
    case.route("h3", "kernel", case.via(BLOCK_1, 2))


def _wrong_next_hop_wanted(case: Case) -> None:
    for part in ("wanted", "kernel"):
        case.route("h3", part, case.via(BLOCK_1, 2))


def _two_next_hops(case: Case) -> None:
    both = case.via(BLOCK_1, 1).hops + case.via(BLOCK_1, 2).hops
    for part in ("wanted", "kernel"):
        case.route("h3", part, Route(ip_network(BLOCK_1), RouteKind.UNICAST, both))


def _session_down(case: Case) -> None:
    case.change("h1", sessions=(DOWN, case.reports["h1"].sessions[1]))
    for part in ("learned", "wanted", "kernel"):
        case.without("h1", part, BLOCK_2)
    other = replace(DOWN, peer=ip_address("192.0.2.1"), name="h1")
    case.change("h2", sessions=(other, case.reports["h2"].sessions[1]))


def _filtered(case: Case) -> None:
    path = Path(ip_address("192.0.2.2"), ip_address("192.0.2.2"), "filtered")
    case.change("h1", learned={**case.reports["h1"].learned, ip_network(BLOCK_2): (path,)})
    for part in ("wanted", "kernel"):
        case.without("h1", part, BLOCK_2)


def _unowned_block(case: Case) -> None:
    case.blocks[ip_network(BLOCK_2)] = case.blocks[ip_network(BLOCK_2)].disown()
    case.report_anew()


def _leaked(case: Case) -> None:
    address = ip_address(ADDRESS_1)
    case.problems = (Problem(ProblemKind.LEAKED, address, "leaked; release it", node="h1"),)
    link = case.reports["h1"].links["torw1"]
    case.change("h1", links={"torw1": replace(link, wired=tuple(each for each in link.wired if each != address))})
    case.without("h1", "kernel", f"{ADDRESS_1}/32")


def _blackhole_missing(case: Case) -> None:
    case.without("h1", "kernel", BLOCK_1)


def _link_down(case: Case) -> None:
    link = case.reports["h2"].links["torw2"]
    case.change("h2", links={"torw2": replace(link, up=False)})
    case.without("h2", "kernel", f"{ADDRESS_2}/32")


def _link_missing(case: Case) -> None:
    case.change("h2", links={})


def _neighbour_missing(case: Case) -> None:
    case.change("h2", links={"torw2": LinkReport("torw2", up=True, wired=())})


def _store_stale(case: Case) -> None:
    case.change("h2", store=StoreReport("consul", connected=False, reason="refused", lost_at=4000.0))
    case.without("h2", "announced", BLOCK_2)


def _foreign_before(case: Case) -> None:
    case.foreign("h3", BLOCK_1)


def _foreign_in_place(case: Case) -> None:
    case.foreign("h3", BLOCK_1, metric=1024)
    case.without("h3", "kernel", BLOCK_1)


def _foreign_inside(case: Case) -> None:
    case.foreign("h3", f"{ADDRESS_1}/32")


def _not_announced(case: Case) -> None:
    case.without("h1", "announced", BLOCK_1)
    for part in ("learned", "wanted", "kernel"):
        case.without("h3", part, BLOCK_1)


def _block_unknown(case: Case) -> None:
    for part in ("blocks", "kernel"):
        case.without("h1", part, BLOCK_1)


def _not_learned(case: Case) -> None:
    for part in ("learned", "wanted", "kernel"):
        case.without("h3", part, BLOCK_1)


def _unresolved(case: Case) -> None:
    case.change("h3", unresolved=frozenset({ip_network(BLOCK_1)}))
    for part in ("wanted", "kernel"):
        case.without("h3", part, BLOCK_1)


def _not_wanted(case: Case) -> None:
    for part in ("wanted", "kernel"):
        case.without("h3", part, BLOCK_1)


def _borrowed_route_missing(case: Case) -> None:
    case.without("h2", "kernel", f"{BORROWED}/32")


def _speaker_lost(case: Case) -> None:
    case.change("h3", speaker="no such socket", sessions=())
    for part in ("learned", "wanted", "kernel"):
        case.without("h3", part, BLOCK_1)


def _undecided(case: Case) -> None:
    case.change("h3", decided=False, wanted={}, announced={})


def _forwarding_off(case: Case) -> None:
    case.change("h3", forwarding={4: False, 6: True})


def _own_word(case: Case) -> None:
    case.change("h3", problems=("no table",))


def _cut(case: Case) -> None:
    case.change("h3", left_off=7)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (_route_removed, ("route-missing", "h3", BLOCK_1)),
        (_wrong_next_hop, ("wrong-next-hop", "h3", BLOCK_1)),
        (_wrong_next_hop_wanted, ("wrong-next-hop", "h3", BLOCK_1)),
        (_two_next_hops, ("wrong-next-hop", "h3", BLOCK_1)),
        (_session_down, ("session-down", "h1", "h1 - h2")),
        (_filtered, ("route-rejected", "h1", BLOCK_2)),
        (_unowned_block, ("block-without-affinity", None, BLOCK_2)),
        (_leaked, ("leaked-address", "h1", ADDRESS_1)),
        (_blackhole_missing, ("blackhole-missing", "h1", BLOCK_1)),
        (_link_down, ("link-down", "h2", ADDRESS_2)),
        (_link_missing, ("link-missing", "h2", ADDRESS_2)),
        (_neighbour_missing, ("neighbour-missing", "h2", ADDRESS_2)),
        (_store_stale, ("store-stale", "h2", "consul")),
        (_foreign_before, ("foreign-route", "h3", BLOCK_1)),
        (_foreign_in_place, ("foreign-route", "h3", BLOCK_1)),
        (_foreign_inside, ("foreign-route", "h3", f"{ADDRESS_1}/32")),
        (_not_announced, ("not-announced", "h1", BLOCK_1)),
        (_block_unknown, ("block-unknown-to-owner", "h1", BLOCK_1)),
        (_not_learned, ("not-learned", "h3", BLOCK_1)),
        (_unresolved, ("next-hop-unreachable", "h3", BLOCK_1)),
        (_not_wanted, ("route-not-used", "h3", BLOCK_1)),
        (_borrowed_route_missing, ("route-missing", "h2", f"{BORROWED}/32")),
        (_speaker_lost, ("speaker-lost", "h3", "tortie-bgp")),
        (_undecided, ("undecided", "h3", "h3")),
        (_forwarding_off, ("forwarding-off", "h3", "net.ipv4.ip_forward")),
        (_own_word, ("node-problem", "h3", "no table")),
        (_cut, ("not-compared", "h3", "report")),
    ],
)
def test_each_fault_is_told_once_by_its_first_broken_link(
    case: Case, plant: Callable[[Case], None], expected: tuple[str, str | None, str]
) -> None:
    """What follows from it on this node and on others is not told beside it."""
    plant(case)
    assert case.found() == [expected]
    [finding] = case.diagnose()
    assert finding.text
    assert finding.remedy or finding.kind.value in {"node-problem", "leaked-address"}


def test_a_silent_node_is_told_and_not_judged(case: Case) -> None:
    """Neither what it may lack, nor that others have no session with it."""
    case.silence["h2"] = "no answer"
    case.change("h1", sessions=(DOWN, case.reports["h1"].sessions[1]))
    for part in ("learned", "wanted", "kernel"):
        case.without("h1", part, BLOCK_2)
    assert case.found() == [("node-silent", "h2", "h2")]
    assert "no answer" in case.diagnose()[0].text


def test_a_silent_node_hides_no_fault_of_others(case: Case) -> None:
    """A route that another node lacks is told all the same."""
    case.silence["h1"] = "no answer"
    _route_removed(case)
    assert case.found() == [("node-silent", "h1", "h1"), ("route-missing", "h3", BLOCK_1)]


def test_a_session_with_a_router_is_told_by_its_address(case: Case) -> None:
    """It has no other end that could tell of it."""
    outside = SessionReport(ip_address("192.0.2.250"), "tor-switch", "idle", 0.0, "")
    case.change("h1", sessions=(*case.reports["h1"].sessions, outside))
    assert case.found() == [("session-down", "h1", "192.0.2.250")]
    assert "peer tor-switch (192.0.2.250)" in case.diagnose()[0].text


@pytest.mark.parametrize("end", ["h1", "h3"])
def test_a_reflector_out_of_reach_explains_what_was_not_learned(case: Case, end: str) -> None:
    """On the node that has to pass its block there, and on the one that has to hear of it."""
    case.plain_mesh = False
    reflector = SessionReport(ip_address("192.0.2.250"), "rr", "established", 1.0, "")
    for node in case.nodes:
        case.change(node, sessions=(reflector,))
    assert case.diagnose() == ()
    for part in ("learned", "wanted", "kernel"):
        case.without("h3", part, BLOCK_1)
    assert case.found() == [("not-learned", "h3", BLOCK_1)]
    case.change(end, sessions=(replace(reflector, state="idle"),))
    assert case.found() == [("session-down", end, "192.0.2.250")]


def test_what_is_withheld_on_purpose_is_no_fault(case: Case) -> None:
    """A pool that is not exported, a drained node, and a node without an address of the IP version."""
    case.pools = (replace(case.pools[0], disable_bgp_export=True), case.pools[1])
    case.report_anew()
    assert case.reports["h1"].announced.keys() == {ip_network(SIX)}
    assert case.diagnose() == ()
    case.pools = (replace(case.pools[0], disable_bgp_export=False), case.pools[1])
    case.drained = frozenset({"h1"})
    case.report_anew()
    assert case.diagnose() == ()
    case.drained = frozenset()
    case.nodes = {**case.nodes, "h1": replace(case.nodes["h1"], ipv6=None)}
    case.report_anew()
    assert case.diagnose() == ()


def test_next_hops_are_not_judged_where_routers_pass_routes_on(case: Case) -> None:
    """A router may put its own address there; what the kernel has is compared all the same."""
    case.plain_mesh = False
    _wrong_next_hop_wanted(case)
    assert case.diagnose() == ()
    case.without("h3", "kernel", BLOCK_1)
    assert case.found() == [("route-missing", "h3", BLOCK_1)]


def test_a_node_without_an_ip_version_needs_no_routes_of_it(case: Case) -> None:
    """It could not reach any next hop of it."""
    case.nodes = {**case.nodes, "h3": replace(case.nodes["h3"], ipv6=None)}
    case.report_anew()
    for part in ("learned", "wanted", "kernel"):
        case.without("h3", part, SIX)
    assert case.diagnose() == ()


def test_an_empty_block_without_an_owner_is_told_once(case: Case) -> None:
    """As the check of addresses does."""
    block = ip_network("10.65.9.0/26")
    case.blocks[block] = next(iter(case.blocks.values())).claimed(block, node=None, at=1.0)
    case.problems = (Problem(ProblemKind.UNUSED_BLOCK, block, "unused; delete it", cidr=block),)
    assert case.found() == [("unowned-empty-block", None, str(block))]


def test_a_block_of_one_address_has_no_blackhole(case: Case) -> None:
    """It would shadow the workload."""
    block = ip_network("10.65.9.9/32")
    case.blocks = {block: type(next(iter(case.blocks.values()))).claimed(block, node="h1", at=1.0)}
    case.report_anew()
    case.without("h1", "kernel", str(block))
    assert case.diagnose() == ()


def test_a_foreign_route_is_no_fault_where_it_draws_in_nothing(case: Case) -> None:
    """One after ours, one to free addresses, and one that our own more specific routes outweigh."""
    case.foreign("h3", BLOCK_1, metric=2000)
    case.foreign("h3", "10.65.1.32/27")
    case.foreign("h1", "10.65.1.0/27")
    assert case.diagnose() == ()


def test_a_problem_of_the_block_explains_its_routes(case: Case) -> None:
    """A block outside all pools is refused by other nodes; only the place is told."""
    problem = Problem(ProblemKind.OUTSIDE_POOLS, ip_network(BLOCK_1), "outside; create a pool")
    case.problems = (problem,)
    for part in ("wanted", "kernel"):
        case.without("h3", part, BLOCK_1)
    assert case.found() == [("block-outside-pools", None, BLOCK_1)]


def test_why_the_kernel_refuses_a_route_is_told(case: Case) -> None:
    """In its own words."""
    _route_removed(case)
    case.change("h3", failures={ip_network(BLOCK_1): "Network is unreachable"})
    assert "Network is unreachable" in case.diagnose()[0].text


def test_a_workload_whose_route_leads_elsewhere_is_found(case: Case) -> None:
    """Out of another workload's link, say."""
    network = ipaddress.ip_network(f"{ADDRESS_2}/32")
    case.route("h2", "kernel", Route(network, RouteKind.UNICAST, (Hop(None, "torelse"),)))
    assert case.found() == [("wrong-next-hop", "h2", str(network))]

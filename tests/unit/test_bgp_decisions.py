"""Mesh, announcements, policy and best path."""

from __future__ import annotations

import dataclasses
import ipaddress
from ipaddress import IPv4Address, IPv6Address
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.advertisement import GRACEFUL_SHUTDOWN, announcements
from bgp.decision import best
from bgp.policy import PolicyContext, Rejection, policy_context, rejections
from bgp.prefixes import PrefixSet
from bgp.route import LearnedRoute
from bgp.topology import Router, mesh_peers, router_id

DUAL = Router("dual", 64512, IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))
OTHER = Router("other", 64513, IPv4Address("10.0.0.2"), IPv6Address("fd00::2"))
#: A peer of another AS.
OUTSIDE = "10.0.0.9"
OUTER = frozenset({IPv4Address(OUTSIDE)})
SIX = Router("six", 64512, None, IPv6Address("fd00::6"))
FOUR = Router("four", 64512, IPv4Address("10.0.0.4"), None)


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return a prefix."""
    return ipaddress.ip_network(text)


def route(prefix: str, next_hop: str = "10.0.0.2", peer: str = "10.0.0.2", **fields: object) -> LearnedRoute:
    """Return a route of the other node, with these fields."""
    base = LearnedRoute(network(prefix), ipaddress.ip_address(next_hop), ipaddress.ip_address(peer))
    return base._replace(**fields)  # type: ignore[arg-type]  # the fields differ in type


def test_a_session_runs_over_ipv4_where_both_have_it() -> None:
    """IPv4 is preferred to IPv6, nodes that share no version do not peer, and nobody peers with himself."""
    peers = mesh_peers(DUAL, [SIX, OTHER, DUAL, FOUR])
    assert [str(peer.address) for peer in peers] == ["10.0.0.2", "10.0.0.4", "fd00::6"]
    assert mesh_peers(FOUR, [SIX]) == ()


@given(st.sets(st.integers(1, 2**32 - 2), min_size=2, max_size=8), st.sets(st.integers(0, 7)))
def test_exactly_one_side_of_every_session_connects(numbers: set[int], only_ipv6: set[int]) -> None:
    """Seen from both sides a session has the same two addresses and AS numbers, and one passive side: the larger."""
    routers = [
        Router(f"n{index}", 64512 + index, None if index in only_ipv6 else IPv4Address(number), IPv6Address(number))
        for index, number in enumerate(sorted(numbers))
    ]
    sessions = {(router.name, str(peer.address)): peer for router in routers for peer in mesh_peers(router, routers)}
    assert len(sessions) == len(routers) * (len(routers) - 1)
    for (name, _), peer in sessions.items():
        owner = next(router for router in routers if peer.address in (router.ipv4, router.ipv6))
        back = sessions[owner.name, str(peer.local_address)]
        assert (back.address, back.peer_as, back.local_as) == (peer.local_address, peer.local_as, peer.peer_as)
        assert back.passive != peer.passive == (int(peer.local_address) > int(peer.address)), name


def test_a_renamed_hosts_old_record_gives_no_second_session() -> None:
    """Neither with an address that has a session already, nor with the node's own."""
    renamed = dataclasses.replace(OTHER, name="other-before")
    myself = dataclasses.replace(DUAL, name="dual-before")
    assert mesh_peers(DUAL, [renamed, OTHER, myself, DUAL]) == mesh_peers(DUAL, [OTHER])


def test_a_router_id_is_the_ipv4_address_or_depends_on_the_name_alone() -> None:
    """Without IPv4 the identifier is stable over changes of address, and never zero."""
    assert router_id(DUAL) == "10.0.0.1"
    moved = dataclasses.replace(SIX, ipv6=IPv6Address("fd00::7"))
    assert router_id(SIX) == router_id(moved) != "0.0.0.0"
    assert router_id(SIX) != router_id(dataclasses.replace(SIX, name="seven"))


def test_blocks_and_borrowed_addresses_are_announced_with_the_own_address_of_their_version() -> None:
    """Each prefix once, ordered, next hop self; nothing of an unexported pool; nothing in a version without address."""
    made = announcements(
        DUAL,
        blocks=[network("10.9.1.0/26"), network("fd09::/122"), network("10.9.0.0/26"), network("10.66.0.0/26")],
        addresses=[network("10.8.0.7/32"), network("10.66.9.9/32")],
        unexported=[network("10.66.0.0/16")],
        draining=True,
    )
    assert [(str(one.prefix), str(one.next_hop)) for one in made] == [
        ("10.8.0.7/32", "10.0.0.1"),
        ("10.9.0.0/26", "10.0.0.1"),
        ("10.9.1.0/26", "10.0.0.1"),
        ("fd09::/122", "fd00::1"),
    ]
    assert {one.communities for one in made} == {((65535, 0),)}
    assert announcements(SIX, blocks=[network("10.9.0.0/26")]) == ()


JUDGED: list[tuple[LearnedRoute, Rejection | None]] = [
    (route("10.9.1.0/26"), None),
    (route("fd09::/122", "fd00::2"), None),
    (route("10.9.0.7/32"), None),
    (route("10.9.1.0/26", "192.0.2.9", "192.0.2.9"), None),
    (route("0.0.0.0/0"), Rejection.DEFAULT_ROUTE),
    (route("::/0", "fd00::2"), Rejection.DEFAULT_ROUTE),
    (route("10.10.0.0/26"), Rejection.OUTSIDE_POOLS),
    (route("10.8.0.0/15"), Rejection.OUTSIDE_POOLS),
    (route("fd09::/26", "fd00::2"), Rejection.OUTSIDE_POOLS),
    (route("10.9.0.0/26"), Rejection.OWN_PREFIX),
    (route("10.9.0.1/32"), Rejection.OWN_PREFIX),
    (route("10.9.0.32/27"), Rejection.INSIDE_OWN_BLOCK),
    (route("10.9.1.32/27"), Rejection.PART_OF_BLOCK),
    (route("fd09::4:0/123", "fd00::2"), Rejection.PART_OF_BLOCK),
    (route("10.9.1.33/32"), None),
    (route("10.9.4.0/24"), None),
    (route("10.9.1.0/26", as_path=(1, 64512)), Rejection.AS_LOOP),
    (route("10.9.1.0/26", "10.0.0.3"), Rejection.UNKNOWN_NEXT_HOP),
    (route("10.9.1.0/26", "192.0.2.9"), Rejection.UNKNOWN_NEXT_HOP),
    (route("10.9.1.0/26", "10.0.0.1"), Rejection.OWN_NEXT_HOP),
    (route("10.9.1.0/26", "fd00::2"), Rejection.NEXT_HOP_VERSION),
]


def accept(learned: LearnedRoute, context: PolicyContext) -> Rejection | None:
    """Return the judgement of one route."""
    return next(rejections([learned], context))


@pytest.fixture
def context() -> PolicyContext:
    """Describe a node that owns one block, in which it holds .1, and knows one other node."""
    return policy_context(
        local_as=64512,
        pools=[network("10.9.0.0/16"), network("fd09::/64")],
        own_blocks=[network("10.9.0.0/26")],
        own_addresses=[IPv4Address("10.0.0.1")],
        next_hops=[IPv4Address("10.0.0.2"), IPv6Address("fd00::2")],
        held=[network("10.9.0.1/32")],
        block_length_of={network("10.9.0.0/16"): 26, network("fd09::/64"): 122},
    )


@pytest.mark.parametrize(("learned", "outcome"), JUDGED)
def test_only_what_the_rules_allow_is_believed(
    context: PolicyContext, learned: LearnedRoute, outcome: Rejection | None
) -> None:
    """Prefixes inside pools from known next hops pass; a borrowed address passes although its block is ours."""
    assert accept(learned, context) is outcome


@pytest.mark.parametrize(("learned", "outcome"), JUDGED)
def test_a_route_is_judged_alike_whatever_comes_before_it(
    context: PolicyContext, learned: LearnedRoute, outcome: Rejection | None
) -> None:
    """Also where next hop, peer or path are the very objects of the route before, as they are in one update."""
    for before, _ in JUDGED:
        kept: dict[object, object] = {}
        first, second = (
            LearnedRoute._make([each.prefix, *(kept.setdefault(value, value) for value in each[1:])])
            for each in (before, learned)
        )
        assert list(rejections([first, second], context))[1] is outcome, before


@given(
    st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 16)), max_size=8),
    st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 16)),
)
def test_a_prefix_set_covers_what_one_of_its_prefixes_covers(
    members: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    """The index answers as asking every prefix in turn would."""

    def make(pair: tuple[int, int]) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((pair[0] << 16, pair[1]), strict=False)

    expected = any(make(asked).subnet_of(make(member)) for member in members)
    assert PrefixSet(map(make, members)).covers(make(asked)) is expected


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (route("10.9.1.0/26", local_preference=200, as_path=(1, 2)), route("10.9.1.0/26", "10.0.0.3")),
        (route("10.9.1.0/26"), route("10.9.1.0/26", "10.0.0.3", communities=(GRACEFUL_SHUTDOWN,))),
        (route("10.9.1.0/26", as_path=(1,), med=9), route("10.9.1.0/26", "10.0.0.3", as_path=(1, 2))),
        (route("10.9.1.0/26", med=9), route("10.9.1.0/26", "10.0.0.3", origin="incomplete")),
        (route("10.9.1.0/26", med=1), route("10.9.1.0/26", "10.0.0.3", med=2)),
        (
            route("10.9.1.0/26", cluster_list=("1.1.1.1",)),
            route("10.9.1.0/26", peer="10.0.0.9", cluster_list=("1", "2")),
        ),
    ],
)
def test_the_best_route_wins_whatever_the_order(better: LearnedRoute, worse: LearnedRoute) -> None:
    """Preference, path, origin, MED, and for one next hop the shortest cluster list decide, in this order."""
    for order in permutations([better, worse]):
        assert best(order) == (better,)


def test_equal_routes_with_different_next_hops_are_used_together() -> None:
    """ECMP: all of them, ordered by next hop, one for each; MEDs of different neighbouring ASes are not compared."""
    one, two = route("10.9.1.0/26", as_path=(1,), med=5), route("10.9.1.0/26", "10.0.0.3", as_path=(2,), med=7)
    again = one._replace(peer=IPv4Address("10.0.0.9"))
    for order in permutations([one, two, again]):
        assert best(order) == (one, two)
    assert best([]) == ()


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        # A step comes after all those before it, and before all those after it.
        ({"as_path": (1,), "origin": "incomplete"}, {"as_path": (1, 2), "origin": "igp"}),
        ({"origin": "igp", "as_path": (1,), "med": 9}, {"origin": "egp", "as_path": (1,), "med": 1}),
        ({"origin": "egp"}, {"origin": "incomplete"}),
        ({"med": 1, "as_path": (1,), "peer": "10.0.0.7"}, {"med": 2, "as_path": (1,), "peer": OUTSIDE}),
        ({"as_path": (1,), "peer": OUTSIDE}, {"as_path": (1,), "peer": "10.0.0.7"}),
        ({"as_path": (1,), "peer": OUTSIDE, "med": 5}, {"as_path": (2,), "peer": "10.0.0.7", "med": 1}),
        ({}, {"next_hop": "192.0.2.1", "local_preference": 200}),
    ],
    ids=["path", "origin", "egp", "med", "outside", "meds-of-two", "unreachable"],
)
def test_each_step_decides_what_those_before_it_left_open(better: dict[str, Any], worse: dict[str, Any]) -> None:
    """A reachable next hop, preference, path, origin, MED, learned from outside: in this order."""
    routes = [route("10.9.1.0/26", **better), route("10.9.1.0/26", **{"next_hop": "10.0.0.3"} | worse)]
    for order in permutations(routes):
        assert best(order, external=OUTER, reachable=lambda hop: hop != IPv4Address("192.0.2.1")) == (routes[0],)


def test_a_peer_of_another_as_has_no_say_in_the_preference() -> None:
    """Its LOCAL_PREF is ignored; that it is about to withdraw a route is not."""
    ours = route("10.9.1.0/26", "10.0.0.3", "10.0.0.3")
    pushing = route("10.9.1.0/26", peer=OUTSIDE, local_preference=4000, as_path=(1,))
    assert best([pushing, ours], external=OUTER) == (ours,)
    assert best([pushing, ours]) == (pushing,)
    leaving = pushing._replace(as_path=(), communities=(GRACEFUL_SHUTDOWN,))
    assert best([leaving, ours], external=OUTER) == (ours,)


def test_two_top_of_rack_routers_are_used_together() -> None:
    """Paths of equal length through different ASes are equal, whatever else they name; one of them suffices."""
    first = route("10.9.1.0/26", OUTSIDE, OUTSIDE, as_path=(65001, 64602))
    second = route("10.9.1.0/26", "10.0.0.8", "10.0.0.8", as_path=(65002, 64602), med=7)
    inside = route("10.9.1.0/26", "10.0.0.5", "10.0.0.5", as_path=(65001, 64602))
    for order in permutations([first, second, inside]):
        assert best(order, external={first.peer, second.peer}) == (second, first)
        assert best(order, external={first.peer}) == (first,)


def test_what_cannot_be_reached_is_told_if_there_is_nothing_else() -> None:
    """Without any reachable next hop the best route is returned all the same, for somebody to report."""
    far, farther = route("10.9.1.0/26"), route("10.9.1.0/26", "10.0.0.3", as_path=(1,))
    assert best([farther, far], reachable=lambda _: False) == (far,)


def test_a_route_that_went_through_what_a_peer_takes_for_us_is_a_loop(context: PolicyContext) -> None:
    """The AS number shown to a peer counts as the node's own in what that peer announces, and only there."""
    shown = dataclasses.replace(context, local_as_by_peer={IPv4Address("10.0.0.2"): 64602})
    assert accept(route("10.9.1.0/26", as_path=(65000, 64602)), shown) is Rejection.AS_LOOP
    assert accept(route("10.9.1.0/26", as_path=(65000, 64512)), shown) is Rejection.AS_LOOP
    assert accept(route("10.9.1.0/26", as_path=(65000, 64601)), shown) is None
    assert accept(route("10.9.1.0/26", peer="10.0.0.9", as_path=(65000, 64602)), shown) is None


def test_from_outside_a_path_begins_with_the_as_of_the_peer(context: PolicyContext) -> None:
    """One without it would be shorter than the true ones, and as good as one from inside (RFC 4271, section 6.3)."""
    known = dataclasses.replace(context, as_by_external_peer={IPv4Address("10.0.0.2"): 65000})
    assert accept(route("10.9.1.0/26", as_path=(65000, 65001)), known) is None
    assert accept(route("10.9.1.0/26", as_path=()), known) is Rejection.FIRST_AS
    assert accept(route("10.9.1.0/26", as_path=(65001, 65000)), known) is Rejection.FIRST_AS
    assert accept(route("10.9.1.0/26", as_path=(65001, 64512)), known) is Rejection.AS_LOOP
    assert accept(route("10.9.1.0/26", peer="10.0.0.9", as_path=()), known) is None


# A peer has one route for a prefix.
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 7), min_size=1, max_size=3, unique_by=lambda numbers: numbers[1]))
def test_the_choice_depends_on_the_routes_alone(numbers: list[tuple[int, ...]]) -> None:
    """Any order, and any worse route added or removed, gives the same routes: they are the best of themselves."""
    routes = [
        route("10.9.1.0/26", f"10.0.0.{hop}", f"10.0.1.{peer}")._replace(
            local_preference=100 + preference,
            as_path=tuple(range(65000, 65000 + path)),
            med=med,
            origin=("igp", "egp", "incomplete")[origin],
            cluster_list=("1.1.1.1",) * clusters,
        )
        for hop, peer, preference, path, med, origin, clusters in numbers
    ]
    outside = {IPv4Address("10.0.1.2")}
    chosen = best(routes, external=outside)
    assert set(chosen) <= set(routes)
    assert best(reversed(routes), external=outside) == chosen
    assert best(chosen, external=outside) == chosen
    assert len({each.next_hop for each in chosen}) == len(chosen) > 0

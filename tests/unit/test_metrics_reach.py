"""From the commit of an address until it can be reached: what ends the time, and what ends the waiting without one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from bgp.route import Announcement
from controller.agent.decision import Decision
from controller.agent.metrics_reach import Reach, WatchedAddresses, WatchedRoutes
from controller.ports import KernelRoute, NextHop, RouteKind
from controller.reconcile.difference import DesiredRoutes, Sweep
from ipam.block import Holder
from ipam.request import Assignment, AssignRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ipam.address import IPAddress, IPNetwork

ADDRESS = ip_address("10.0.0.7")
OTHER = ip_address("10.0.9.9")
BLOCK = ip_network("10.0.0.0/26")
NODE = ip_address("192.0.2.1")


def route(address: IPAddress) -> KernelRoute:
    """Return the route of a workload with this address."""
    return KernelRoute(ip_network(address), RouteKind.UNICAST, (NextHop(None, 7),))


class Scene:
    """A node whose speaker and decisions are set by hand, on a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.announced: frozenset[IPNetwork] = frozenset()
        self.decision: Decision | None = None
        self.seen: list[float] = []
        self.reach = Reach(
            self.seen.append,
            announced=lambda: self.announced,
            decision=lambda: self.decision,
            clock=lambda: self.now,
        )

    def decide(self, *announced: IPNetwork, knowing: Collection[IPAddress] = (ADDRESS,)) -> None:
        """Decide to announce these prefixes, with routes for these addresses."""
        routes = {ip_network(address): route(address) for address in knowing}
        self.decision = Decision(
            DesiredRoutes(routes, Sweep.EVERYTHING), tuple(Announcement(each, NODE) for each in announced), 0, (), ()
        )


@pytest.fixture
def scene() -> Scene:
    """Give a node that knows nothing."""
    return Scene()


def test_an_address_of_an_announced_block_is_reachable_with_its_route(scene: Scene) -> None:
    """The time ends with the later of the two, here the kernel's route."""
    scene.announced = frozenset({BLOCK})
    scene.reach.committed([ADDRESS])
    scene.now += 0.25
    assert scene.seen == []
    scene.reach.routed([route(ADDRESS)])
    assert scene.seen == [0.25]
    assert scene.reach.waiting_count([ADDRESS]) == 0


def test_an_address_of_a_new_block_waits_for_its_announcement(scene: Scene) -> None:
    """Routed and not announced it is waiting; what the speaker tells ends that."""
    scene.reach.committed([ADDRESS])
    scene.reach.routed([route(ADDRESS)])
    scene.decide(BLOCK)
    scene.now += 2
    scene.reach.examine()
    assert (scene.seen, scene.reach.waiting_count([ADDRESS])) == ([], 1)
    scene.announced = frozenset({BLOCK})
    scene.reach.examine()
    assert (scene.seen, scene.reach.waiting_count([ADDRESS])) == ([2.0], 0)


def test_what_is_not_announced_by_decision_is_not_waited_for(scene: Scene) -> None:
    """The pool is not exported, or the node is drained; an older decision says nothing."""
    scene.reach.committed([ADDRESS])
    scene.reach.routed([route(ADDRESS)])
    scene.decide(knowing=())
    assert scene.reach.waiting_count([ADDRESS]) == 1
    scene.decide(knowing=(ADDRESS,))
    assert scene.reach.waiting_count([ADDRESS]) == 0
    scene.announced = frozenset({BLOCK})
    scene.reach.examine()
    assert scene.seen == []


def test_the_next_address_after_a_decision_has_all_that_wait_looked_at(scene: Scene) -> None:
    """What was decided not to be announced is given up then, without anybody who counts or announces."""
    scene.reach.committed([ADDRESS, OTHER])
    scene.reach.routed([route(ADDRESS)])
    scene.decide(knowing=(ADDRESS,))
    scene.reach.routed([route(OTHER)])
    scene.announced = frozenset({BLOCK, ip_network(OTHER)})
    scene.now += 4
    scene.reach.examine()
    assert scene.seen == [4.0]


def test_what_is_gone_is_not_waited_for(scene: Scene) -> None:
    """Released by its runtime, or collected: nobody waits for it, and its next holder begins anew."""
    scene.reach.committed([ADDRESS, OTHER])
    scene.reach.routed([route(ADDRESS), route(OTHER)])
    scene.reach.forget([ADDRESS])
    assert scene.reach.waiting_count([ADDRESS, OTHER]) == 1
    assert scene.reach.waiting_count([]) == 0
    scene.now += 50
    scene.reach.committed([ADDRESS])
    scene.announced = frozenset({BLOCK})
    scene.now += 1
    scene.reach.routed([route(ADDRESS)])
    assert scene.seen == [1.0]


def test_routes_of_what_was_not_just_assigned_are_nothing_new(scene: Scene) -> None:
    """A container that was there before the agent started is not measured."""
    scene.announced = frozenset({BLOCK})
    scene.reach.routed([route(ADDRESS)])
    assert scene.seen == []


class FakeParts:
    """Addresses and routes that do as told."""

    def __init__(self) -> None:
        self.probed: list[AssignRequest] = []
        self.programmed: list[KernelRoute] = []

    async def assign(self, request: AssignRequest) -> Assignment:
        """Give the address."""
        return Assignment(request.handle, (ADDRESS,))

    async def release(self, handle: str) -> tuple[IPAddress, ...]:
        """Take it back."""
        assert handle
        return (ADDRESS,)

    async def probe(self, request: AssignRequest) -> None:
        """Take note."""
        self.probed.append(request)

    def holders(self) -> Mapping[IPAddress, Holder]:
        """Return a holder."""
        return {ADDRESS: Holder("h", "n", "w", "ns", "tor1", 0.0)}

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Take the routes."""
        self.programmed += routes


async def test_the_parts_behave_as_before_and_are_watched(scene: Scene) -> None:
    """Whoever stands between the backend and its parts changes nothing of what either sees."""
    parts = FakeParts()
    addresses, routes = WatchedAddresses(parts, scene.reach), WatchedRoutes(parts, scene.reach)
    request = AssignRequest("h", "w", "ns", "tor1", (4,))
    scene.announced = frozenset({BLOCK})
    assert (await addresses.assign(request)).addresses == (ADDRESS,)
    scene.now += 3
    await routes.program([route(ADDRESS)])
    assert (scene.seen, parts.programmed) == ([3.0], [route(ADDRESS)])
    await addresses.probe(replace(request, handle="p"))
    assert [each.handle for each in parts.probed] == ["p"]
    assert addresses.holders() == parts.holders()
    await addresses.assign(request)
    assert await addresses.release("h") == (ADDRESS,)
    await routes.program([route(ADDRESS)])
    assert scene.seen == [3.0]

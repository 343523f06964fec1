"""The one place that decides: when it does, and what it hands on."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, cast

import pytest

from bgp.events import (
    EndOfRib,
    RoutesChanged,
    RoutesRejected,
    SessionDown,
    SessionUp,
    SpeakerLost,
    SpeakerSnapshot,
)
from bgp.peering import SessionTimes
from bgp.policy import RejectedRoutes, Rejection
from bgp.route import LearnedRoute
from controller.agent.cluster import Cluster
from controller.agent.routing import Routing
from controller.datamodel import keys
from controller.datamodel.records import Node
from controller.ports import InterfaceAddress, Version
from controller.reconcile.desired import workload_route
from controller.reconcile.difference import DesiredRoutes, Sweep
from ipam.block import Block, Holder
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from bgp.peer import Peer
    from bgp.route import Announcement
    from controller.assignment.assigner import Assigner
    from controller.ports import KernelRoute, Speaker
    from controller.reconcile.links import WorkloadLinks
    from controller.reconcile.programmer import RouteProgrammer
    from ipam.address import IPAddress, IPNetwork

HERE = Node("here", 64512, IPv4Address("192.0.2.1"), None)
THERE = Node("there", 64512, IPv4Address("192.0.2.2"), None)
CLUSTER = Cluster(
    {"web": (Pool("web", ip_network("10.0.0.0/16"), 26), Version(1))}, {node.name: node for node in (HERE, THERE)}
)
UPLINK = (InterfaceAddress("eth0", 2, ip_address("192.0.2.1"), ip_network("192.0.2.0/24"), scope_global=True),)
OWN_BLOCK = ip_network("10.0.0.0/26")
THEIR_BLOCK = ip_network("10.0.1.0/26")
LEARNED = SpeakerSnapshot(
    established=frozenset(THERE.addresses),
    ended=frozenset((address, version) for address in THERE.addresses for version in (4, 6)),
    rows=([LearnedRoute(THEIR_BLOCK, ip_address("192.0.2.2"), ip_address("192.0.2.2"))],),
)
LIMIT_SECONDS = 30


class Host:
    """Assigner, links, programmer and speaker of a node, as far as routing sees them, and what was handed to them."""

    def __init__(self) -> None:
        self.block = Block.claimed(OWN_BLOCK, node="here", at=0.0)
        self.borrowed: tuple[Block, ...] = ()
        self.unread: dict[IPNetwork, bool] = {}
        self.index_of: dict[str, int] = {}
        self.desired: list[DesiredRoutes] = []
        self.told: list[tuple[frozenset[IPAddress], frozenset[IPNetwork]]] = []
        self.wired: set[IPNetwork] = set()
        self.lost: set[IPNetwork] = set()

    def own_blocks(self) -> tuple[Block, ...]:
        """Return the one block."""
        return (self.block,)

    def unread_blocks(self) -> dict[IPNetwork, bool]:
        """Return what was set."""
        return self.unread

    def blocks(self) -> tuple[Block, ...]:
        """Return the one block, and what is borrowed."""
        return (*self.own_blocks(), *self.borrowed)

    def wire(self, number: int) -> KernelRoute:
        """Do what an ADD does up to the moment its route is in the kernel; from then on the route must stay."""
        link = f"tor{number}"
        self.block, address = self.block.assign(Holder(f"handle{number}", "here", "web", "", link, 0.0), number)
        self.index_of[link] = number
        route = workload_route(address, number)
        self.wired.add(route.prefix)
        return route


class FakeProgrammer:
    """Takes desired routes, and notes every wired one that they would remove."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def set(self, desired: DesiredRoutes) -> None:
        """Take the whole desired state."""
        self._host.desired.append(desired)
        self._host.lost |= self._host.wired - desired.routes.keys()


class FakeSpeaker:
    """Takes peers and announcements, and lets others run meanwhile."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def set(self, peers: Collection[Peer], announcements: Collection[Announcement]) -> None:
        """Take the whole desired state."""
        self._host.told.append(
            (frozenset(peer.address for peer in peers), frozenset(each.prefix for each in announcements))
        )
        await asyncio.sleep(0)


@pytest.fixture
def host() -> Host:
    """Return a host without workloads."""
    return Host()


@pytest.fixture
def make(host: Host) -> Callable[[int], Routing]:
    """Return a function that makes routing whose peers may be away for so many seconds."""

    def made(restart_seconds: int) -> Routing:
        return Routing(
            node=HERE,
            times=SessionTimes(hold_seconds=90, restart_seconds=restart_seconds),
            assigner=cast("Assigner", host),
            links=cast("WorkloadLinks", host),
            programmer=cast("RouteProgrammer", FakeProgrammer(host)),
            speaker=cast("Speaker", FakeSpeaker(host)),
        )

    return made


@pytest.fixture
def routing(make: Callable[[int], Routing]) -> Routing:
    """Return routing that knows nothing yet."""
    return make(120)


@contextlib.asynccontextmanager
async def running(routing: Routing) -> AsyncIterator[None]:
    """Run the loop meanwhile."""
    task = asyncio.create_task(routing.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110  what it waits for has no event
            await asyncio.sleep(0.001)


async def test_nothing_is_handed_on_before_the_cluster_is_known(routing: Routing, host: Host) -> None:
    """Neither kernel nor speaker is asked for anything, whatever else is known already."""
    host.wire(5)
    routing.learn_interfaces(UPLINK)
    routing.learn_event(LEARNED)
    routing.mark()
    await routing.iterate()
    assert (host.desired, host.told, routing.decision) == ([], [], None)


async def test_the_loop_hands_nothing_on_before_either(routing: Routing, host: Host) -> None:
    """It goes on waiting, and decides as soon as the cluster is known."""
    async with running(routing):
        for _ in range(20):
            routing.mark()
            await asyncio.sleep(0)
        assert (host.desired, host.told) == ([], [])
        routing.learn_cluster(CLUSTER)
        await until(lambda: host.told)
    assert host.told[0] == (frozenset(THERE.addresses), frozenset({OWN_BLOCK}))


async def test_everything_learned_ends_in_the_decision(routing: Routing, host: Host) -> None:
    """Cluster, interfaces, speaker and links, in any order."""
    async with running(routing):
        routing.learn_cluster(CLUSTER)
        routing.learn_event(LEARNED)
        await until(lambda: host.desired)
        routing.learn_interfaces(UPLINK)
        await until(lambda: THEIR_BLOCK in host.desired[-1].routes)
        workload = host.wire(5)
        routing.mark()
        await until(lambda: workload.prefix in host.desired[-1].routes)
    assert host.desired[-1].routes.keys() == {OWN_BLOCK, THEIR_BLOCK, workload.prefix}
    assert routing.decision is not None
    assert routing.decision.routes == host.desired[-1]


async def test_workloads_are_decided_on_together(routing: Routing, host: Host) -> None:
    """However many come one after the other, their decision waits a while, and then has them all."""
    async with running(routing):
        routing.learn_cluster(CLUSTER)
        await until(lambda: host.desired)
        for number in range(1, 6):
            host.wire(number)
            routing.workloads_changed()
        await until(lambda: len(host.desired) > 1)
        assert host.wired <= host.desired[1].routes.keys()
    assert len(host.desired) == 2


async def test_what_is_to_be_announced_does_not_wait(
    routing: Routing, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A borrowed address is decided on however long other workloads wait."""
    monkeypatch.setattr("controller.agent.routing._GATHERING_SECONDS", 3600)
    async with running(routing):
        routing.learn_cluster(CLUSTER)
        await until(lambda: host.desired)
        host.wire(5)
        routing.workloads_changed()
        host.borrowed = (Block.claimed(THEIR_BLOCK, node="there", at=0.0),)
        routing.workloads_changed()
        await until(lambda: len(host.desired) == 2)


async def test_what_changes_nothing_wakes_nobody(routing: Routing, host: Host) -> None:
    """Interfaces that are as they were are no reason to decide."""
    routing.learn_interfaces(UPLINK)
    routing.learn_cluster(CLUSTER)
    async with running(routing):
        await until(lambda: host.told)
        routing.learn_interfaces(tuple(UPLINK))
        for _ in range(20):
            await asyncio.sleep(0)
    assert len(host.desired) == 1


async def test_routes_of_others_are_swept_once_all_peers_have_spoken(routing: Routing, host: Host) -> None:
    """Before the peer's End-of-RIB of both families only local routes are."""
    routing.learn_cluster(CLUSTER)
    await routing.iterate()
    [peer] = THERE.addresses
    for event in (SpeakerSnapshot(frozenset(), frozenset(), ()), SessionUp(peer), EndOfRib(peer, 4)):
        routing.learn_event(event)
        await routing.iterate()
    assert {desired.sweep for desired in host.desired} == {Sweep.LOCAL}
    routing.learn_event(EndOfRib(peer, 6))
    await routing.iterate()
    assert host.desired[-1].sweep is Sweep.EVERYTHING


async def test_a_peer_that_cannot_be_read_at_the_start_keeps_its_session(routing: Routing, host: Host) -> None:
    """The speaker is told nothing until the record is mended, its routes stay in the kernel; then all is as ever."""
    routing.learn_interfaces(UPLINK)
    routing.learn_cluster(replace(CLUSTER, nodes={"here": HERE}, unread=frozenset({keys.node("there")})))
    await routing.iterate()
    assert host.told == []  # what the speaker does is not even known
    routing.learn_event(LEARNED)
    await routing.iterate()
    assert (host.told, routing.leaves_speaker) == ([], True)
    assert {desired.sweep for desired in host.desired} == {Sweep.LOCAL}
    routing.learn_cluster(CLUSTER)
    await routing.iterate()
    assert (host.told[-1][0], routing.leaves_speaker) == (frozenset(THERE.addresses), False)
    assert host.desired[-1].sweep is Sweep.EVERYTHING


async def test_a_session_that_comes_up_later_is_left_as_well(routing: Routing, host: Host) -> None:
    """So is one that ended meanwhile: its peer may come back."""
    routing.learn_cluster(replace(CLUSTER, nodes={"here": HERE}, unread=frozenset({keys.node("there")})))
    routing.learn_event(SessionUp(THERE.addresses[0]))
    routing.learn_event(SessionDown(THERE.addresses[0], "killed"))
    await routing.iterate()
    assert host.told == []


async def test_what_the_speaker_was_told_once_it_is_told_again(routing: Routing, host: Host) -> None:
    """An unread record that ends no session holds up nothing, and from then on every change is a decision."""
    unread = frozenset({keys.peer("elsewhere")})
    routing.learn_event(LEARNED)
    routing.learn_cluster(replace(CLUSTER, unread=unread))
    await routing.iterate()
    routing.learn_cluster(replace(CLUSTER, nodes={"here": HERE}, unread=unread))
    await routing.iterate()
    assert [peers for peers, _ in host.told] == [frozenset(THERE.addresses), frozenset()]


async def test_a_lost_speaker_takes_no_route_with_it(routing: Routing, host: Host) -> None:
    """What it said stays, and the reason is kept until it is back."""
    routing.learn_interfaces(UPLINK)
    routing.learn_cluster(CLUSTER)
    routing.learn_event(LEARNED)
    await routing.iterate()
    routing.learn_event(SpeakerLost("killed"))
    await routing.iterate()
    assert routing.speaker_lost == "killed"
    assert host.desired[-1] == host.desired[0]
    assert THEIR_BLOCK in host.desired[-1].routes
    routing.learn_event(LEARNED)
    assert routing.speaker_lost is None


async def test_what_the_speaker_does_not_pass_on_counts_among_what_is_refused(routing: Routing) -> None:
    """Beside what the agent's own rules refuse; a route that was used before is gone."""
    [peer] = THERE.addresses
    routing.learn_interfaces(UPLINK)
    routing.learn_cluster(CLUSTER)
    routing.learn_event(LEARNED)
    rejected = RejectedRoutes(peer, Rejection.LONG_ATTRIBUTES, 1, (THEIR_BLOCK,))
    outside = LearnedRoute(ip_network("172.16.0.0/26"), peer, peer)
    for event in (RoutesChanged(peer, (THEIR_BLOCK,), ([outside],)), RoutesRejected(peer, (rejected,))):
        routing.learn_event(event)
    await routing.iterate()
    assert routing.decision is not None
    assert {each.reason: each.count for each in routing.decision.rejected} == {
        Rejection.LONG_ATTRIBUTES: 1,
        Rejection.OUTSIDE_POOLS: 1,
    }
    assert THEIR_BLOCK not in routing.decision.routes.routes
    assert routing.learned_counts() == {peer: 2}


async def test_the_end_of_a_stale_routes_time_wakes_the_loop(make: Callable[[int], Routing], host: Host) -> None:
    """The peer does not come back, nothing else happens, and the route is gone when its time is over."""
    routing = make(1)
    async with running(routing):
        routing.learn_interfaces(UPLINK)
        routing.learn_cluster(CLUSTER)
        routing.learn_event(LEARNED)
        await until(lambda: host.desired and THEIR_BLOCK in host.desired[-1].routes)
        routing.learn_event(SessionDown(THERE.addresses[0], "killed"))
        await until(lambda: THEIR_BLOCK not in host.desired[-1].routes)
    assert host.desired[-1].routes.keys() == {OWN_BLOCK}


async def test_a_peer_that_never_speaks_is_not_waited_for_longer_than_its_time(
    make: Callable[[int], Routing], host: Host
) -> None:
    """When its restart time is over its old routes are swept, without any event."""
    routing = make(1)
    async with running(routing):
        routing.learn_cluster(CLUSTER)
        routing.learn_event(SpeakerSnapshot(frozenset(), frozenset(), ()))
        await until(lambda: host.desired and host.desired[-1].sweep is Sweep.EVERYTHING)
    assert host.desired[0].sweep is Sweep.LOCAL


async def test_a_node_that_is_gone_takes_its_routes_with_it_at_once(routing: Routing, host: Host) -> None:
    """It is not configured any more: what it announced counts no longer, and no session is kept."""
    routing.learn_interfaces(UPLINK)
    routing.learn_cluster(CLUSTER)
    routing.learn_event(LEARNED)
    await routing.iterate()
    routing.learn_cluster(Cluster(CLUSTER.pools, {"here": HERE}))
    await routing.iterate()
    assert host.desired[-1].routes.keys() == {OWN_BLOCK}
    assert host.told[-1][0] == frozenset()


async def test_an_address_wired_while_deciding_is_never_dropped(routing: Routing, host: Host) -> None:
    """Workloads come at every turn of the event loop; no decision set after one was routed leaves it out."""
    routing.learn_cluster(CLUSTER)

    async def wiring() -> None:
        for number in range(1, 60):
            host.wire(number)
            await asyncio.sleep(0)

    wired = asyncio.create_task(wiring())
    while not wired.done():
        await routing.iterate()
        await asyncio.sleep(0)
    assert len(host.desired) > 10
    assert len(host.wired) == 59
    assert host.lost == set()

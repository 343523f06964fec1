"""The collector gives back what nobody uses, and nothing that anybody may be about to use."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.agent import collecting
from controller.agent.cluster import Cluster, fold
from controller.agent.collecting import Collector
from controller.agent.complaints import Complaints
from controller.assignment.assigner import Assigner
from controller.assignment.collection import Moment
from controller.cni.backend import WorkloadBackend
from controller.cni.request import CniRequest, parse_request
from controller.datamodel import keys
from controller.datamodel.records import Node, encode_configuration, encode_pool
from controller.errors import KernelUnavailable, StoreUnavailable
from controller.ports import Put, Snapshot
from controller.store.memory import MemoryStore
from ipam.configuration import IpamConfiguration
from ipam.pool import Pool
from ipam.request import AssignRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence

    from controller.ports import Operation, Version, WorkloadLink
    from ipam.address import IPAddress, IPNetwork

GRACE = 100
DAY = 1_700_000_000.0
POOLS = (
    Pool("v4", ipaddress.ip_network("10.0.0.0/24"), 30),
    Pool("v6", ipaddress.ip_network("fd00::/116"), 126),
)


class FailingStore(MemoryStore):
    """A store that takes nothing while `failing`."""

    failing = False

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Commit, or fail."""
        if self.failing:
            raise StoreUnavailable("staged")
        return await super().commit(operations)


class WatchedAssigner(Assigner):
    """An assigner with which something happens right after it has returned blocks."""

    after_return: Callable[[], Awaitable[None]] | None = None

    async def return_blocks(self, cidrs: Collection[IPNetwork]) -> None:
        """Return the blocks, then let it happen."""
        await super().return_blocks(cidrs)
        if self.after_return is not None:
            await self.after_return()


class Kernel:
    """The links of a host as the backend makes them; `gate` holds up a wiring, `failing` a reading.

    The backend takes those `remembered` for links that are there.
    """

    def __init__(self) -> None:
        self.wired: dict[str, tuple[IPAddress, ...]] = {}
        self.remembered: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.wiring = asyncio.Event()
        self.failing = False
        self.read_count = 0
        self.during_reading: dict[int, Callable[[], None]] = {}

    def read(self) -> Mapping[str, tuple[IPAddress, ...]]:
        """Return the links as they are."""
        self.read_count += 1
        self.during_reading.pop(self.read_count, lambda: None)()
        if self.failing:
            raise KernelUnavailable("staged")
        return dict(self.wired)

    @property
    def index_of(self) -> Mapping[str, int]:
        """Return an index for every link."""
        return dict.fromkeys(self.wired.keys() | self.remembered, 7)

    async def wire(self, _descriptor: int, link: WorkloadLink) -> int:
        """Make the link when the gate is open."""
        self.wiring.set()
        await self.gate.wait()
        self.wired[link.host_name] = link.addresses
        return 7

    async def unwire(self, host_name: str, _descriptor: int | None = None) -> None:
        """Forget the link."""
        self.wired.pop(host_name, None)

    async def program(self, routes: Collection[object]) -> None:
        """Take any route."""


class Host:
    """A node with its collector, whose time passes only when told; `cluster` is what its rules were read as."""

    def __init__(self, store: FailingStore, cluster: Cluster) -> None:
        self.now = Moment(DAY, 0.0)
        self.store = store
        self.cluster = cluster
        self.kernel = Kernel()
        self.complaints = Complaints()
        self.assigner = WatchedAssigner(store, "n1", lambda: self.now.epoch)
        self.backend = WorkloadBackend(
            addresses=self.assigner,
            links=self.kernel,
            routes=self.kernel,
            default_mtu_bytes=lambda: 1500,
            obstacle=lambda: None,
        )
        self.collector = self.started()

    def pass_time(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.now = Moment(self.now.epoch + seconds, self.now.monotonic + seconds)

    def ignorant(self, labels: Mapping[str, str] | None = None) -> Collector:
        """Return a collector that knows nothing yet."""
        return Collector(
            node=Node("n1", 64512, ipaddress.IPv4Address("192.0.2.1"), None, labels or {}),
            addresses=self.assigner,
            read=self.kernel.read,
            alone=self.backend.alone,
            clock=lambda: self.now,
            complaints=self.complaints,
        )

    def started(self, labels: Mapping[str, str] | None = None) -> Collector:
        """Return a collector that has seen nothing yet, as after a start of the agent, and knows the cluster."""
        collector = self.ignorant(labels)
        collector.learn_cluster(self.cluster)
        return collector

    async def add(self, container: str = "c1") -> tuple[IPAddress, ...]:
        """Attach a dual-stack workload and return its addresses."""
        return (await self.backend.add(request(container), 5)).addresses

    def held(self) -> set[IPAddress]:
        """Return every address that is held."""
        return set(self.assigner.holders())

    async def suspected(self) -> None:
        """Let the collector see what is missing, and let the grace period pass."""
        await self.collector.iterate()
        self.pass_time(GRACE)


@pytest.fixture
async def host() -> AsyncGenerator[Host]:
    """Give a node with an IPv4 and an IPv6 pool, and a collector that knows them."""
    store = FailingStore()
    await store.commit([Put(keys.pool(pool.name), encode_pool(pool), None) for pool in POOLS])
    configuration = encode_configuration(IpamConfiguration(grace_seconds=GRACE))
    await store.commit([Put(keys.IPAM_CONFIGURATION, configuration, None)])
    host = Host(store, fold(Cluster(), Snapshot(await store.list(keys.CLUSTER))))
    await host.assigner.start()
    host.assigner.set_rules(host.cluster.rules)
    try:
        yield host
    finally:
        await host.assigner.close()
        await store.close()


def request(container: str = "c1") -> CniRequest:
    """Return the ADD of a container that gets both families."""
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/x",
        "CNI_ARGS": "K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop",
    }
    return parse_request(environment, {"cniVersion": "1.0.0", "name": "net", "ipam": {"ipv6": True}})


# ----------------------------------------------------------------------------------------------------------- addresses


async def test_what_a_link_left_behind_is_released_as_a_whole(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Both families after the grace period, others not; the log has what an operator asks for, others are told."""
    gone, kept = await host.add("c1"), await host.add("c2")
    told: list[frozenset[IPAddress]] = []
    host.collector.on_collected(lambda: told.append(frozenset(host.held())))
    host.pass_time(5)
    link = next(name for name, addresses in host.kernel.wired.items() if addresses == gone)
    del host.kernel.wired[link]
    assert await host.collector.iterate() == GRACE + 5
    host.pass_time(GRACE - 1)
    await host.collector.iterate()
    assert host.held() == {*gone, *kept}
    assert (host.collector.leak_candidate_count, host.collector.collected_count) == (2, 0)
    host.pass_time(1)
    with caplog.at_level(logging.INFO):
        await host.collector.iterate()
    assert host.held() == set(kept)
    assert told == [set(kept)]
    await host.collector.iterate()
    assert (host.collector.leak_candidate_count, host.collector.collected_count) == (0, 2)
    (record,) = [record for record in caplog.records if "collected" in record.message]
    assert {name: vars(record)[name] for name in ("handle", "workload", "namespace", "node", "links")} == {
        "handle": "cni/net/c1/eth0",
        "workload": "web-0",
        "namespace": "shop",
        "node": "n1",
        "links": [link],
    }
    assert vars(record)["addresses"] == [str(address) for address in gone]
    assert (vars(record)["created_at"], vars(record)["missing_seconds"], vars(record)["grace_seconds"]) == (
        DAY,
        GRACE,
        GRACE,
    )


async def test_after_a_reboot_everything_is_released_once_the_grace_period_is_over(host: Host) -> None:
    """The links are gone and the agent is a new one, though everything was assigned long ago."""
    held = {address for number in range(12) for address in await host.add(f"c{number}")}
    host.kernel.wired.clear()
    host.pass_time(50 * GRACE)
    host.collector = host.started()
    await host.suspected()
    assert host.held() == held
    await host.collector.iterate()
    assert host.held() == set()


async def test_nothing_is_collected_before_the_rules_are_known(host: Host) -> None:
    """The grace period is one of them."""
    held = await host.add()
    host.kernel.wired.clear()
    collector = host.ignorant()
    for _ in range(3):
        assert await collector.iterate() is None
        host.pass_time(10 * GRACE)
    assert host.held() == set(held)


async def test_what_a_host_of_the_same_name_may_have_wired_is_left_alone(host: Host) -> None:
    """While two hosts take turns at the node's record, neither takes the other's addresses for left behind."""
    await host.assigner.assign(AssignRequest("theirs", "w", "ns", "torfffffffffff", (4,)))
    others = {"n1": Node("n1", 64512, ipaddress.IPv4Address("192.0.2.2"), None)}
    ours = {"n1": Node("n1", 64512, ipaddress.IPv4Address("192.0.2.1"), None)}
    for _ in range(4):
        for nodes in (others, ours):
            host.collector.learn_cluster(replace(host.cluster, nodes=nodes))
        await host.collector.iterate()
        host.pass_time(GRACE - 1)
    assert len(host.held()) == 1
    host.pass_time(1)
    await host.collector.iterate()
    assert host.held() == set()


async def test_nothing_is_collected_while_the_links_cannot_be_read(host: Host) -> None:
    """Not being told of a link is not its absence; what was suspected before stays so."""
    held = await host.add()
    host.kernel.wired.clear()
    await host.suspected()
    host.kernel.failing = True
    with pytest.raises(KernelUnavailable):
        await host.collector.iterate()
    assert host.held() == set(held)
    host.kernel.failing = False
    await host.collector.iterate()
    assert host.held() == set()


async def test_a_link_that_comes_back_at_the_last_moment_keeps_its_addresses(host: Host) -> None:
    """Right before the release the kernel is read once more."""
    held = await host.add()
    links = dict(host.kernel.wired)
    host.kernel.wired.clear()
    await host.suspected()
    host.kernel.during_reading[host.kernel.read_count + 2] = lambda: host.kernel.wired.update(links)
    await host.collector.iterate()
    assert host.held() == set(held)


async def test_an_add_under_way_keeps_its_addresses(host: Host) -> None:
    """It has its old addresses again and its link is not there yet: the collector waits for its end, then looks."""
    held = await host.add()
    # The backend has not heard yet that the link is gone, so it renews nothing.
    host.kernel.remembered = set(host.kernel.wired)
    host.kernel.wired.clear()
    await host.suspected()
    host.kernel.gate.clear()
    host.kernel.wiring.clear()
    adding = asyncio.create_task(host.add())
    await host.kernel.wiring.wait()
    collecting_now = asyncio.create_task(host.collector.iterate())
    (turn,) = host.backend._turn_of.values()
    await settled(lambda: turn.user_count == 2)
    host.kernel.gate.set()
    await asyncio.gather(adding, collecting_now)
    assert adding.result() == held
    assert host.held() == set(held)


async def test_what_an_add_has_renewed_is_suspected_anew(host: Host) -> None:
    """Its link is not there yet, and the collector does not even wait for it."""
    held = await host.add()
    host.kernel.wired.clear()
    await host.suspected()
    host.kernel.gate.clear()
    host.kernel.wiring.clear()
    adding = asyncio.create_task(host.add())
    await host.kernel.wiring.wait()
    await host.collector.iterate()
    assert host.held() == set(held)
    host.kernel.gate.set()
    assert await adding == held


async def test_an_add_that_comes_during_the_collection_waits_for_its_end(host: Host) -> None:
    """It gets addresses that are its own, and a link with them."""
    await host.add()
    host.kernel.wired.clear()
    await host.suspected()
    reading = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begun() -> None:
        loop.call_soon_threadsafe(reading.set)

    host.kernel.during_reading[host.kernel.read_count + 2] = begun
    collecting_now = asyncio.create_task(host.collector.iterate())
    await reading.wait()
    added = await host.add()
    await collecting_now
    assert host.held() == set(added)
    assert list(host.kernel.wired.values()) == [added]


async def test_what_was_assigned_anew_meanwhile_is_left_alone(host: Host) -> None:
    """The same handle and the same addresses, with a link that is on its way."""
    asked = AssignRequest("h1", "web", "shop", "tor1", (4,))
    before = await host.assigner.assign(asked)
    await host.suspected()
    loop = asyncio.get_running_loop()

    async def again() -> None:
        await host.assigner.release("h1")
        for number in range(3):  # the free list goes round
            await host.assigner.assign(replace(asked, handle=f"x{number}", interface=""))
        assert (await host.assigner.assign(asked)).addresses == before.addresses

    host.kernel.during_reading[host.kernel.read_count + 2] = lambda: asyncio.run_coroutine_threadsafe(
        again(), loop
    ).result(10)
    await host.collector.iterate()
    assert set(before.addresses) <= host.held()


async def test_a_handle_that_got_another_address_meanwhile_is_left_as_a_whole(host: Host) -> None:
    """Somebody asks for it: it is judged anew."""
    asked = AssignRequest("h1", "web", "shop", "tor1", (4,))
    await host.assigner.assign(asked)
    await host.suspected()
    loop = asyncio.get_running_loop()

    def grow() -> None:
        growing = host.assigner.assign(replace(asked, versions=(4, 6)))
        asyncio.run_coroutine_threadsafe(growing, loop).result(10)

    host.kernel.during_reading[host.kernel.read_count + 2] = grow
    await host.collector.iterate()
    assert {address.version for address in host.held()} == {4, 6}


async def test_a_store_that_is_away_leaves_it_for_the_next_time(host: Host) -> None:
    """Nothing is half released, and nothing is forgotten."""
    held = await host.add()
    host.kernel.wired.clear()
    await host.suspected()
    host.store.failing = True
    with pytest.raises(StoreUnavailable):
        await host.collector.iterate()
    host.store.failing = False
    assert host.held() == set(held)
    await host.collector.iterate()
    assert host.held() == set()


# -------------------------------------------------------------------------------------------------------------- blocks


async def test_empty_blocks_are_returned_but_one(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Newest first, after they were empty for the grace period; the oldest of each IP version stays."""
    for number in range(9):  # three blocks of four addresses
        await host.add(f"c{number}")
    before = [block.cidr for block in host.assigner.own_blocks() if block.version == 4]
    host.kernel.wired.clear()
    await host.suspected()
    await host.collector.iterate()
    assert len(host.assigner.own_blocks()) == 6
    assert await host.collector.iterate() == 2 * GRACE
    host.pass_time(GRACE)
    with caplog.at_level(logging.INFO):
        await host.collector.iterate()
    assert [block.cidr for block in host.assigner.own_blocks() if block.version == 4] == before[:1]
    assert len(host.assigner.own_blocks()) == 2
    assert len(await host.store.list(keys.BLOCKS)) == 2
    assert host.collector.returned_count == 4
    returned = [vars(record) for record in caplog.records if "returned" in record.message]
    assert [each["block"] for each in returned if "." in each["block"]] == [str(before[2]), str(before[1])]
    assert {(each["node"], each["empty_seconds"]) for each in returned} == {("n1", GRACE)}


async def test_the_block_that_is_kept_may_change_while_others_are_returned(host: Host) -> None:
    """A workload comes and takes of the oldest: then the next one is the one to keep."""
    for number in range(9):
        await host.add(f"c{number}")
    oldest, middle, _ = (block.cidr for block in host.assigner.own_blocks() if block.version == 4)
    for number in range(9):
        await host.assigner.release(request(f"c{number}").handle)
    host.kernel.wired.clear()
    await host.suspected()
    in_use: list[IPAddress] = []

    async def come() -> None:
        if not in_use:
            in_use.extend((await host.assigner.assign(AssignRequest("h", "w", "s", "", (4,)))).addresses)

    host.assigner.after_return = come
    await host.collector.iterate()
    assert in_use[0] in oldest
    assert [block.cidr for block in host.assigner.own_blocks() if block.version == 4] == [oldest, middle]


async def test_the_last_block_is_returned_when_its_pool_is_for_others(host: Host) -> None:
    """The selector looks at the labels of the node."""
    for_a = replace(POOLS[0], node_selector="rack == 'a'")
    await host.add()
    await host.assigner.release(request().handle)
    await host.store.commit([Put(keys.pool("v4"), encode_pool(for_a), None)])
    host.cluster = fold(Cluster(), Snapshot(await host.store.list(keys.CLUSTER)))
    for labels, left in (({"rack": "a"}, {4, 6}), ({"rack": "b"}, {6})):
        host.collector = host.started(labels)
        await host.suspected()
        await host.collector.iterate()
        assert {block.version for block in host.assigner.own_blocks()} == left


# ------------------------------------------------------------------------------------------------------------ the loop


async def settled(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail when it does not in time."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0)


async def test_the_loop_goes_on_after_a_failure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It complains as long as it fails; new rules wake it from its pause."""
    monkeypatch.setattr(collecting, "_SHORTEST_SECONDS", 3600.0)
    await host.add()
    host.kernel.wired.clear()
    host.kernel.failing = True
    running = asyncio.create_task(host.collector.run())
    try:
        await settled(lambda: host.complaints.sentences != ())
        host.kernel.failing = False
        grace = replace(host.cluster.configuration, grace_seconds=0)
        host.collector.learn_cluster(replace(host.cluster, configuration=grace))
        await settled(lambda: host.held() == set())
        await settled(lambda: host.complaints.sentences == ())
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_the_same_rules_wake_nobody(host: Host) -> None:
    """A node's record changes the cluster often."""
    await host.collector.iterate()
    host.collector._woken.clear()
    host.collector.learn_cluster(replace(host.cluster, nodes={}))
    assert not host.collector._woken.is_set()


@pytest.mark.parametrize(
    ("grace", "due_in", "longest"),
    [(900, None, 66.0), (900, 10.0, 10.0), (900, 0.01, 1.0), (20, None, 22.0), (0, None, 1.0)],
)
async def test_it_looks_in_time_and_not_too_often(host: Host, grace: int, due_in: float | None, longest: float) -> None:
    """Every minute, once in a shorter grace period, and when something comes due; never more than once a second."""
    rules = replace(host.cluster.configuration, grace_seconds=grace)
    host.collector.learn_cluster(replace(host.cluster, configuration=rules))
    host.pass_time(50)
    pause = host.collector._pause_seconds(None if due_in is None else 50 + due_in)
    assert 1.0 <= pause <= longest
    assert pause >= longest * 0.8

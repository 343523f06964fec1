"""ADD and DEL leave nothing half-done, whatever fails and however calls overlap."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.cni.backend import WorkloadBackend
from controller.cni.failures import CniFailure, ErrorCode
from controller.cni.request import CniRequest, parse_request
from controller.errors import KernelRefused, RefusedError, StoreUnavailable, TransientError
from controller.kernel.link_inspection import ContainerSide, HostSide, LinkState
from controller.kernel.link_names import container_mac, host_link_name
from controller.kernel.links import IPV4_GATEWAY, IPV6_GATEWAY
from controller.ports import KernelRoute, NextHop, RouteKind
from ipam.block import Holder
from ipam.errors import PoolExhausted
from ipam.request import Assignment

if TYPE_CHECKING:
    from collections.abc import Collection

    from controller.ports import WorkloadLink
    from ipam.address import IPAddress
    from ipam.request import AssignRequest

HOST_NAME = host_link_name("pod1", "eth0")
HANDLE = "cni/net/pod1/eth0"
ADDRESS_OF = {4: ipaddress.ip_address("10.0.0.1"), 6: ipaddress.ip_address("fd00::1")}


class Node:
    """Addresses, links and routes in memory; `fails` maps a step's name to what it raises."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.requests: list[AssignRequest] = []
        self.held: dict[str, tuple[IPAddress, ...]] = {}
        self.links: dict[str, tuple[int, WorkloadLink]] = {}
        self.routes: list[KernelRoute] = []
        self.left: list[int | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.obstacle: str | None = None
        self.outage = False
        self.limitation: str | None = None
        self.inspected: list[tuple[int, str, str, tuple[IPAddress, ...]]] = []
        self.backend = self.started()

    def started(self) -> WorkloadBackend:
        """Return a backend that knows nothing of others before it."""
        return WorkloadBackend(
            addresses=self,
            links=self,
            routes=self,
            default_mtu_bytes=lambda: 1500,
            obstacle=lambda: self.obstacle,
            outage=lambda: self.outage,
            limitation=lambda: self.limitation,
            inspect=self.inspect,
        )

    async def _step(self, name: str) -> None:
        self.steps.append(name)
        await self.gate.wait()
        if name in self.fails:
            raise self.fails[name]

    async def assign(self, request: AssignRequest) -> Assignment:
        """Give the same addresses to everybody."""
        await self._step("assign")
        self.requests.append(request)
        self.held[request.handle] = tuple(ADDRESS_OF[version] for version in request.versions)
        return Assignment(request.handle, self.held[request.handle])

    async def release(self, handle: str) -> tuple[IPAddress, ...]:
        """Forget the handle."""
        await self._step("release")
        return self.held.pop(handle, ())

    async def probe(self, request: AssignRequest) -> None:
        """Remember the question."""
        await self._step("probe")
        self.requests.append(request)

    def holders(self) -> dict[IPAddress, Holder]:
        """Return an address of its own for everything that is held."""
        return {
            IPV4_GATEWAY + number: Holder(handle, "n1", "web", "", host_link_name(*handle.split("/")[2:]), 0.0)
            for number, handle in enumerate(self.held, 1)
        }

    def inspect(self, descriptor: int, host: str, container: str, addresses: Collection[IPAddress]) -> LinkState:
        """Find nothing of the link."""
        self.inspected.append((descriptor, host, container, tuple(addresses)))
        return LinkState(
            HostSide(None, frozenset(), {}, {}),
            ContainerSide(None, frozenset(), frozenset(), {}, ipv6_off=True),
        )

    async def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Remember the link."""
        await self._step("wire")
        self.links[link.host_name] = (namespace_descriptor, link)
        return 7

    async def unwire(self, host_name: str, namespace_descriptor: int | None = None) -> None:
        """Forget the link."""
        await self._step("unwire")
        self.left.append(namespace_descriptor)
        self.links.pop(host_name, None)

    @property
    def index_of(self) -> dict[str, int]:
        """Return the index of every link."""
        return dict.fromkeys(self.links, 7)

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Remember the routes."""
        await self._step("program")
        self.routes += routes


@pytest.fixture
async def node() -> Node:
    """Give a node on which nothing fails."""
    return Node()


def request(command: str = "ADD", **config: object) -> CniRequest:
    """Return a call for the one container."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "pod1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/x",
        "CNI_ARGS": "K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop",
    }
    return parse_request(environment, {"cniVersion": "1.0.0", "name": "net", **config})


async def test_add_assigns_wires_and_routes(node: Node) -> None:
    """The container's link has its addresses and a route leads to each."""
    ipam = {"ipv6": True, "ipv4_pools": ["a"], "ipv6_pools": ["b"]}
    result = await node.backend.add(request(ipam=ipam, mtu=1400), 5)
    (asked,) = node.requests
    assert (asked.handle, asked.workload, asked.namespace, asked.interface) == (HANDLE, "web-0", "shop", HOST_NAME)
    assert (asked.versions, asked.pools) == ((4, 6), ("a", "b"))
    descriptor, link = node.links[HOST_NAME]
    assert descriptor == 5
    assert (link.container_name, link.container_mac) == ("eth0", container_mac("pod1", "eth0"))
    assert (link.addresses, link.mtu_bytes) == ((ADDRESS_OF[4], ADDRESS_OF[6]), 1400)
    assert node.routes == [
        KernelRoute(ipaddress.ip_network(address), RouteKind.UNICAST, (NextHop(None, 7),)) for address in link.addresses
    ]
    assert (result.host_interface, result.container_interface, result.sandbox) == (HOST_NAME, "eth0", "/run/netns/x")
    assert (result.gateway_ipv4, result.gateway_ipv6, result.mtu_bytes) == (IPV4_GATEWAY, IPV6_GATEWAY, 1400)


async def test_one_family_has_one_gateway_and_the_nodes_mtu(node: Node) -> None:
    """What a network leaves out comes from the node."""
    result = await node.backend.add(request(), 5)
    assert (result.addresses, result.gateway_ipv4, result.gateway_ipv6) == ((ADDRESS_OF[4],), IPV4_GATEWAY, None)
    assert result.mtu_bytes == 1500


async def test_add_repeated_gives_the_same_result(node: Node) -> None:
    """A runtime may ask twice."""
    assert await node.backend.add(request(), 5) == await node.backend.add(request(), 6)


@pytest.mark.parametrize("step", ["wire", "program"])
async def test_a_repeated_add_that_fails_takes_nothing_away(node: Node, step: str) -> None:
    """The container goes on as it was attached the first time; a retry must not cut its flows."""
    await node.backend.add(request(), 5)
    node.fails[step] = TransientError("netlink is slow")
    with pytest.raises(TransientError):
        await node.backend.add(request(), 5)
    assert set(node.links) == {HOST_NAME}
    assert set(node.held) == {HANDLE}


@pytest.mark.parametrize("step", ["wire", "program"])
@pytest.mark.parametrize("error", [KernelRefused("link", 17, "exists"), RefusedError("no"), ValueError("defect")])
async def test_an_add_that_fails_leaves_nothing(node: Node, step: str, error: Exception) -> None:
    """The link goes before the addresses, and the caller gets the reason as it was."""
    node.fails[step] = error
    with pytest.raises(type(error)) as raised:
        await node.backend.add(request(), 5)
    assert raised.value is error
    assert node.steps[-2:] == ["unwire", "release"]
    assert (node.held, node.links) == ({}, {})


async def test_an_add_without_an_address_touches_no_link(node: Node) -> None:
    """A refused assignment changed nothing, so there is nothing to undo."""
    node.fails["assign"] = PoolExhausted("full")
    with pytest.raises(PoolExhausted):
        await node.backend.add(request(), 5)
    assert node.steps == ["assign"]


async def test_an_add_that_cannot_be_undone_says_so(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The first reason keeps its code; the details name what is left and how it goes."""
    node.fails |= {"wire": KernelRefused("link", 17, "exists"), "release": StoreUnavailable("store is down")}
    with pytest.raises(CniFailure) as raised, caplog.at_level(logging.ERROR):
        await node.backend.add(request(), 5)
    assert raised.value.code is ErrorCode.KERNEL_REFUSED
    assert "exists" in raised.value.message
    assert HANDLE in raised.value.details
    assert "store is down" in raised.value.details
    assert [record.getMessage() for record in caplog.records] == ["failed attachment could not be undone"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_interface_is_on_one_network(node: Node, restarted: bool) -> None:  # noqa: FBT001  a parameter
    """A second one is refused, and neither that nor the DEL that follows it touches the first one's link."""
    await node.backend.add(request(), 5)
    if restarted:
        node.backend = node.started()
    for _ in range(2):
        with pytest.raises(RefusedError, match=f"eth0 of the container belongs to {HANDLE} already"):
            await node.backend.add(request(name="other"), 5)
        await node.backend.delete(request("DEL", name="other"))
    assert (set(node.held), set(node.links)) == ({HANDLE}, {HOST_NAME})
    await node.backend.delete(request("DEL"))
    await node.backend.add(request(name="other"), 5)
    await node.backend.delete(request("DEL"))
    assert (set(node.held), set(node.links)) == ({"cni/other/pod1/eth0"}, {HOST_NAME})


async def test_what_is_left_of_another_network_does_not_take_the_link(node: Node) -> None:
    """After a reboot a container may come back by another network, and its old attachment be collected later."""
    await node.backend.add(request(), 5)
    node.links.clear()
    node.backend = node.started()
    await node.backend.add(request(name="other"), 5)
    await node.backend.collect(collect())
    assert (set(node.held), set(node.links)) == ({"cni/other/pod1/eth0"}, {HOST_NAME})


async def test_owners_of_links_that_are_gone_are_not_remembered_for_ever(node: Node) -> None:
    """Links may go without a DEL."""
    for number in range(500):
        await node.backend.add(replace(request(), container_id=f"pod{number}"), 5)
        node.links.clear()
        node.held.clear()
    assert len(node.backend._owners._handle_of) < 100


async def test_delete_unwires_before_it_releases(node: Node) -> None:
    """An address is never free while a link has it."""
    await node.backend.add(request(), 5)
    node.steps.clear()
    await node.backend.delete(request("DEL"), 5)
    assert node.steps == ["unwire", "release"]
    assert (node.held, node.links, node.left) == ({}, {}, [5])


async def test_delete_of_what_is_gone_succeeds(node: Node) -> None:
    """Runtimes send DEL twice, and for what never was."""
    await node.backend.delete(request("DEL"))
    await node.backend.delete(request("DEL"))


async def test_delete_without_a_store_removes_the_link_and_is_retried(node: Node) -> None:
    """The container is cut off at once; the address follows when the store is back."""
    await node.backend.add(request(), 5)
    node.fails["release"] = StoreUnavailable("store is down")
    with pytest.raises(StoreUnavailable):
        await node.backend.delete(request("DEL"))
    assert node.links == {}
    node.fails.clear()
    await node.backend.delete(request("DEL"))
    assert node.held == {}


async def test_an_address_stays_assigned_while_its_link_cannot_be_removed(node: Node) -> None:
    """A link that is still there may still send."""
    await node.backend.add(request(), 5)
    node.fails["unwire"] = KernelRefused("link", 16, "busy")
    with pytest.raises(KernelRefused):
        await node.backend.delete(request("DEL"))
    assert HANDLE in node.held


async def test_calls_for_one_interface_take_turns(node: Node) -> None:
    """A DEL that overtakes an ADD waits for its end."""
    node.gate.clear()
    adding = asyncio.create_task(node.backend.add(request(), 5))
    deleting = asyncio.create_task(node.backend.delete(request("DEL")))
    for _ in range(20):  # more turns of the loop than either call needs to its first wait
        await asyncio.sleep(0)
    assert node.steps == ["assign"]
    node.gate.set()
    await asyncio.gather(adding, deleting)
    assert node.steps == ["assign", "wire", "program", "unwire", "release"]
    assert node.backend._turn_of == {}


async def test_calls_for_two_interfaces_do_not_wait_for_each_other(node: Node) -> None:
    """One slow container holds nobody else."""
    node.gate.clear()
    environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "pod2", "CNI_IFNAME": "eth0"}
    other = parse_request(environment, {"cniVersion": "1.0.0", "name": "net"})
    calls = [asyncio.create_task(node.backend.add(request(), 5)), asyncio.create_task(node.backend.delete(other))]
    for _ in range(20):  # more turns of the loop than either call needs to its first wait
        await asyncio.sleep(0)
    assert sorted(node.steps) == ["assign", "unwire"]
    node.gate.set()
    await asyncio.gather(*calls)


async def test_check_looks_at_the_link_with_what_is_assigned(node: Node) -> None:
    """What should be comes from the assignment, what is from the kernel."""
    node.held = {HANDLE: (), "cni/net/pod2/eth0": ()}
    with pytest.raises(CniFailure, match=f"link: is {HOST_NAME} on the host missing") as raised:
        await node.backend.check(request("CHECK"), 5)
    assert raised.value.code is ErrorCode.CHECK_FAILED
    assert node.inspected == [(5, HOST_NAME, "eth0", (IPV4_GATEWAY + 1,))]
    assert node.steps == []


def collect(*valid: str, name: str = "net") -> CniRequest:
    """Return a GC after which these containers are left."""
    listed = [{"containerID": each, "ifname": "eth0"} for each in valid]
    return parse_request(
        {"CNI_COMMAND": "GC"}, {"cniVersion": "1.1.0", "name": name, "cni.dev/valid-attachments": listed}
    )


async def test_gc_detaches_what_is_not_valid_of_its_own_network(node: Node) -> None:
    """Other networks and other kinds of workloads keep theirs, also where a name begins alike; twice is once."""
    kept = ["cni/net/pod1/eth0", "cni/net2/pod2/eth0", "cni/ne/pod2/eth0", "docker/net/pod2/eth0", "cni/nett/net/eth0"]
    node.held = dict.fromkeys([*kept, "cni/net/pod2/eth0", "cni/net/pod1/eth1"], ())
    for _ in range(2):
        await node.backend.collect(collect("pod1"))
        assert sorted(node.held) == sorted(kept)
    assert node.steps == ["unwire", "release"] * 2


async def test_gc_that_names_nothing_as_valid_collects_nothing(node: Node) -> None:
    """A runtime that leaves the list out has not said that everything is garbage; an empty list does say so."""
    node.held = {HANDLE: ()}
    await node.backend.collect(parse_request({"CNI_COMMAND": "GC"}, {"cniVersion": "1.1.0", "name": "net"}))
    assert set(node.held) == {HANDLE}
    await node.backend.collect(collect())
    assert node.held == {}


async def test_gc_goes_on_after_what_it_cannot_collect(node: Node) -> None:
    """The runtime is told how many are left, and why; the next GC tries them again."""
    node.held = dict.fromkeys(["cni/net/pod2/eth0", "cni/net/pod3/eth0"], ())
    node.fails["unwire"] = KernelRefused("link", 16, "busy")
    with pytest.raises(CniFailure, match=r"2 attachments could not be collected, the first cni/net/pod2/eth0: .*busy"):
        await node.backend.collect(collect())
    assert node.steps == ["unwire", "unwire"]
    node.fails.clear()
    await node.backend.collect(collect())
    assert node.held == {}


async def test_gc_leaves_an_attachment_under_way(node: Node) -> None:
    """An ADD that has not answered yet is in no runtime's list of valid attachments."""
    node.held = {HANDLE: ()}
    with_link = node.holders()[IPV4_GATEWAY + 1].interface
    async with asyncio.timeout(60), node.backend.alone(with_link):
        await node.backend.collect(collect())
    assert set(node.held) == {HANDLE}


def status() -> CniRequest:
    """Return a STATUS of a dual-stack network."""
    return parse_request({"CNI_COMMAND": "STATUS"}, {"cniVersion": "1.1.0", "name": "net", "ipam": {"ipv6": True}})


async def test_status_tries_an_assignment(node: Node) -> None:
    """And assigns nothing."""
    await node.backend.status(status())
    (probe,) = node.requests
    assert (probe.versions, probe.pools, node.held) == ((4, 6), (), {})


async def test_status_tells_the_obstacle(node: Node) -> None:
    """A node that cannot attach anything says why, and whether existing containers suffer too."""
    node.obstacle = "the store was never read"
    with pytest.raises(TransientError, match="never read"):
        await node.backend.status(status())
    node.limitation = "a route is missing"
    with pytest.raises(CniFailure, match="the store was never read; besides, a route is missing") as raised:
        await node.backend.status(status())
    assert raised.value.code is ErrorCode.LIMITED_CONNECTIVITY


async def test_status_tells_that_existing_containers_suffer(node: Node) -> None:
    """Also where an ADD would succeed."""
    node.limitation = "a route is missing"
    with pytest.raises(CniFailure, match=r"^a route is missing$") as raised:
        await node.backend.status(status())
    assert raised.value.code is ErrorCode.LIMITED_CONNECTIVITY
    assert raised.value.details


async def test_status_does_not_give_the_node_up_while_the_store_is_away(node: Node) -> None:
    """What exists goes on; the store is not even asked, and one that goes at that moment is no reason either."""
    node.outage = True
    await node.backend.status(status())
    assert node.steps == []
    node.outage = False
    node.fails["probe"] = StoreUnavailable("store is down")
    await node.backend.status(status())
    node.limitation = "a route is missing"
    with pytest.raises(CniFailure, match="a route is missing"):
        await node.backend.status(status())


async def test_status_tells_that_no_address_is_left(node: Node) -> None:
    """What an ADD would be refused for is told before one is tried."""
    node.fails["probe"] = PoolExhausted("every pool is full")
    with pytest.raises(PoolExhausted):
        await node.backend.status(status())


async def test_a_mac_address_asked_for_is_the_containers(node: Node) -> None:
    """The link has it, and the runtime is told."""
    result = await node.backend.add(request(runtimeConfig={"mac": "0A:00:00:00:00:05"}), 5)
    assert result.container_mac == node.links[HOST_NAME][1].container_mac == "0a:00:00:00:00:05"


async def test_only_an_add_without_a_link_renews_what_is_held(node: Node) -> None:
    """What is attached already is protected by its link, and a repeated ADD writes nothing."""
    for _ in range(2):
        await node.backend.add(request(), 5)
    await node.unwire(HOST_NAME)
    await node.backend.add(request(), 5)
    assert [asked.renew for asked in node.requests] == [True, False, True]

"""What container runtimes send, sent to plugin and agent in any order, twice, and all at once."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from controller.assignment.assigner import Assigner
from controller.cni.backend import WorkloadBackend
from controller.cni.protocol import CNI_VERSIONS
from controller.cni.server import serve
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.kernel.link_inspection import ContainerSide, HostSide, LinkEnd, LinkState, Neighbour
from controller.kernel.link_inspection import Path as RoutePath
from controller.kernel.link_names import HOST_MAC
from controller.kernel.links import IPV4_GATEWAY, IPV6_GATEWAY
from controller.ports import ABSENT, Put
from controller.private_socket import bind
from controller.store.memory import MemoryStore
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from controller.ports import KernelRoute, WorkloadLink
    from ipam.address import IPAddress
    from tests.contract.cni.conftest import Program

REQUESTS = sorted((Path(__file__).parent / "requests").glob("*.json"))
POOLS = (Pool("four", ipaddress.ip_network("10.66.0.0/24"), 26), Pool("six", ipaddress.ip_network("fd66::/120"), 122))
DEADLINE = 60


class Kernel:
    """Links in memory, all as they should be; making and removing them takes turns of the event loop."""

    def __init__(self) -> None:
        self.index_of: dict[str, int] = {}
        self.links: dict[str, WorkloadLink] = {}

    async def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link; the namespace is open."""
        os.fstat(namespace_descriptor)
        await asyncio.sleep(0)
        self.links[link.host_name] = link
        return self.index_of.setdefault(link.host_name, len(self.index_of) + 1)

    async def unwire(self, host_name: str, _descriptor: int | None = None) -> None:
        """Remove the link."""
        await asyncio.sleep(0)
        self.index_of.pop(host_name, None)

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Take the routes."""
        assert routes
        await asyncio.sleep(0)

    def inspect(self, descriptor: int, host: str, container: str, addresses: Collection[IPAddress]) -> LinkState:
        """Find the link as it was made, if it is there."""
        os.fstat(descriptor)
        if host not in self.index_of:
            return LinkState(
                HostSide(None, frozenset(), dict.fromkeys(addresses), {}),
                ContainerSide(None, frozenset(), frozenset(), {}, ipv6_off=True),
            )
        link, index = self.links[host], self.index_of[host]
        assert link.container_name == container
        gateway_of = {address: IPV4_GATEWAY if address.version == 4 else IPV6_GATEWAY for address in link.addresses}
        default_of = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
        own = frozenset({index})
        return LinkState(
            HostSide(
                LinkEnd(index, 2, "veth", HOST_MAC, link.mtu_bytes, up=True),
                frozenset(Neighbour(index, address, link.container_mac) for address in link.addresses),
                {address: RoutePath(ipaddress.ip_network(address), None, own) for address in link.addresses},
                {},
            ),
            ContainerSide(
                LinkEnd(2, index, "veth", link.container_mac, link.mtu_bytes, up=True),
                frozenset(link.addresses),
                frozenset(Neighbour(2, gateway, HOST_MAC) for gateway in gateway_of.values()),
                {
                    address: RoutePath(default_of[address.version], gateway, frozenset({2}))
                    for address, gateway in gateway_of.items()
                },
                ipv6_off=False,
            ),
        )


class Replay:
    """An agent, and the plugin that asks it."""

    def __init__(self, program: Program, socket: Path, kernel: Kernel, assigner: Assigner) -> None:
        self.program = program
        self.socket = socket
        self.kernel = kernel
        self.assigner = assigner
        # What runtimes remember of each attachment, by network, container and interface.
        self.results: dict[tuple[str, str, str], dict[str, Any]] = {}
        # A thread for each plugin that runs: the agent's own threads must not wait for them.
        self.waiting = ThreadPoolExecutor(max_workers=128)

    async def send(self, call: dict[str, Any]) -> tuple[str, int, dict[str, Any] | None]:
        """Send one call and return its command, status and answer, which is one of the protocol."""
        environment = {**call["environment"]}
        if environment["CNI_NETNS"] == "@namespace":
            environment["CNI_NETNS"] = f"/proc/{os.getpid()}/ns/net"
        configuration = {**call["configuration"], "agent_socket": str(self.socket)}
        attachment = (configuration.get("name", ""), environment["CNI_CONTAINERID"], environment["CNI_IFNAME"])
        if configuration.get("prevResult") == "@result":
            del configuration["prevResult"]
            configuration |= {"prevResult": self.results[attachment]} if attachment in self.results else {}
        running = self.program.start(json.dumps(configuration).encode(), environment)
        outcome = await asyncio.get_running_loop().run_in_executor(self.waiting, running.outcome)
        assert outcome.errors == b""
        answer = json.loads(outcome.output) if outcome.output else None
        check_answer(environment["CNI_COMMAND"], configuration["cniVersion"], outcome.status, answer)
        if environment["CNI_COMMAND"] == "ADD" and outcome.status == 0 and answer is not None:
            self.results[attachment] = answer
        return environment["CNI_COMMAND"], outcome.status, answer

    async def clean_up(self, calls: list[dict[str, Any]]) -> None:
        """Send a DEL for every ADD, as runtimes do in the end, and check that nothing is left."""
        for call in calls:
            if call["environment"]["CNI_COMMAND"] == "ADD":
                removal = {**call, "environment": {**call["environment"], "CNI_COMMAND": "DEL"}}
                assert (await self.send(removal))[1] == 0
        assert self.assigner.holders() == {}
        assert self.kernel.index_of == {}


def check_answer(command: str, version: str, status: int, answer: dict[str, Any] | None) -> None:
    """Check the form of an answer (CNI specification, "Section 5: Result Types")."""
    if status:
        assert answer is not None
        assert set(answer) == {"cniVersion", "code", "msg", "details"}
        assert (answer["cniVersion"], status) == (version, 1)
        assert answer["code"] not in {0, 999}
        assert answer["msg"]
    elif command == "ADD":
        assert answer is not None
        assert answer["cniVersion"] == version
        assert [entry["interface"] for entry in answer["ips"]] == [1] * len(answer["ips"])
        assert len(answer["ips"]) == len(answer["routes"]) in {1, 2}
    elif command == "VERSION":
        assert answer == {"cniVersion": version, "supportedVersions": list(CNI_VERSIONS)}
    else:
        assert answer is None


@asynccontextmanager
async def agent(program: Program, socket: Path) -> AsyncGenerator[Replay, None]:
    """Serve the plugin with a store and a kernel in memory; afterwards no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  nothing but a count
    store, kernel = MemoryStore(), Kernel()
    await store.commit([Put(keys.pool(pool.name), encode_pool(pool), ABSENT) for pool in POOLS])
    assigner = Assigner(store, "node", time.time)
    await assigner.start()
    backend = WorkloadBackend(
        addresses=assigner,
        links=kernel,
        routes=kernel,
        default_mtu_bytes=lambda: 1500,
        obstacle=lambda: None,
        inspect=kernel.inspect,
    )
    serving = asyncio.create_task(serve(bind(socket), socket, backend))
    replay = Replay(program, socket, kernel, assigner)
    try:
        yield replay
    finally:
        replay.waiting.shutdown()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        await assigner.close()
        await store.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  nothing but a count


def calls_of(path: Path) -> list[dict[str, Any]]:
    """Return the calls of one file."""
    calls: list[dict[str, Any]] = json.loads(path.read_text())["calls"]
    return calls


def left_by(path: Path) -> set[str]:
    """Return the handles that are there after the calls of one file."""
    return set(json.loads(path.read_text()).get("left", []))


@pytest.fixture
def program(make_program: Any) -> Program:  # noqa: ANN401  a function that returns one
    """Give the plugin as runtimes run it."""
    built: Program = make_program("c", DEADLINE)
    return built


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
async def test_a_runtimes_calls_succeed_in_their_order(program: Program, tmp_path: Path, path: Path) -> None:
    """Every ADD attaches (but for the one that cannot), every CHECK passes, every DEL detaches, GC leaves who runs."""
    async with agent(program, tmp_path / "cni.sock") as replay:
        outcomes = [await replay.send(call) for call in calls_of(path)]
        codes = [(command, answer["code"]) for command, status, answer in outcomes if status and answer]
        left = replay.assigner.holders().values()
        assert {holder.handle for holder in left} == left_by(path)
        assert set(replay.kernel.index_of) == {holder.interface for holder in left}
        await replay.clean_up(calls_of(path))
    assert codes == ([("ADD", 101)] if path.stem == "kubelet_retry" else [])


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_twice_leaves_nothing(program: Program, tmp_path: Path, seed: int) -> None:
    """Every call is answered, whatever came before it, and in the end the node is as it was."""
    calls = [call for path in REQUESTS for call in calls_of(path)] * 2
    random.Random(seed).shuffle(calls)  # noqa: S311  an order, not a secret
    async with agent(program, tmp_path / "cni.sock") as replay:
        for call in calls:
            await replay.send(call)
        await replay.clean_up(calls)


@pytest.mark.parametrize("seed", range(5))
async def test_all_at_once_twice_leaves_nothing(program: Program, tmp_path: Path, seed: int) -> None:
    """Calls of different containers mix, those of one take turns, and nothing is given twice."""
    calls = [call for path in REQUESTS for call in calls_of(path)] * 2
    random.Random(seed).shuffle(calls)  # noqa: S311  an order, not a secret
    async with agent(program, tmp_path / "cni.sock") as replay:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*map(replay.send, calls))
        await replay.clean_up(calls)

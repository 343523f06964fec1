"""A node that serves dockerd over a real socket, with real address management and a kernel in memory."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, ClientTimeout, UnixConnector

from controller.assignment.assigner import Assigner
from controller.assignment.knowledge import rules_of
from controller.cni.backend import WorkloadBackend
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.docker.plugin import DockerPlugin
from controller.errors import StoreUnavailable
from controller.ports import Put
from controller.reconcile.links import WorkloadLinks
from controller.store.memory import MemoryStore
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from controller.ports import KernelRoute, Operation, RouteFailure, Version, WorkloadLink
    from ipam.address import IPAddress, IPNetwork

POOLS = (
    Pool("ipv4", ipaddress.ip_network("10.244.0.0/16"), 26),
    Pool("ipv6", ipaddress.ip_network("fd00:244::/64"), 122),
)


class Kernel:
    """Links, routes and packet filter in memory."""

    def __init__(self) -> None:
        self.links: dict[str, WorkloadLink] = {}
        self.routes: list[KernelRoute] = []
        self.ruleset = ""
        self.passes: set[int] = set()
        self.taken: set[str] = set()
        self.filter_error: Exception | None = None
        self.shared: set[str] = set()
        self.datagram_ports: set[tuple[IPAddress | None, int]] = set()

    def lend(self, link: WorkloadLink, _gateways: tuple[IPAddress, ...]) -> int:
        """Make a link."""
        self.links[link.host_name] = link
        self.shared.discard(link.host_name)
        return 7

    def share(self, host_names: Collection[str]) -> None:
        """Let links carry what rules list, which must be there."""
        found = self.links.keys() & set(host_names)
        assert all(name in self.ruleset for name in found)
        self.shared |= found

    def keep_shared(self, host_names: Collection[str]) -> None:
        """Let all others carry their own alone."""
        self.shared &= set(host_names)

    def untaken(self) -> frozenset[str]:
        """Return the far ends that are here."""
        return frozenset(link.container_name for link in self.links.values()) - self.taken

    def wire(self, _namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make a link of another kind: Docker never asks for it."""
        raise NotImplementedError(link.host_name)

    def unwire(self, host_name: str, _namespace_descriptor: int | None = None) -> None:
        """Remove a link."""
        self.links.pop(host_name, None)
        self.shared.discard(host_name)

    def list(self) -> dict[str, int]:
        """Return every link."""
        return dict.fromkeys(self.links, 7)

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Add routes."""
        self.routes += routes

    @property
    def failures(self) -> Mapping[IPNetwork, RouteFailure]:
        """Return the routes that were refused: none."""
        return {}

    async def apply(self, ruleset: str, datagram_ports: Collection[tuple[IPAddress | None, int]] = ()) -> None:
        """Replace our table."""
        self.datagram_ports = set(datagram_ports)
        await asyncio.sleep(0)
        if self.filter_error is not None:
            raise self.filter_error
        # What the rules no longer list must not be let through without them.
        assert all(name in ruleset for name in self.shared)
        self.ruleset = ruleset

    async def let_through(self, version: int) -> None:
        """Let our links through."""
        self.passes.add(version)


class BrittleStore(MemoryStore):
    """A store that may be down, for writers at least."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Apply all operations, unless the store is down."""
        if self.down:
            raise StoreUnavailable("the store is down")
        return await super().commit(operations)


class Node:
    """The node `h1`; `call` is what dockerd does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = BrittleStore()
        self.kernel = Kernel()

    async def start(self) -> None:
        """Serve as an agent does that has just started."""
        self.assigner = Assigner(self.store, "h1", time.time)
        await self.store.commit([Put(keys.pool(pool.name), encode_pool(pool), None) for pool in POOLS])
        self.assigner.set_rules(rules_of(await self.store.list(keys.CLUSTER)))
        await self.assigner.start()
        self.links = WorkloadLinks(self.kernel)
        await self.links.refresh()
        self.backend = WorkloadBackend(
            addresses=self.assigner,
            links=self.links,
            routes=self.kernel,
            default_mtu_bytes=lambda: 1500,
            obstacle=lambda: None,
        )
        path = self.directory / "tortie.sock"
        self.plugin = DockerPlugin(
            socket_path=path,
            state_path=self.directory / "docker.json",
            addresses=self.assigner,
            pools=lambda: POOLS,
            links=self.links,
            lending=self.kernel,
            routes=self.kernel,
            packet_filter=self.kernel,
            alone=self.backend.alone,
            default_mtu_bytes=lambda: 1500,
        )
        self._task = asyncio.create_task(self.plugin.run())
        while not path.exists() and not self._task.done():  # noqa: ASYNC110  a file tells nobody that it came
            await asyncio.sleep(0.001)
        self._session = ClientSession(connector=UnixConnector(str(path)), timeout=ClientTimeout(total=60))

    async def stop(self) -> None:
        """End as an agent does."""
        await self._session.close()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.assigner.close()
        self.links.close()

    async def call(self, path: str, request: object) -> tuple[int, dict[str, Any]]:
        """Return status and answer of a method; a request that is None has no body at all."""
        return await self.send(path, b"" if request is None else json.dumps(request).encode())

    async def send(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and answer of a method for any body."""
        # dockerd sends no host's name.
        async with self._session.post(f"http://plugin{path}", data=body, headers={"Host": ""}) as response:
            return response.status, json.loads(await response.read())

    async def send_raw(self, request: bytes) -> tuple[int, str, bytes]:
        """Return status, kind and content of the first answer to these bytes."""
        reader, writer = await asyncio.open_unix_connection(self.directory / "tortie.sock")
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
            content = await reader.readexactly(int(headers["content-length"]))
            return int(line.split()[1]), headers["content-type"], content
        finally:
            writer.transport.abort()  # whoever is sent so much more than it takes may have hung up

    async def ask(self, path: str, **request: object) -> dict[str, Any]:
        """Return the answer of a method that succeeds."""
        status, answer = await self.call(path, request)
        assert status == 200, answer
        return answer

    async def refused(self, path: str, **request: object) -> str:
        """Return the error of a method that fails."""
        status, answer = await self.call(path, request)
        assert status == 500, answer
        return str(answer["Err"])

    def state(self) -> dict[str, Any]:
        """Return what is kept for the next start."""
        path = self.directory / "docker.json"
        return json.loads(path.read_text()) if path.exists() else {"networks": [], "endpoints": []}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """Give a node that serves."""
    node = Node(tmp_path)
    await node.start()
    yield node
    await node.stop()
    await node.store.close()


@pytest.fixture(scope="session")
def recorded() -> list[dict[str, Any]]:
    """Return what dockerd 20.10 asked in the lives of four networks and four containers, and what was answered.

    Among them published ports, a second network, a killed dockerd.
    """
    path = Path(__file__).with_name("dockerd-20.10.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def of_other_pools() -> list[dict[str, Any]]:
    """Return what dockerd 20.10 asked where pools, their ids, gateways and addresses were other ones.

    Among them IPv6, chosen addresses, several networks of one container, and a killed dockerd.
    """
    path = Path(__file__).with_name("dockerd-20.10-other-pools.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]

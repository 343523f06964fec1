"""The agent's HTTP API, asked over a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from controller.agent.api import (
    ApiServer,
    BgpStatus,
    PeerProblem,
    PeerStatus,
    RejectedStatus,
    RoutesStatus,
    Status,
    StoreStatus,
    WorkloadStatus,
)
from controller.agent_client import Rejected, agent_status
from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STATUS = Status(
    node="n1",
    version="1.2.3",
    ready=True,
    problems=(),
    addresses=("192.0.2.1",),
    store=StoreStatus("sqlite", connected=True),
    routes=RoutesStatus(in_sync=True, count=3),
    bgp=BgpStatus(
        connected=True,
        peers=(PeerStatus("192.0.2.9", "tor-a", "node specific", "established", 5.0, ""),),
        rejected_counts={"as_loop": 2},
        rejected=(RejectedStatus("192.0.2.9", "as_loop", 2, ("10.0.0.0/26", "fd00::/122")),),
        problems=(PeerProblem("tor-b", "filter in does not exist"),),
    ),
    workloads=(WorkloadStatus("handle", "web", "", "tor1", ("10.0.0.1",)),),
    drain="draining",
)


@pytest.fixture
def path() -> Iterator[Path]:
    """Return a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="api-") as directory:
        yield Path(directory) / "agent.sock"


async def more(_request: web.Request) -> web.Response:
    """Answer as a page of the agent's."""
    return web.json_response("here")


@contextlib.asynccontextmanager
async def served(path: Path, status: Status = STATUS) -> AsyncIterator[ApiServer]:
    """Serve this status meanwhile."""
    server = ApiServer(path, lambda: status, {"/more": more})
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get(path: Path, resource: str) -> tuple[int, Any]:
    """Return the HTTP status and the document of an answer."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get(f"http://agent{resource}") as response,
    ):
        return response.status, await response.json() if response.status != 404 else None


async def test_the_status_is_served_whole(path: Path) -> None:
    """As JSON, every field by its name."""
    async with served(path):
        code, document = await get(path, "/v1/status")
    assert code == 200
    assert document == json.loads(json.dumps(asdict(STATUS)))


async def test_the_client_understands_it(path: Path) -> None:
    """What `tortiectl` reads is what the agent writes."""
    async with served(path):
        status = await asyncio.to_thread(agent_status, path)
    assert (status.node, status.ready, status.store, status.route_count) == ("n1", True, "sqlite, connected", 3)
    assert [(each.address, each.name, each.origin) for each in status.sessions] == [
        ("192.0.2.9", "tor-a", "node specific")
    ]
    assert status.rejected == (Rejected("192.0.2.9", "as_loop", 2, ("10.0.0.0/26", "fd00::/122")),)
    assert (status.sessionless, status.drain) == (("tor-b",), "draining")


async def test_health_is_200_when_ready(path: Path) -> None:
    """A problem that stops no workload does not make it unhealthy."""
    async with served(path, replace(STATUS, problems=("a route failed",))):
        assert await get(path, "/v1/health") == (200, {"ready": True, "problems": ["a route failed"]})


async def test_health_is_503_with_the_reasons_when_not(path: Path) -> None:
    """A probe fails, and says why."""
    async with served(path, replace(STATUS, ready=False, problems=("no store", "no sidecar"))):
        assert await get(path, "/v1/health") == (503, {"ready": False, "problems": ["no store", "no sidecar"]})


async def test_pages_are_served_and_nothing_else(path: Path) -> None:
    """Those that the agent has besides status and health."""
    async with served(path):
        assert await get(path, "/more") == (200, "here")
        assert (await get(path, "/"))[0] == 404


async def test_only_the_agents_user_may_connect(path: Path) -> None:
    """The socket's mode is 0600, and it is gone when the agent stops."""
    async with served(path):
        assert os.stat(path).st_mode & 0o777 == 0o600  # noqa: PTH116  it blocks nobody here
    assert os.listdir(path.parent) == []  # noqa: PTH208  as above


async def test_the_socket_of_a_dead_agent_is_replaced(path: Path) -> None:
    """A crash leaves it behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with served(path):
        assert (await get(path, "/v1/health"))[0] == 200


async def test_a_living_agent_keeps_its_socket(path: Path) -> None:
    """The second is refused, and when it stops it takes nothing of the first with it."""
    async with served(path):
        second = ApiServer(path, lambda: replace(STATUS, node="second"), {})
        with pytest.raises(RefusedError, match="served by another agent"):
            await second.start()
        await second.stop()
        assert (await get(path, "/v1/status"))[1]["node"] == "n1"


async def test_an_agent_that_never_listened_stops(path: Path) -> None:
    """Nothing is to be done then."""
    await ApiServer(path, lambda: STATUS, {}).stop()


async def test_a_caller_that_does_not_read_does_not_hold_up_the_stop(path: Path) -> None:
    """An answer that nobody takes is given up."""
    async with served(path, replace(STATUS, problems=("a long story" * 1_000_000,))) as server:
        reader, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n")
        await reader.readexactly(1)  # the answer has begun
        async with asyncio.timeout(30):
            await server.stop()
        writer.close()


async def test_a_silent_caller_does_not_hold_up_the_stop(path: Path) -> None:
    """It is cut off."""
    async with served(path) as server:
        reader, writer = await asyncio.open_unix_connection(path)
        await get(path, "/v1/health")  # by now the silent one has been accepted
        async with asyncio.timeout(60):
            await server.stop()
            assert await reader.read() == b""
        writer.close()

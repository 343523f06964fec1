"""From the plugin's program to the kernel and back: a container is attached, reached, and gone again."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from controller.assignment.assigner import Assigner
from controller.cni.backend import WorkloadBackend
from controller.cni.server import serve
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.kernel.links import KernelLinks
from controller.kernel.routes import KernelFib
from controller.kernel.sysctls import enable_forwarding
from controller.ports import ABSENT, Put
from controller.private_socket import bind
from controller.reconcile.links import WorkloadLinks
from controller.reconcile.programmer import RouteProgrammer
from controller.store.memory import MemoryStore
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tests.netns.conftest import Namespace

ROOT = Path(__file__).parents[2]
POOLS = (Pool("four", ipaddress.ip_network("10.77.0.0/30"), 30), Pool("six", ipaddress.ip_network("fd77::/122"), 122))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the plugin as it is shipped."""
    binary = tmp_path_factory.mktemp("plugin") / "tortie-cni"
    source = ROOT / "controller/cni/tortie-cni.c"
    flags = ("-O2", "-static", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", *flags, "-o", str(binary), str(source)], check=True)
    return binary


class Runtime:
    """Calls the plugin as a container runtime does."""

    def __init__(self, plugin: Path, path: Path, assigner: Assigner) -> None:
        self._plugin = plugin
        self._path = path
        self.assigner = assigner

    async def call(self, command: str, container: str, namespace: str) -> tuple[int, dict[str, Any]]:
        """Return exit status and what was printed."""
        configuration = {
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "tortie-cni",
            "ipam": {"type": "tortie", "ipv6": True},
            "agent_socket": str(self._path),
        }
        process = await asyncio.create_subprocess_exec(
            self._plugin,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": container,
                "CNI_IFNAME": "eth0",
                "CNI_NETNS": namespace and f"/run/netns/{namespace}",
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(json.dumps(configuration).encode()), 60)
        return process.returncode or 0, json.loads(output or b"{}")


@asynccontextmanager
async def agent(path: Path, plugin: Path) -> AsyncGenerator[Runtime, None]:
    """Serve the plugin with real links and routes and a store in memory."""
    store = MemoryStore()
    await store.commit([Put(keys.pool(pool.name), encode_pool(pool), ABSENT) for pool in POOLS])
    assigner = Assigner(store, "node", lambda: 1000.0)
    await assigner.start()
    kernel_links, fib = KernelLinks(), KernelFib()
    links, routes = WorkloadLinks(kernel_links), RouteProgrammer(fib)
    backend = WorkloadBackend(
        addresses=assigner, links=links, routes=routes, default_mtu_bytes=lambda: 1440, obstacle=lambda: None
    )
    serving = asyncio.create_task(serve(bind(path), path, backend))
    try:
        yield Runtime(plugin, path, assigner)
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        links.close()
        routes.close()
        kernel_links.close()
        fib.close()
        await assigner.close()
        await store.close()


async def test_a_container_is_attached_reached_and_gone(
    host: Namespace,  # noqa: ARG001  the test runs in it
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
    ip: Callable[[str], str],
) -> None:
    """Both families answer after ADD; after DEL link, route and address are gone, and DEL again succeeds."""
    enable_forwarding()
    container = make_namespace()
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        status, result = await runtime.call("ADD", "pod1", container.name)
        assert status == 0
        assert await runtime.call("ADD", "pod1", container.name) == (0, result)
        for entry in result["ips"]:
            address = entry["address"].partition("/")[0]
            await asyncio.to_thread(subprocess.run, ["ping", "-c1", "-W5", address], check=True, stdout=-3)
        container.run("ping", "-c1", "-W5", "192.0.2.1")
        name = result["interfaces"][0]["name"]
        assert name in ip("link show")
        assert await runtime.call("DEL", "pod1", container.name) == (0, {})
        assert name not in ip("link show")
        assert "10.77.0" not in ip("route show")
        assert runtime.assigner.holders() == {}
        assert await runtime.call("DEL", "pod1", "") == (0, {})
        assert await runtime.call("DEL", "pod1", "gone") == (0, {})


async def test_a_full_pool_and_a_file_that_is_no_namespace_leave_nothing(
    host: Namespace,  # noqa: ARG001  the test runs in it
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
    ip: Callable[[str], str],
) -> None:
    """The runtime gets the code and the reason; no link or address stays."""
    container = make_namespace()
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        status, failure = await runtime.call("ADD", "pod0", "../../dev/null")
        assert (status, failure["code"]) == (1, 113)
        assert runtime.assigner.holders() == {}
        others = [make_namespace() for _ in range(4)]
        calls = [runtime.call("ADD", f"pod{number}", other.name) for number, other in enumerate(others, 1)]
        assert [status for status, _ in await asyncio.gather(*calls)] == [0] * 4
        before = ip("link show")
        status, failure = await runtime.call("ADD", "pod5", container.name)
        assert (status, failure["code"]) == (1, 104)
        assert ip("link show") == before
        assert len(runtime.assigner.holders()) == 8

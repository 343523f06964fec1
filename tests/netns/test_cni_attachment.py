"""From the plugin's program to the kernel and back: a container is attached, reached, and gone again."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
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
    from collections.abc import AsyncGenerator, Callable, Iterator

    from tests.netns.conftest import Namespace

ROOT = Path(__file__).parents[2]
#: Where Debian has the standard plugins.
_STANDARD = Path("/usr/lib/cni")
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
        self.interface = "eth0"

    async def call(self, command: str, container: str, namespace: str, **keys: object) -> tuple[int, dict[str, Any]]:
        """Call our plugin; return exit status and what was printed."""
        configuration = {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "tortie-cni",
            "ipam": {"type": "tortie", "ipv6": True},
            "agent_socket": str(self._path),
            **keys,
        }
        return await self.run(self._plugin, command, container, namespace, configuration)

    async def call_all(
        self, command: str, container: str, namespace: str, version: str, others: list[dict[str, Any]], **keys: object
    ) -> dict[str, Any]:
        """Call our plugin and then others, which must all succeed, as a runtime does for a list (DEL: from the end).

        Returns the last answer.
        """
        result: Any = keys.pop("prevResult", {})
        for other in [{}, *others][:: -1 if command == "DEL" else 1]:
            previous = {"prevResult": result} if result else {}
            configuration = {"cniVersion": version, "name": "net", **other, **keys, **previous}
            if other:
                done = await self.run(_STANDARD / other["type"], command, container, namespace, configuration)
            else:
                done = await self.call(command, container, namespace, **configuration)
            assert done[0] == 0, (other, done)
            if command == "ADD":
                result = done[1]
        return dict(result)

    async def run(
        self, plugin: Path, command: str, container: str, namespace: str, configuration: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        """Call any plugin; return exit status and what was printed."""
        process = await asyncio.create_subprocess_exec(
            plugin,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": container,
                "CNI_IFNAME": self.interface,
                "CNI_NETNS": namespace and f"/run/netns/{namespace}",
                "CNI_PATH": str(_STANDARD),
                "PATH": os.environ["PATH"],
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
        before = ip("-brief link show type veth").count("tor")
        status, failure = await runtime.call("ADD", "pod5", container.name)
        assert (status, failure["code"]) == (1, 104)
        assert ip("-brief link show type veth").count("tor") == before
        status, failure = await runtime.call("STATUS", "", "")
        assert (status, failure["code"]) == (1, 50)
        assert await runtime.call("STATUS", "", "", ipam={"ipv4": False, "ipv6": True}) == (0, {})
        assert len(runtime.assigner.holders()) == 8


FAULTS = [
    ("neighbour", "ip neighbour delete 169.254.1.1 dev eth0"),
    ("neighbour", "ip -6 neighbour delete fe80::ecee:eeff:feee:eeee dev eth0"),
    ("neighbour", "ip neighbour replace 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent"),
    ("route", "ip route delete default"),
    ("route", "ip -6 route delete default"),
    ("route", "ip route add blackhole default"),
    ("route", "ip -6 route add default dev eth0 metric 1"),
    ("address", "ip address delete {four}/32 dev eth0"),
    ("address", "ip address delete {six}/128 dev eth0"),
    ("state", "ip link set eth0 down"),
    ("mtu", "ip link set eth0 mtu 1300"),
    ("mac", "ip link set eth0 address 02:00:00:00:00:09"),
    ("sysctl", "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1"),
    ("link", "ip link set eth0 down name eth9"),
]
HOST_FAULTS = [
    ("hostroute", "ip route delete {four}"),
    ("hostroute", "ip -6 route delete {six}"),
    ("hostroute", "ip route replace {four}/32 dev up0 metric 1"),
    ("hostroute", "ip route replace blackhole {four}/32 metric 1"),
    ("neighbour", "ip neighbour delete {four} dev {link}"),
    ("neighbour", "ip -6 neighbour replace {six} lladdr 02:00:00:00:00:01 dev {link} nud permanent"),
    ("state", "ip link set {link} down"),
    ("mtu", "ip link set {link} mtu 1300"),
    ("mac", "ip link set {link} address 02:00:00:00:00:09"),
    ("sysctl", "sysctl -q -w net.ipv4.conf.{link}.rp_filter=0"),
    ("sysctl", "sysctl -q -w net.ipv6.conf.{link}.forwarding=0"),
    ("link", "ip link delete {link}"),
]


async def test_check_sees_everything_that_others_change(
    host: Namespace,
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
) -> None:
    """Each fault is named by a word, on either side, and ADD or DEL and ADD make it right again."""
    container = make_namespace()
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        _, result = await runtime.call("ADD", "pod1", container.name)
        link = result["interfaces"][0]["name"]
        four, six = (entry["address"].partition("/")[0] for entry in result["ips"])
        places = [(container, *fault) for fault in FAULTS] + [(host, *fault) for fault in HOST_FAULTS]
        for place, word, command in places:
            assert await runtime.call("CHECK", "pod1", container.name, prevResult=result) == (0, {}), command
            place.run(*command.format(four=four, six=six, link=link).split())
            status, failure = await runtime.call("CHECK", "pod1", container.name, prevResult=result)
            assert (status, failure.get("code")) == (1, 120), command
            assert f"{word}: is " in failure["msg"], command
            assert "should be" in failure["msg"]
            assert failure["details"]
            host.run("sh", "-c", f"ip route flush {four}; ip link delete {link} || true")
            assert (await runtime.call("DEL", "pod1", ""))[0] == 0
            _, result = await runtime.call("ADD", "pod1", container.name)
            four, six = (entry["address"].partition("/")[0] for entry in result["ips"])
        await runtime.assigner.release("cni/net/pod1/eth0")
        status, failure = await runtime.call("CHECK", "pod1", container.name)
        assert (status, failure["code"], failure["msg"].partition(":")[0]) == (1, 120, "assignment")
        assert (await runtime.call("CHECK", "pod1", "gone"))[1]["code"] == 3
        assert (await runtime.call("DEL", "pod1", ""))[0] == 0


async def test_gc_takes_away_what_the_runtime_forgot(
    host: Namespace,  # noqa: ARG001  the test runs in it
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
    ip: Callable[[str], str],
) -> None:
    """Links and addresses go, those of valid attachments and of another network stay; again and again the same."""
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        results = {}
        for pod, network in (("pod1", "net"), ("pod2", "net"), ("pod3", "other")):
            status, results[pod] = await runtime.call("ADD", pod, make_namespace().name, name=network)
            assert status == 0
        assert await runtime.call("GC", "", "") == (0, {})
        assert len(runtime.assigner.holders()) == 6
        for _ in range(2):
            valid = [{"containerID": "pod1", "ifname": "eth0"}]
            assert await runtime.call("GC", "", "", **{"cni.dev/valid-attachments": valid}) == (0, {})
            handles = {holder.handle for holder in runtime.assigner.holders().values()}
            assert handles == {"cni/net/pod1/eth0", "cni/other/pod3/eth0"}
            links = ip("link show")
            there = {pod for pod, result in results.items() if result["interfaces"][0]["name"] in links}
            assert there == {"pod1", "pod3"}
        assert await runtime.call("GC", "", "", **{"cni.dev/valid-attachments": None}) == (0, {})
        assert {holder.handle for holder in runtime.assigner.holders().values()} == {"cni/other/pod3/eth0"}


async def test_an_interface_of_a_container_is_on_one_network(
    host: Namespace,  # noqa: ARG001  the test runs in it
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
) -> None:
    """Another network by the same interface is refused, and the DEL that follows leaves the first one alone."""
    container = make_namespace()
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        _, result = await runtime.call("ADD", "pod1", container.name)
        status, failure = await runtime.call("ADD", "pod1", container.name, name="other")
        assert (status, failure["code"], "cni/net/pod1/eth0" in failure["msg"]) == (1, 113, True)
        assert await runtime.call("DEL", "pod1", container.name, name="other") == (0, {})
        assert await runtime.call("CHECK", "pod1", container.name, prevResult=result) == (0, {})
        assert len(runtime.assigner.holders()) == 2
        assert await runtime.call("DEL", "pod1", container.name) == (0, {})


async def test_a_container_of_two_networks_leaves_the_second(
    host: Namespace,  # noqa: ARG001  the test runs in it
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
) -> None:
    """CHECK passes for both while it is on both, ADD repeated changes nothing, and nothing of the second is left."""
    container = make_namespace()
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        networks: dict[str, dict[str, Any]] = {"eth0": {"name": "net"}, "eth1": {"name": "other", "ipam": {}}}
        results: dict[str, dict[str, Any]] = {}
        for _ in range(2):
            for runtime.interface, keys in networks.items():
                status, result = await runtime.call("ADD", "pod1", container.name, **keys)
                assert (status, result) == (0, results.setdefault(runtime.interface, result))
        for runtime.interface, keys in networks.items():
            result = results[runtime.interface]
            assert await runtime.call("CHECK", "pod1", container.name, prevResult=result, **keys) == (0, {})
        assert "proto 116" in container.run("ip", "rule")
        assert await runtime.call("DEL", "pod1", container.name, **networks["eth1"]) == (0, {})
        assert "proto 116" not in container.run("ip", "rule")
        runtime.interface = "eth0"
        assert await runtime.call("CHECK", "pod1", container.name, prevResult=results["eth0"]) == (0, {})
        container.run("ping", "-c1", "-W5", "192.0.2.1")


async def test_a_container_gets_the_mac_address_it_asks_for(
    host: Namespace,  # noqa: ARG001  the test runs in it
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
) -> None:
    """It has it from the start, is reached with it, and CHECK expects it."""
    container, wish = make_namespace(), {"runtimeConfig": {"mac": "02:00:5E:10:00:07"}}
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        status, result = await runtime.call("ADD", "pod1", container.name, **wish)
        assert (status, result["interfaces"][1]["mac"]) == (0, "02:00:5e:10:00:07")
        assert "02:00:5e:10:00:07" in container.run("ip", "link", "show", "eth0")
        address = result["ips"][0]["address"].partition("/")[0]
        await asyncio.to_thread(subprocess.run, ["ping", "-c1", "-W5", address], check=True, stdout=-3)
        assert await runtime.call("CHECK", "pod1", container.name, prevResult=result, **wish) == (0, {})
        assert (await runtime.call("CHECK", "pod1", container.name))[1]["code"] == 120


#: Not busybox: its static wget cannot look up names, addresses included.
_FETCH = (
    *(sys.executable, "-I", "-c"),
    "import urllib.request as u; print(u.urlopen('http://192.0.2.1:18080/', timeout=30).read().decode(), end='')",
)


@contextmanager
def serving(container: Namespace, port: int) -> Iterator[None]:
    """Answer HTTP requests inside the container."""
    with TemporaryDirectory() as directory:
        (Path(directory) / "index.html").write_text("hello\n")
        command = ("busybox", "httpd", "-f", "-p", str(port), "-h", directory)
        server = subprocess.Popen(["nsenter", f"--net=/run/netns/{container.name}", *command])
        try:
            until_listening(container, port)
            yield
        finally:
            server.terminate()
            server.wait()


def until_listening(container: Namespace, port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 30
    while f":{port} " not in container.run("ss", "-Htln"):
        assert time.monotonic() < deadline


CHAINED: list[dict[str, Any]] = [
    {
        "type": "portmap",
        "snat": False,
        "runtimeConfig": {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]},
    },
    {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}},
]


# Debian's release of them knows no CNI 1.1.0, and its portmap fails every CHECK of a host that has ip6tables: it looks
# for the rules of each IP version in both.
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
async def test_standard_plugins_after_ours_take_its_result(
    host: Namespace,
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
    version: str,
) -> None:
    """A published port leads to the container, a tuned setting is there, CHECK passes, and DEL takes it all away."""
    enable_forwarding()
    container, neighbour = make_namespace(), make_namespace()
    host.run("ip", "link", "set", "far0", "netns", neighbour.name)
    neighbour.run("ip", "address", "add", "192.0.2.2/24", "dev", "far0")
    neighbour.run("ip", "link", "set", "far0", "up")
    neighbour.run("ip", "route", "add", "default", "via", "192.0.2.1")
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        result = await runtime.call_all("ADD", "pod1", container.name, version, CHAINED)
        assert result["cniVersion"] == version
        assert len(result["ips"]) == 2
        assert container.run("cat", "/proc/sys/net/ipv4/conf/eth0/arp_notify").strip() == "1"
        assert "18080" in host.run("iptables", "-t", "nat", "-S")
        with serving(container, 80):
            fetched = await asyncio.to_thread(neighbour.run, *_FETCH)
        assert fetched == "hello\n"
        if version != "0.3.1":
            await runtime.call_all("CHECK", "pod1", container.name, version, CHAINED[1:], prevResult=result)
        await runtime.call_all("DEL", "pod1", container.name, version, CHAINED, prevResult=result)
        assert "18080" not in host.run("iptables", "-t", "nat", "-S")
        assert runtime.assigner.holders() == {}


LIMITED: list[dict[str, Any]] = [
    {
        "type": "bandwidth",
        "runtimeConfig": {
            "bandwidth": {
                "ingressRate": 8_000_000,
                "ingressBurst": 1_000_000,
                "egressRate": 16_000_000,
                "egressBurst": 1_000_000,
            }
        },
    }
]


async def test_the_plugin_for_bandwidth_limits_our_link(
    host: Namespace,
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
) -> None:
    """It finds the host's end in our answer, limits both directions, and leaves nothing when the container goes."""
    enable_forwarding()
    container = make_namespace()
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        result = await runtime.call_all("ADD", "pod1", container.name, "1.0.0", LIMITED)
        link = result["interfaces"][0]["name"]
        assert "qdisc tbf" in host.run("tc", "qdisc", "show", "dev", link)
        assert "8Mbit" in host.run("tc", "qdisc", "show", "dev", link)
        assert "16Mbit" in host.run("tc", "qdisc", "show")
        container.run("ping", "-c1", "-W5", "192.0.2.1")
        await runtime.call_all("CHECK", "pod1", container.name, "1.0.0", LIMITED, prevResult=result)
        assert (await runtime.call("ADD", "pod1", container.name, cniVersion="1.0.0"))[0] == 0
        assert "8Mbit" in host.run("tc", "qdisc", "show", "dev", link)
        await runtime.call_all("DEL", "pod1", container.name, "1.0.0", LIMITED, prevResult=result)
        assert "bit" not in host.run("tc", "qdisc", "show")
        assert runtime.assigner.holders() == {}


async def test_ours_after_another_plugin_passes_its_answer_on(
    host: Namespace,  # noqa: ARG001  the test runs in it
    make_namespace: Callable[[], Namespace],
    plugin: Path,
    tmp_path: Path,
) -> None:
    """Loopback may come first; a plugin that made the container's interface already may not."""
    container = make_namespace()
    async with agent(tmp_path / "cni.sock", plugin) as runtime:
        first = {"cniVersion": "1.0.0", "name": "net", "type": "loopback"}
        status, loopback = await runtime.run(_STANDARD / "loopback", "ADD", "pod1", container.name, first)
        assert status == 0
        status, result = await runtime.call("ADD", "pod1", container.name, cniVersion="1.0.0", prevResult=loopback)
        assert status == 0
        assert [interface["name"] for interface in result["interfaces"]][::2] == ["lo", "eth0"]
        assert [ip["interface"] for ip in result["ips"]] == [*(ip["interface"] for ip in loopback["ips"]), 2, 2]
        assert await runtime.call("CHECK", "pod1", container.name, cniVersion="1.0.0", prevResult=result) == (0, {})
        status, failure = await runtime.call("ADD", "pod1", container.name, cniVersion="1.0.0", prevResult=result)
        assert (status, failure["code"]) == (1, 7)
        assert (await runtime.call("DEL", "pod1", container.name))[0] == 0

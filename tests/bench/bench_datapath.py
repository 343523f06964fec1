"""What packets pay for the way they take between containers of two hosts: TCP throughput, and the time of an echo.

Four ways, each on a pair of hosts of its own: from host to host (as containers with the host's network have it); routed
by tortie; bridges joined by VXLAN, as overlays do it; and a bridge with a published port, as hosts without any of these
do it. The wire is a virtual one on the same machine, so figures compare ways, and say nothing of a network card.
"""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from ipam.pool import Pool
from tests.bench.bench_cni import attach, plugin_of
from tests.bench.bgp_places import Node, address, ip, place, write_cluster
from tests.bench.cni_callers import containers
from tests.bench.harness import Benchmark, Better, Comparison

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from tests.bench.bgp_places import Place
    from tests.bench.harness import Sample

    _Ends: TypeAlias = tuple[str, str, str, int]
    _Maker: TypeAlias = Callable[[Place], _Ends]

_POOL: Final = Pool(name="ipv4", cidr=ip_network("10.80.0.0/16"), block_prefix_length=26)
_PORT: Final = 5201
_PUBLISHED: Final = 8080
_STREAM_SECONDS: Final = 1
_ECHOES: Final = 500
_HOSTS: Final = (1, 2)


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    with ExitStack() as stack:
        ways = {
            "native": _Way(stack.enter_context(place()), _native),
            "tortie": _Way(stack.enter_context(place()), partial(_routed, stack=stack)),
            "vxlan": _Way(stack.enter_context(place()), _overlay),
            "port": _Way(stack.enter_context(place()), _published),
        }
        yield {
            **{f"stream {name}": way.gigabits_per_second for name, way in ways.items()},
            **{f"echo {name}": way.echo_microseconds for name, way in ways.items() if name != "port"},
        }


class _Way:
    """One way between two namespaces: `made` gives the one that calls, the one that answers, its address and port."""

    def __init__(self, where: Place, made: _Maker) -> None:
        self._caller, answerer, self._target, self._port = made(where)
        where.start(answerer, "iperf3", "--server", "--port", str(_PORT))
        where.until(self._is_answered, "answered")

    def gigabits_per_second(self) -> float:
        """Return how much one TCP connection carries."""
        report = self._stream(_STREAM_SECONDS)
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9

    def echo_microseconds(self) -> float:
        """Return the mean time from an echo request to its reply."""
        words = ("ping", "-q", "-n", "-c", str(_ECHOES), "-i", "0.001", "-s", "16", self._target)
        said = _within(self._caller, *words).stdout
        times = re.search(r"= [\d.]+/([\d.]+)/", said)
        if times is None:
            raise RuntimeError(f"ping said {said!r}")
        return float(times[1]) * 1000

    def _is_answered(self) -> bool:
        try:
            self._stream(1)
        except RuntimeError:
            return False
        return True

    def _stream(self, seconds: int) -> dict[str, dict[str, dict[str, float]]]:
        words = ("iperf3", "--json", "--time", str(seconds), "--connect-timeout", "1000", "--port", str(self._port))
        done = _within(self._caller, *words, "--client", self._target)
        if done.returncode:
            raise RuntimeError(f"iperf3 said {done.stdout.strip()}")
        report: dict[str, dict[str, dict[str, float]]] = json.loads(done.stdout)
        return report


def _native(where: Place) -> _Ends:
    caller, answerer = (where.host(number) for number in _HOSTS)
    return caller, answerer, address(2), _PORT


def _routed(where: Place, *, stack: ExitStack) -> _Ends:
    store = where.directory / "store.db"
    write_cluster(store, _POOL)
    nodes = [Node(where, number, store=store) for number in _HOSTS]
    for node in nodes:
        node.start()
    ends = [stack.enter_context(containers(f"{node.namespace}c", 1)) for node in nodes]
    for node, end in zip(nodes, ends, strict=True):
        attach(where, plugin_of(where, node), end)
    caller, answerer = (end[0].name for end in ends)
    shown = subprocess.run(
        ["ip", "-n", answerer, "-json", "address", "show", "dev", "eth0"], capture_output=True, check=True
    )
    [target] = [each["local"] for each in json.loads(shown.stdout)[0]["addr_info"] if each["family"] == "inet"]
    return caller, answerer, target, _PORT


def _overlay(where: Place) -> _Ends:
    """Join bridges by VXLAN as flannel does: a route, a neighbour and a forwarding entry for the other host."""
    hosts, ends = _bridged(where)
    links = []
    for number, host in zip(_HOSTS, hosts, strict=True):
        words = f"link add vx0 type vxlan id 1 dstport 8472 local {address(number)} dev up0 nolearning"
        ip("-n", host, *words.split())
        ip("-n", host, "address", "add", f"172.17.{number}.0/32", "dev", "vx0")
        ip("-n", host, "link", "set", "vx0", "mtu", "1450", "up")
        shown = subprocess.run(["ip", "-n", host, "-json", "link", "show", "vx0"], capture_output=True, check=True)
        links.append(json.loads(shown.stdout)[0]["address"])
    for number, host, end in zip(_HOSTS, hosts, ends, strict=True):
        other = 3 - number
        mac = links[other - 1]
        ip("-n", host, "route", "add", f"172.17.{other}.0/24", "via", f"172.17.{other}.0", "dev", "vx0", "onlink")
        ip("-n", host, "neighbour", "add", f"172.17.{other}.0", "lladdr", mac, "dev", "vx0")
        _run(host, "bridge", "fdb", "append", mac, "dev", "vx0", "dst", address(other))
        ip("-n", end, "link", "set", "eth0", "mtu", "1450")
    return (*ends, "172.17.2.2", _PORT)


def _published(where: Place) -> _Ends:
    """Publish the answerer's port on its host, as Docker does, and let the caller leave by its host's address."""
    (caller_host, answerer_host), ends = _bridged(where)
    rules = {
        caller_host: "chain post { type nat hook postrouting priority 100\n oif up0 masquerade\n }",
        answerer_host: (
            "chain pre { type nat hook prerouting priority -100\n"
            f" tcp dport {_PUBLISHED} dnat to 172.17.2.2:{_PORT}\n }}"
        ),
    }
    for host, chain in rules.items():
        table = where.directory / f"{host}.nft"
        table.write_text(f"table ip bench {{\n {chain}\n}}\n")
        _run(host, "nft", "--file", str(table))
    return (*ends, address(2), _PUBLISHED)


def _bridged(where: Place) -> tuple[list[str], tuple[str, str]]:
    """Make two hosts that forward, with a bridge and a container on it each; return the hosts and the containers."""
    hosts, ends = [], []
    for number in _HOSTS:
        host, end = where.host(number), where.namespace(f"c{number}")
        where.let_forward(host)
        for line in ("link add br0 type bridge", f"address add 172.17.{number}.1/24 dev br0", "link set br0 up"):
            ip("-n", host, *line.split())
        ip("-n", host, "link", "add", "v0", "type", "veth", "peer", "eth0", "netns", end)
        ip("-n", host, "link", "set", "v0", "master", "br0", "up")
        for line in (
            f"address add 172.17.{number}.2/24 dev eth0",
            "link set eth0 up",
            f"route add default via 172.17.{number}.1",
        ):
            ip("-n", end, *line.split())
        hosts.append(host)
        ends.append(end)
    return hosts, (ends[0], ends[1])


def _within(namespace: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", f"--net=/run/netns/{namespace}", "--", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _run(namespace: str, *words: str) -> None:
    done = _within(namespace, *words)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


BENCHMARK = Benchmark(
    title=(
        f"One TCP connection for {_STREAM_SECONDS} s, and {_ECHOES} echoes, between two hosts: routed by tortie, from "
        "host to host, through bridges joined by VXLAN, and to a published port"
    ),
    rows={
        **{
            f"stream-{name}": Comparison("stream tortie", f"stream {name}", "Gbit/s", Better.HIGHER)
            for name in ("native", "vxlan", "port")
        },
        **{
            f"echo-{name}": Comparison("echo tortie", f"echo {name}", "us", Better.LOWER)
            for name in ("native", "vxlan")
        },
    },
    sides=_sides,
)

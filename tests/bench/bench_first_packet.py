"""The first packet through a new block: from the moment it is asked for on one host until another gets a reply.

Ours begins where the container runtime asks for an address in a block that nobody has claimed yet, so the claim and the
wiring of the container are part of it. BIRD begins where it is told to read a file with one more block; its workload is
there already.
"""

from __future__ import annotations

import array
import errno
import ipaddress
import json
import os
import select
import socket
import struct
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from statistics import median
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from pyroute2 import netns

from controller.cni import protocol
from ipam.pool import Pool
from tests.bench.bgp_places import AS_NUMBER, Bird, Node, Place, address, ip, place, write_cluster
from tests.bench.harness import Benchmark, Better, Comparison

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.bench.harness import Sample

_POOL: Final = Pool(name="ipv4", cidr=ipaddress.ip_network("10.64.0.0/14"), block_prefix_length=26)
#: How many blocks are claimed one after the other for one measurement.
_BLOCKS: Final = 10
_MOST_BLOCKS: Final = 4096
_PROBE_SECONDS: Final = 0.0005
_DEADLINE_SECONDS: Final = 30.0
_ECHO: Final = struct.Struct("!BBHHH")
_ECHO_REQUEST: Final = 8
_GATEWAY: Final = "169.254.1.1"


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    with ExitStack() as stack:
        ours, theirs = _Ours(stack.enter_context(place())), _Theirs(stack.enter_context(place()))
        yield {"tortie": ours.milliseconds, "bird": theirs.milliseconds}


class _Ours:
    """Two of our nodes; the workload is wired anew for each block."""

    def __init__(self, where: Place) -> None:
        store = where.directory / "store.db"
        write_cluster(store, _POOL, blocks_per_node=_MOST_BLOCKS)
        self._nodes = [Node(where, number, store=store) for number in (1, 2)]
        for node in self._nodes:
            node.start()
        self._workload = where.namespace("w")
        self._prober = Prober(self._nodes[1].namespace)
        self._addresses = _first_addresses()
        where.until(self._is_ready, "routed")

    def milliseconds(self) -> float:
        """Return the median over some blocks."""
        return median(self._measure() for _ in range(_BLOCKS)) * 1000

    def _measure(self) -> float:
        target = next(self._addresses)
        with self._prober.probing(target) as reply:
            start = time.perf_counter()
            self._call("ADD", target)
            seconds = reply() - start
        self._call("DEL", target)
        return seconds

    def _is_ready(self) -> bool:
        """Say whether a block of the first node is reached from the second; an agent that starts is asked again."""
        try:
            self._measure()
        except (OSError, RuntimeError):
            return False
        return True

    def _call(self, command: str, target: str) -> None:
        node = self._nodes[0]
        configuration = {
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "tortie-cni",
            "ipam": {"type": "tortie", "ipv4": True, "ipv6": False},
        }
        path = f"/run/netns/{self._workload}"
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"workload-{target}",
            "CNI_NETNS": path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IP={target}",
        }
        environment = b"".join(f"{name}={value}\0".encode() for name, value in variables.items())
        request = protocol.encode_request(0, environment, json.dumps(configuration).encode())
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent, agent.makefile("rb") as answer:
                agent.settimeout(_DEADLINE_SECONDS)
                agent.connect(str(node.cni_socket))
                rights = array.array("i", [descriptor])
                agent.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                status, size = protocol.decode_reply_header(answer.read(protocol.REPLY_HEADER.size))
                said = answer.read(size)
        except protocol.ProtocolError as error:
            raise RuntimeError(f"{command}: {error}") from error
        finally:
            os.close(descriptor)
        if status:
            raise RuntimeError(f"{command}: {said.decode()}")


class _Theirs:
    """Two hosts with BIRD; the workload is wired once, and has every address before its block is announced."""

    def __init__(self, where: Place) -> None:
        self._hosts = [where.host(number) for number in (1, 2)]
        self._workload = where.namespace("w")
        self._wire(where)
        self._birds = [Bird(where, host, _bird(own, "")) for own, host in enumerate(self._hosts, start=1)]
        self._prober = Prober(self._hosts[1])
        self._addresses = _first_addresses()
        for bird in self._birds:
            bird.start()
        where.until(lambda: all(bird.established() for bird in self._birds), "established")

    def milliseconds(self) -> float:
        """Return the median over some blocks."""
        return median(self._measure() for _ in range(_BLOCKS)) * 1000

    def _measure(self) -> float:
        target = next(self._addresses)
        ip("-n", self._workload, "address", "add", f"{target}/32", "dev", "lo")
        ip("-n", self._hosts[0], "route", "add", target, "dev", "w0")
        block = ipaddress.ip_network(f"{target}/26", strict=False)
        self._birds[0].write(_bird(1, f"route {block} blackhole;"))
        with self._prober.probing(target) as reply:
            start = time.perf_counter()
            self._birds[0].ask("configure")
            seconds = reply() - start
        ip("-n", self._hosts[0], "route", "delete", target, "dev", "w0")
        return seconds

    def _wire(self, where: Place) -> None:
        host = self._hosts[0]
        for namespace in self._hosts:
            where.let_forward(namespace)
        ip("-n", host, "link", "add", "w0", "type", "veth", "peer", "eth0", "netns", self._workload)
        ip("-n", host, "address", "add", f"{_GATEWAY}/32", "dev", "w0")
        ip("-n", host, "link", "set", "w0", "up")
        ip("-n", self._workload, "link", "set", "eth0", "up")
        ip("-n", self._workload, "route", "add", "default", "via", _GATEWAY, "dev", "eth0", "onlink")


class Prober:
    """Sends echo requests from a namespace until the first reply."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    @contextmanager
    def probing(self, target: str) -> Iterator[Sample]:
        """Probe the target; what is given waits for the first reply and returns when it came (`perf_counter`)."""
        netns.pushns(self._namespace)
        try:
            probes = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        finally:
            netns.popns()
        over = Event()
        came: list[float] = []

        def probe() -> None:
            while not over.is_set() and not came:
                _send(probes, target)
                if select.select([probes], [], [], _PROBE_SECONDS)[0] and probes.recvfrom(2048)[1][0] == target:
                    came.append(time.perf_counter())

        with probes:
            thread = Thread(target=probe)
            thread.start()

            def reply() -> float:
                thread.join(_DEADLINE_SECONDS)
                if not came:
                    raise RuntimeError(f"no reply from {target} in {_DEADLINE_SECONDS:g} s")
                return came[0]

            try:
                yield reply
            finally:
                over.set()
                thread.join()


def _send(probes: socket.socket, target: str) -> None:
    packet = _ECHO.pack(_ECHO_REQUEST, 0, 0, 1, 1)
    checksum = ~sum(struct.unpack("!4H", packet)) & 0xFFFF
    try:
        probes.sendto(_ECHO.pack(_ECHO_REQUEST, 0, checksum, 1, 1), (target, 0))
    except OSError as error:
        if error.errno not in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL}:
            raise


def _first_addresses() -> Iterator[str]:
    first = int(_POOL.cidr.network_address)
    return (str(ipaddress.IPv4Address(first + 64 * number + 1)) for number in count())


def _bird(own: int, blocks: str) -> str:
    other = 3 - own
    return f"""
router id {address(own)};
protocol device {{ }}
protocol static {{ ipv4; {blocks} }}
protocol kernel {{ ipv4 {{ import none; export all; }}; }}
protocol bgp neighbour {{
  local {address(own)} as {AS_NUMBER};
  neighbor {address(other)} as {AS_NUMBER};
  connect delay time 1;
  direct;
  ipv4 {{ import all; export all; next hop self; }};
}}
"""


BENCHMARK = Benchmark(
    title=(
        f"The first reply through a new block from another host, median of {_BLOCKS} blocks a turn: ours from the "
        "request for an address, BIRD from the request to read a new static route"
    ),
    rows={"": Comparison("tortie", "bird", "ms", Better.LOWER)},
    sides=_sides,
)

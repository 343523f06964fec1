"""Places for routing benchmarks: hosts in network namespaces on one switch, and the programs that run in them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyroute2 import netns

from bgp.configuration import BgpConfiguration
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_bgp_configuration, encode_peer
from controller.datamodel.records import encode_configuration, encode_pool
from controller.ports import Put
from controller.store.sqlite import SqliteStore
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bgp.peering import PeerDefinition
    from ipam.pool import Pool

PROGRAMS: Final = Path(sys.executable).parent
AS_NUMBER: Final = 64512
#: Nothing that is measured takes as long; a benchmark that waits longer has failed.
_DEADLINE_SECONDS: Final = 60.0
#: A look at the kernel's count of routes takes a fifth of a millisecond from those who work.
_LOOK_SECONDS: Final = 0.002
_numbers = count(1)


class Place:
    """Hosts on one switch; `address` says which each has, all in 10.7.0.0/16."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tortie-bench-"))
        self._prefix = f"tbench{os.getpid()}-{next(_numbers)}"
        self._switch = f"{self._prefix}s"
        self._namespaces: list[str] = []
        self._programs: list[Program] = []
        self._make(self._switch, ["link add sw0 type bridge mcast_snooping 0", "link set sw0 up"])

    def host(self, number: int) -> str:
        """Add a host and return its namespace."""
        name = f"{self._prefix}h{number}"
        self._make(name, [])
        ip("-n", self._switch, "link", "add", f"p{number}", "type", "veth", "peer", "up0", "netns", name)
        ip("-n", self._switch, "link", "set", f"p{number}", "master", "sw0", "up")
        ip("-n", name, "address", "add", f"{address(number)}/16", "dev", "up0")
        ip("-n", name, "link", "set", "up0", "up")
        return name

    def let_forward(self, namespace: str) -> None:
        """Let a namespace forward packets."""
        command = ["ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1"]
        subprocess.run(command, check=True)

    def namespace(self, which: str) -> str:
        """Add a namespace that nothing leads to."""
        self._make(name := f"{self._prefix}{which}", [])
        return name

    def start(self, namespace: str, *words: str, environment: Mapping[str, str] | None = None) -> Program:
        """Start a program in a namespace."""
        program = Program(namespace, words, environment or {}, self.directory / f"log{len(self._programs)}")
        self._programs.append(program)
        return program

    def log(self) -> str:
        """Return the ends of what the programs logged."""
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.directory.glob("log*")))

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until it holds; raises `RuntimeError` with the logs when that takes too long."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not {what} after {_DEADLINE_SECONDS:g} s\n{self.log()}")
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """End what was started and remove what was made."""
        for program in self._programs:
            program.end()
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _make(self, name: str, lines: list[str]) -> None:
        ip("netns", "add", name)
        self._namespaces.append(name)
        for line in ["link set lo up", *lines]:
            ip("-n", name, *line.split())


class Program:
    """A program in a namespace; its process is the program itself."""

    def __init__(self, namespace: str, words: tuple[str, ...], environment: Mapping[str, str], log: Path) -> None:
        # `ip netns exec` would also mount /sys anew, which takes its time.
        command = ["nsenter", f"--net=/run/netns/{namespace}", "--", *words]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env={**_plain(), **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used, in all its threads and without its children."""
        return _cpu_seconds(self._process.pid)

    def cpu_seconds_of_children(self) -> float:
        """Return the processor time that those children have used that still run."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return sum(_cpu_seconds(int(child)) for child in children)

    def memory_megabytes(self) -> float:
        """Return how much memory it has."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Ask it to end, and see that it does."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self._process.kill()
        self._process.wait()


class Node:
    """A host with our daemons, as a package would start them."""

    def __init__(self, place: Place, number: int, *, store: Path) -> None:
        self.namespace = place.host(number)
        self._place = place
        self._directory = place.directory / self.namespace
        run = self._directory / "run"
        run.mkdir(parents=True)
        self.cni_socket = run / "cni.sock"
        self.agent_socket = run / "agent.sock"
        self._bgp = ("--socket", str(run / "bgp.sock"), "--state-dir", str(self._directory / "bgp"))
        settings = self._directory / "tortie.toml"
        settings.touch()
        self.environment = {
            "TORTIE_CONFIG": str(settings),
            "TORTIE_SQLITE_PATH": str(store),
            "TORTIE_NODE_NAME": f"node{number}",
            "TORTIE_RUN_DIR": str(run),
            "TORTIE_IPV4_ADDRESS": address(number),
            "TORTIE_IPV6_ADDRESS": "none",
        }

    def start(self) -> Program:
        """Start both daemons and return the agent."""
        self._place.start(self.namespace, str(PROGRAMS / "tortie-bgp"), *self._bgp)
        return self.start_agent()

    def start_agent(self) -> Program:
        """Start the agent, beside the speaker that runs already."""
        return self._place.start(self.namespace, str(PROGRAMS / "tortie-agent"), environment=self.environment)


class Bird:
    """BIRD 2 in a namespace (https://bird.network.cz)."""

    def __init__(self, place: Place, namespace: str, configuration: str) -> None:
        self._place = place
        self._namespace = namespace
        self._control = place.directory / f"{namespace}.ctl"
        self._configuration = place.directory / f"{namespace}.conf"
        self.write(configuration)

    def write(self, configuration: str) -> None:
        """Write what it reads at its start and when it is asked to `configure`."""
        self._configuration.write_text(configuration)

    def start(self) -> Program:
        """Start it without waiting."""
        files = ("-c", str(self._configuration), "-s", str(self._control))
        return self._place.start(self._namespace, "bird", "-f", *files)

    def ask(self, command: str) -> str:
        """Return what it answers to a command of birdc, without the time that starting birdc takes."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(_DEADLINE_SECONDS)
            control.connect(str(self._control))
            _answer(control)
            control.sendall(command.encode() + b"\n")
            return _answer(control)

    def established(self) -> int:
        """Return how many of its sessions are established; none while it does not answer."""
        with suppress(OSError):
            return self.ask("show protocols").count("Established")
        return 0


class RouteCount:
    """How many prefixes the main table of a namespace has; without rules the kernel keeps local addresses there too."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._file = Path("/proc/thread-self/net/fib_triestat").open("rb", buffering=0)  # noqa: SIM115  kept

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def read(self) -> int:
        """Return the count as of now; the kernel counts 10,000 in a fifth of a millisecond."""
        self._file.seek(0)
        main = re.search(rb"Main:.*?Prefixes:\s+(\d+)", self._file.read(65536), re.DOTALL)
        return int(main[1]) if main else 0


@contextmanager
def place() -> Iterator[Place]:
    """Make a place and take everything in it down again."""
    with ExitStack() as stack:
        made = Place()
        stack.callback(made.close)
        yield made


def write_cluster(store: Path, pool: Pool, *, peer: PeerDefinition | None = None, blocks_per_node: int = 20) -> None:
    """Write what operators write: a pool, and a peer of every node, which then form no mesh."""

    async def write() -> None:
        opened = SqliteStore(store)
        rules = IpamConfiguration(max_blocks_per_node=blocks_per_node)
        written = [
            Put(keys.pool(pool.name), encode_pool(pool), None),
            Put(keys.IPAM_CONFIGURATION, encode_configuration(rules), None),
            Put(keys.BGP_CONFIGURATION, encode_bgp_configuration(BgpConfiguration(mesh=peer is None)), None),
        ]
        if peer is not None:
            written.append(Put(keys.peer(peer.name), encode_peer(peer), None))
        try:
            await opened.commit(written)
        finally:
            await opened.close()

    asyncio.run(write())


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have this thread, and what it starts, in a namespace."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


def address(number: int) -> str:
    """Return the address of a host."""
    return f"10.7.{number >> 8}.{number & 255}"


def ip(*words: str) -> None:
    """Run `ip`; raises `RuntimeError` with what it complains of."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _answer(control: socket.socket) -> str:
    """Return one answer of BIRD's control socket: its last line begins with a code and a space."""
    answer = b""
    while not re.search(rb"(?m)^\d{4} [^\n]*\n\Z", answer):
        part = control.recv(65536)
        if not part:
            raise ConnectionError("BIRD closed its control socket")
        answer += part
    return answer.decode()


def _cpu_seconds(process_id: int) -> float:
    """Return the processor time of a process; the kernel keeps it by thread, in nanoseconds."""
    threads = Path(f"/proc/{process_id}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _plain() -> dict[str, str]:
    """Return this process's environment without anything that concerns us."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TORTIE_", "exabgp"))}

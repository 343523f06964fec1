"""A thousand workloads on one host: all are attached, reached from another host, and gone again."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from controller.kernel.namespaces import entered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from controller.lab.lab import Lab

_FEW: Final = 10
_MANY: Final = 1000
_IN_FLIGHT: Final = 20
_SAMPLES: Final = 11
_IN_ORDER: Final = "Check complete; found 0 problems."
_DEADLINE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05
#: Type, code, checksum, identifier, sequence (RFC 792).
_ECHO: Final = struct.Struct("!BBHHH")
_ECHO_REQUEST: Final = 8
_IP_HEADER_BYTES: Final = 20


@pytest.fixture
def containers() -> Iterator[list[str]]:
    """Make a thousand network namespaces."""
    names = [f"tt-{os.getpid()}-many{number}" for number in range(_MANY)]
    batch(f"netns add {name}" for name in names)
    yield names
    batch(f"netns delete {name}" for name in names)


def batch(lines: Iterator[str]) -> None:
    """Run lines of `ip`."""
    subprocess.run(["ip", "-force", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=False)


class Runtime:
    """A container runtime on the first host of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._directory = lab.layout().directory(lab.layout().host("h1")) / "cni"

    def call(self, command: str, containers: list[str]) -> list[str]:
        """Make the call for each, many at a time, and return the addresses that were answered."""
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            return list(pool.map(lambda container: self._call(command, container), containers))

    def _call(self, command: str, container: str) -> str:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self._directory / "bin"),
        }
        with (self._directory / "net.d" / "10-tortie.conf").open("rb") as configuration:
            done = subprocess.run(
                [self._directory / "bin" / "tortie-cni"],
                env=environment,
                stdin=configuration,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stdout
        return "" if command == "DEL" else str(json.loads(done.stdout)["ips"][0]["address"]).partition("/")[0]


def answering(namespace: str, addresses: list[str]) -> set[str]:
    """Return which of the addresses answer an echo request from a namespace, asked until all do or time is over."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        with entered(descriptor):
            asking = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    finally:
        os.close(descriptor)
    request = _ECHO.pack(_ECHO_REQUEST, 0, 0xFFFF ^ (_ECHO_REQUEST << 8), 0, 0)
    silent = set(addresses)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    with asking:
        asking.setblocking(False)
        while silent and time.monotonic() < deadline:
            for address in sorted(silent)[:100]:
                asking.sendto(request, (address, 0))
                silent -= answers(asking)
            select.select([asking], [], [], _LOOK_SECONDS)
            silent -= answers(asking)
    return set(addresses) - silent


def answers(asking: socket.socket) -> set[str]:
    """Return who has answered."""
    found = set()
    with suppress(BlockingIOError):
        while True:
            packet, (address, _) = asking.recvfrom(2048)
            if packet[_IP_HEADER_BYTES] == 0:  # an echo reply
                found.add(address)
    return found


def agent_bytes(namespace: str) -> int:
    """Return how much memory the agent of a host's namespace has."""
    wanted = Path(f"/run/netns/{namespace}").stat()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = (process / "ns/net").stat().st_ino == wanted.st_ino
            if inside and b"tortie-agent" in (process / "cmdline").read_bytes():
                return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ESRCH, errno.EACCES}:
                raise
    pytest.fail(f"no agent runs in {namespace}")


def add_seconds(runtime: Runtime, container: str) -> float:
    """Return how long an ADD of a container alone takes, the median of several; it is attached before and after."""
    found = []
    for _ in range(_SAMPLES):
        runtime.call("DEL", [container])
        begun = time.perf_counter()
        runtime.call("ADD", [container])
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def checked(lab: Lab) -> str:
    """Return what the check of the address management says last."""
    return lab.run("h2", ["tortiectl", "ipam", "check"]).stdout.strip().rpartition("\n")[2]


def test_a_thousand_workloads(
    new_lab: Callable[[], Lab],
    containers: list[str],
    wait_until: Callable[..., None],
    record_property: Callable[[str, object], None],
) -> None:
    """Each has an address of its own that another host reaches; the agent needs hardly more memory than for ten.

    The address management is in order with all of them and without; the run tells how long an ADD takes.
    """
    lab = new_lab()
    lab.up(nodes=2, workloads=1)
    runtime = Runtime(lab)
    here, there = (lab.layout().namespace(name) for name in ("h1", "h2"))
    runtime.call("ADD", containers[:_FEW])
    bytes_with_few, seconds_with_few = agent_bytes(here), add_seconds(runtime, containers[0])
    addresses = runtime.call("ADD", containers)
    assert len(set(addresses)) == _MANY
    assert answering(there, addresses) == set(addresses)
    assert agent_bytes(here) < 1.5 * bytes_with_few
    wait_until(lambda: checked(lab) == _IN_ORDER, "no problem is found with all of them")
    with_many, with_few = (1000 * each for each in (add_seconds(runtime, containers[0]), seconds_with_few))
    record_property(
        "measured", f"an ADD on a host with {_MANY} workloads: {with_many:.1f} ms, with {_FEW}: {with_few:.1f}"
    )
    runtime.call("DEL", containers)
    assert lab.run("h1", ["ip", "-brief", "link", "show", "type", "veth"]).stdout.count("tor") == 1
    wait_until(lambda: checked(lab) == _IN_ORDER, "no problem is found without them")

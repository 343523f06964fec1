"""Hosts in network namespaces on one switch, each with a real `tortie-bgp`, and an agent's view of it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bgp.events import SessionState
from bgp.messages import Desired
from bgp.rib import AdjRibIn
from bgp.topology import Router, mesh_peers
from controller.speaker.client import SidecarSpeaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from bgp.events import SpeakerEvent
    from bgp.peer import Peer
    from bgp.route import Announcement

DEADLINE_SECONDS = 30.0
_numbers = itertools.count(1)


def ip(*words: str) -> None:
    """Run `ip`, and fail with what it says."""
    outcome = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, f"ip {' '.join(words)}: {outcome.stderr}"


class Host:
    """One namespace with an address of each version, and the speaker in it."""

    def __init__(self, switch: str, prefix: str, number: int, directory: Path) -> None:
        self.router = Router(
            name=f"host-{number}",
            as_number=64512,
            ipv4=ipaddress.IPv4Address(f"10.7.0.{number}"),
            ipv6=ipaddress.IPv6Address(f"fd07::{number}"),
        )
        self.namespace = f"{prefix}h{number}"
        self.directory = directory / f"host-{number}"
        self.directory.mkdir()
        self._switch, self._port = switch, f"p{number}"
        self.socket = self.directory / "bgp.sock"
        self.state = self.directory / "state"
        self.process: subprocess.Popen[bytes] | None = None
        self.power_on()

    def power_on(self) -> None:
        """Make the namespace and its link."""
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")
        veth = ("type", "veth", "peer", "name", "up0", "netns", self.namespace)
        ip("link", "add", self._port, "netns", self._switch, *veth)
        ip("-n", self._switch, "link", "set", self._port, "master", "sw0", "up")
        ip("-n", self.namespace, "address", "add", f"{self.router.ipv4}/24", "dev", "up0")
        ip("-n", self.namespace, "address", "add", f"{self.router.ipv6}/64", "dev", "up0", "nodad")
        ip("-n", self.namespace, "link", "set", "up0", "up")

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs these words in the namespace."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def run(self, *words: str) -> None:
        """Run these words in the namespace."""
        subprocess.run(self.command(*words), check=True)

    def start(self) -> None:
        """Start the speaker without waiting."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(
                    *(sys.executable, "-m", "bgp.sidecar.launcher"),
                    *("--socket", str(self.socket), "--state-dir", str(self.state)),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def power_off(self) -> None:
        """Let everything in the namespace end at once, and nobody hear a last word."""
        ip("-n", self._switch, "link", "delete", self._port)
        self.stop(signal.SIGKILL)
        ip("netns", "delete", self.namespace)

    def log(self) -> str:
        """Return what the speaker logged."""
        return (self.directory / "log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send ExaBGP a signal, wait for its end, and return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def sidecar_pids(self) -> list[int]:
        """Return the API processes that ExaBGP has now, zombies included."""
        assert self.process is not None
        return children_of(self.process.pid)

    def waits_in(self) -> str:
        """Return the kernel function ExaBGP waits in."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/wchan").read_text()

    def remove(self) -> None:
        """Stop what runs in the namespace and remove it."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            if self.process.poll() is None:
                self.stop(signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)


class Agent:
    """What an agent does with the speaker: it says what it wants, and keeps what it hears."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.speaker = SidecarSpeaker(host.socket)
        self.rib = AdjRibIn()
        self.events: list[tuple[float, SpeakerEvent]] = []
        self._desired = Desired()
        self._task: asyncio.Task[None] | None = None

    async def want(self, peers: Iterable[Peer], announcements: Iterable[Announcement] = ()) -> None:
        """Tell the speaker the whole desired state."""
        self._desired = Desired(tuple(peers), tuple(announcements))
        self.rib.configure(self._desired.peers, time.monotonic())
        await self.speaker.set(self._desired.peers, self._desired.announcements)

    def connect(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen())

    async def disconnect(self) -> None:
        """Stop listening."""
        await self.speaker.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def established(self) -> set[str]:
        """Return the addresses of the peers with an established session."""
        return {str(session.peer) for session in self.speaker.sessions if session.state is SessionState.ESTABLISHED}

    def learned(self) -> set[str]:
        """Return every prefix known, stale or not."""
        return {str(prefix) for prefix in self.rib.routes()}

    def kinds(self) -> list[str]:
        """Return the kinds of the events heard, in order."""
        return [type(event).__name__ for _, event in self.events]

    async def until(self, condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until the condition holds, checking it often."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (
                f"{self.host.router.name}: not {what} in {seconds} s\n{self.host.log()[-3000:]}"
            )
            await asyncio.sleep(0.005)

    async def _listen(self) -> None:
        async with contextlib.aclosing(self.speaker.events()) as events:
            async for event in events:
                self.events.append((time.monotonic(), event))
                self.rib.feed(event, time.monotonic())


class Network:
    """Makes hosts on one switch, and agents for them."""

    def __init__(self, prefix: str, directory: Path) -> None:
        self._prefix = prefix
        self._directory = directory
        self._switch = f"{prefix}sw"
        self.hosts: list[Host] = []
        self.agents: list[Agent] = []
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "sw0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "sw0", "up")

    def host(self) -> Host:
        """Add a host, without starting its speaker."""
        host = Host(self._switch, self._prefix, len(self.hosts) + 1, self._directory)
        self.hosts.append(host)
        return host

    def agent(self, host: Host) -> Agent:
        """Add an agent that listens to the host's speaker."""
        agent = Agent(host)
        agent.connect()
        self.agents.append(agent)
        return agent

    def peers(self, host: Host, *others: Host) -> tuple[Peer, ...]:
        """Return the mesh sessions of a host with others."""
        return mesh_peers(host.router, [other.router for other in others])

    def close(self) -> None:
        """Remove every host and the switch."""
        for host in self.hosts:
            host.remove()
        subprocess.run(["ip", "netns", "delete", self._switch], capture_output=True, check=False)


def children_of(parent: int) -> list[int]:
    """Return the processes whose parent this is, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    """Make a switch to put hosts on."""
    network = Network(f"tb{os.getpid()}n{next(_numbers)}", tmp_path)
    try:
        yield network
    finally:
        for agent in network.agents:
            await agent.disconnect()
        network.close()

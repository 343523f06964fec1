"""A host in a namespace, its workload in another, with a real agent and speaker, and an ear at the speaker's socket."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bgp.events import EndOfRib, RoutesChanged, SpeakerLost, SpeakerSnapshot
from controller.agent_client import agent_status
from controller.errors import AgentUnavailable
from controller.speaker.client import SidecarSpeaker

if TYPE_CHECKING:
    from bgp.address import IPAddress, IPNetwork
    from bgp.events import SpeakerEvent
    from bgp.route import LearnedRoute
    from controller.agent_client import AgentStatus

_PROGRAMS: Final = Path(sys.executable).parent


def ip(*words: str) -> str:
    """Run `ip`, return what it says, and fail with what it complains of."""
    outcome = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, f"ip {' '.join(words)}: {outcome.stderr}"
    return outcome.stdout


@dataclass(frozen=True, slots=True)
class Link:
    """Both ends of a host's way to the router, IPv4 first."""

    host: tuple[IPAddress, IPAddress]
    router: tuple[IPAddress, IPAddress]


class Host:
    """A host's namespace, its workload's, and the programs in it."""

    def __init__(self, number: int, prefix: str, directory: Path, addresses: Link, as_number: int) -> None:
        self.name = f"host{number}"
        self.namespace = f"{prefix}h{number}"
        self.workload = f"{prefix}w{number}"
        self.link = addresses
        self.workload_addresses: tuple[IPAddress, ...] = ()
        self._directory = directory / self.name
        self._run = self._directory / "run"
        self._run.mkdir(parents=True)
        settings = self._directory / "tortie.toml"
        settings.touch()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TORTIE_")},
            "TORTIE_CONFIG": str(settings),
            "TORTIE_STORE": "sqlite",
            "TORTIE_SQLITE_PATH": str(directory / "store.db"),
            "TORTIE_NODE_NAME": self.name,
            "TORTIE_RUN_DIR": str(self._run),
            "TORTIE_AS_NUMBER": str(as_number),
            "TORTIE_IPV4_ADDRESS": str(addresses.host[0]),
            "TORTIE_IPV6_ADDRESS": str(addresses.host[1]),
            "TORTIE_HOLD_TIME_SECONDS": "9",
            "TORTIE_RESTART_TIME_SECONDS": "60",
        }
        self.observer = Observer(self._run / "bgp.sock")
        self._agent: subprocess.Popen[bytes] | None = None
        self._speaker: subprocess.Popen[bytes] | None = None

    def start_agent(self) -> None:
        """Start the agent without waiting."""
        self._agent = self._start("agent", str(_PROGRAMS / "tortie-agent"))

    def start_speaker(self) -> None:
        """Start the speaker without waiting."""
        paths = ["--socket", str(self._run / "bgp.sock"), "--state-dir", str(self._directory / "bgp")]
        self._speaker = self._start("bgp", str(_PROGRAMS / "tortie-bgp"), *paths)

    def kill_speaker(self) -> None:
        """End the speaker as a crash would."""
        assert self._speaker is not None
        self._speaker.kill()
        self._speaker.wait()

    def status(self) -> AgentStatus | None:
        """Return what the agent says of itself, None while it does not answer."""
        try:
            return agent_status(self._run / "agent.sock")
        except AgentUnavailable:
            return None

    def desired(self) -> str:
        """Return what the speaker is to do, as it keeps it for its next start."""
        return (self._directory / "bgp" / "desired.jsonl").read_text()

    def is_ready(self) -> bool:
        """Say whether a workload could be wired now."""
        status = self.status()
        return status is not None and status.ready

    def established(self) -> set[str]:
        """Return the addresses of the peers with an established session."""
        status = self.status()
        return set() if status is None else {each.address for each in status.sessions if each.established}

    def routes(self, prefix: IPNetwork) -> set[IPAddress]:
        """Return the gateways of this prefix among the kernel's routes of ours."""
        answer = ip("-n", self.namespace, f"-{prefix.version}", "route", "show", "exact", str(prefix), "proto", "116")
        return {ipaddress.ip_address(word) for word in re.findall(r"via (\S+)", answer)}

    def blocks(self) -> tuple[IPNetwork, ...]:
        """Return the blocks the host owns, IPv4 first."""
        words = [
            line.split()[1]
            for version in (4, 6)
            for line in ip("-n", self.namespace, f"-{version}", "route", "show", "type", "blackhole").splitlines()
        ]
        return tuple(ipaddress.ip_network(word) for word in words)

    def wire(self) -> None:
        """Give the workload its addresses, through the CNI plugin."""
        configuration = {
            "cniVersion": "1.0.0",
            "name": "tortie",
            "type": "tortie-cni",
            "agent_socket": str(self._run / "cni.sock"),
            "ipam": {"type": "tortie", "ipv4": True, "ipv6": True},
        }
        variables = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": self.workload,
            "CNI_NETNS": f"/run/netns/{self.workload}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(_PROGRAMS),
        }
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, str(_PROGRAMS / "tortie-cni-py")],
            env={**self._environment, **variables},
            input=json.dumps(configuration),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        addresses = [each["address"].partition("/")[0] for each in json.loads(done.stdout)["ips"]]
        found = map(ipaddress.ip_address, addresses)
        self.workload_addresses = tuple(sorted(found, key=lambda address: address.version))

    def log(self) -> str:
        """Return the end of what the programs logged."""
        return "".join(path.read_text(errors="replace")[-2000:] for path in self._directory.glob("*.log"))

    async def remove(self) -> None:
        """End the programs."""
        await self.observer.close()
        for process in (self._agent, self._speaker):
            if process is not None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait()

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


class Observer:
    """Listens to a host's speaker beside its agent: what was learned on which session, and whether that is all."""

    def __init__(self, socket: Path) -> None:
        self.routes: dict[tuple[IPAddress, IPNetwork], LearnedRoute] = {}
        self.ended: set[tuple[IPAddress, int]] = set()
        self._speaker = SidecarSpeaker(socket)
        self._task = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        await self._speaker.close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._speaker.events()) as events:
            async for event in events:
                self._take(event)

    def _take(self, event: SpeakerEvent) -> None:
        if isinstance(event, SpeakerSnapshot):
            self.ended = set(event.ended)
            self.routes = {(route.peer, route.prefix): route for row in event.rows for route in row}
        elif isinstance(event, SpeakerLost):
            self.ended, self.routes = set(), {}
        elif isinstance(event, EndOfRib):
            self.ended.add((event.peer, event.version))
        elif isinstance(event, RoutesChanged):
            for prefix in event.withdrawn:
                self.routes.pop((event.peer, prefix), None)
            self.routes.update({(event.peer, route.prefix): route for row in event.announced for route in row})
        else:
            self.ended = {(peer, version) for peer, version in self.ended if peer != event.peer}
            self.routes = {key: route for key, route in self.routes.items() if key[0] != event.peer}

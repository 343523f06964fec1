"""The router programs people run, each configured as route reflector or as top-of-rack switch of some hosts.

An adapter writes one configuration, starts and ends its program, and tells what the program knows of a prefix.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bgp.address import IPAddress, IPNetwork

_DEADLINE_SECONDS: Final = 30.0
_FAMILY: Final = {4: "ipv4", 6: "ipv6"}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A session as the router is to be configured with it."""

    address: IPAddress
    as_number: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a router is to be: a reflector of neighbours of its own AS, or a router of their fabric."""

    as_number: int
    router_id: str
    reflector: bool
    neighbours: tuple[Neighbour, ...]
    password: str
    hold_seconds: int = 9
    restart_seconds: int = 60


class RouterProgram(ABC):
    """One program in a namespace; its files are in a directory of its own."""

    #: Whether it puts what it learns into the kernel of its namespace.
    programs_kernel = True

    def __init__(self, namespace: str, plan: Plan) -> None:
        self._namespace = namespace
        # Not in pytest's directory: FRR runs as a user that may not enter it.
        self._directory = Path(tempfile.mkdtemp(prefix=f"{namespace}-"))
        self._plan = plan
        self._processes: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def start(self, *, restarted: bool = False) -> None:
        """Start it; `restarted` says that its routes in the kernel and at its neighbours are still good."""

    @abstractmethod
    def kill(self) -> None:
        """End the BGP program as a crash would."""

    @abstractmethod
    def next_hops(self, prefix: IPNetwork) -> set[IPAddress]:
        """Return the next hops of all routes it has for a prefix."""

    def remove(self) -> None:
        """End everything it started."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            process.kill()
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def log(self) -> str:
        """Return the end of what it logged."""
        return "".join(path.read_text(errors="replace")[-1500:] for path in self._directory.glob("*.log"))

    def ask(self, *words: str) -> str:
        """Return what a command answers in the namespace."""
        command = ["ip", "netns", "exec", self._namespace, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout

    def _run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._namespace, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._processes.remove(process)


class Bird(RouterProgram):
    """BIRD 2 (https://bird.network.cz, user's guide, chapter 6.3)."""

    def start(self, *, restarted: bool = False) -> None:
        """Start it, with -R where its neighbours hold its routes for it."""
        path = self._directory / "bird.conf"
        path.write_text(self._configuration())
        recover = ["-R"] if restarted else []
        self._daemon = self._run("bird", "bird", "-f", *recover, "-c", str(path), "-s", str(self._control))

    def kill(self) -> None:
        """End it; the kernel keeps its routes."""
        self._end(self._daemon)

    def next_hops(self, prefix: IPNetwork) -> set[IPAddress]:
        """Return the next hops of all routes it has for a prefix."""
        answer = self.ask("birdc", "-s", str(self._control), "show", "route", str(prefix), "all")
        return {ipaddress.ip_address(word) for word in re.findall(r"BGP.next_hop: (\S+)", answer)}

    @property
    def _control(self) -> Path:
        return self._directory / "bird.ctl"

    def _configuration(self) -> str:
        plan = self._plan
        kernels = [
            f"protocol kernel {{ persist; graceful restart; {family} {{ import none; export {what}; }}; }}"
            for family in _FAMILY.values()
            for what in ["none" if plan.reflector else "all"]
        ]
        sessions = [self._session(number, each) for number, each in enumerate(plan.neighbours)]
        return "\n".join([f"router id {plan.router_id};", "protocol device { }", *kernels, *sessions])

    def _session(self, number: int, neighbour: Neighbour) -> str:
        plan = self._plan
        reflecting = "rr client;" if plan.reflector else ""
        return f"""protocol bgp session{number} {{
  local as {plan.as_number};
  neighbor {neighbour.address} as {neighbour.as_number};
  password "{plan.password}";
  hold time {plan.hold_seconds};
  connect delay time 1;
  error wait time 1, 2;
  graceful restart on;
  graceful restart time {plan.restart_seconds};
  {reflecting}
  ipv4 {{ import all; export where source = RTS_BGP; }};
  ipv6 {{ import all; export where source = RTS_BGP; }};
}}"""


class Frr(RouterProgram):
    """FRR: bgpd, and zebra, which programs the kernel (https://docs.frrouting.org, "BGP" and "Zebra")."""

    def start(self, *, restarted: bool = False) -> None:  # noqa: ARG002  zebra finds out by itself
        """Start zebra, which takes over the routes of ours that it finds in the kernel, and bgpd."""
        path = self._directory / "bgpd.conf"
        path.write_text(self._configuration())
        shutil.chown(self._directory, "frr", "frr")
        socket = self._directory / "zserv"
        socket.unlink(missing_ok=True)
        # Without v6-rr-semantics zebra replaces an IPv6 route by deleting the old one first.
        kept = ["--v6-rr-semantics", "-K", str(self._plan.restart_seconds)]
        self._zebra = self._run("zebra", "/usr/lib/frr/zebra", *self._options("zebra"), *kept, "-f", "/dev/null")
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not socket.exists():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.01)
        self._bgpd = self._run("bgpd", "/usr/lib/frr/bgpd", *self._options("bgpd"), "-f", str(path))

    def kill(self) -> None:
        """End zebra and bgpd; the kernel keeps their routes.

        If zebra stayed, it would sweep what bgpd left as soon as bgpd has heard the first of its neighbours again.
        """
        self._end(self._zebra)
        self._end(self._bgpd)

    def next_hops(self, prefix: IPNetwork) -> set[IPAddress]:
        """Return the next hops of all routes it has for a prefix."""
        question = f"show bgp {_FAMILY[prefix.version]} unicast {prefix} json"
        answer = self.ask("vtysh", "--vty_socket", str(self._directory), "-d", "bgpd", "-c", question)
        try:
            paths = json.loads(answer).get("paths", [])
        except json.JSONDecodeError:
            return set()
        return {ipaddress.ip_address(hop["ip"]) for path in paths for hop in path["nexthops"] if "ip" in hop}

    def _options(self, daemon: str) -> Sequence[str]:
        directory = self._directory
        sockets = ["--vty_socket", str(directory), "-z", str(directory / "zserv"), "-P", "0"]
        return ["-i", str(directory / f"{daemon}.pid"), "--log", "stdout", *sockets]

    def _configuration(self) -> str:
        plan = self._plan
        lines = [
            f"router bgp {plan.as_number}",
            f" bgp router-id {plan.router_id}",
            " no bgp ebgp-requires-policy",
            " no bgp network import-check",
            " bgp graceful-restart",
            " bgp graceful-restart preserve-fw-state",
            f" bgp graceful-restart restart-time {plan.restart_seconds}",
            # Or it decides, and ends its RIB, when the first of its neighbours is back.
            f" update-delay {plan.restart_seconds}",
        ]
        for each in plan.neighbours:
            lines += [
                f" neighbor {each.address} remote-as {each.as_number}",
                f" neighbor {each.address} password {plan.password}",
                f" neighbor {each.address} timers {plan.hold_seconds // 3} {plan.hold_seconds}",
                f" neighbor {each.address} timers connect 1",
            ]
        for family in _FAMILY.values():
            lines.append(f" address-family {family} unicast")
            for each in plan.neighbours:
                lines.append(f"  neighbor {each.address} activate")
                lines += [f"  neighbor {each.address} route-reflector-client"] * plan.reflector
            lines.append(" exit-address-family")
        return "\n".join([*lines, ""])


class GoBgp(RouterProgram):
    """GoBGP, which leaves the kernel alone (https://github.com/osrg/gobgp, docs/sources/configuration.md)."""

    programs_kernel = False

    def start(self, *, restarted: bool = False) -> None:
        """Start it, with -r where its neighbours hold its routes for it."""
        path = self._directory / "gobgpd.json"
        path.write_text(json.dumps(self._configuration()))
        recover = ["-r"] if restarted else []
        options = ["-t", "json", "-p", "--pprof-disable", "--api-hosts", "127.0.0.1:50051"]
        self._daemon = self._run("gobgpd", "gobgpd", "-f", str(path), *options, *recover)

    def kill(self) -> None:
        """End it."""
        self._end(self._daemon)

    def next_hops(self, prefix: IPNetwork) -> set[IPAddress]:
        """Return the next hops of all routes it has for a prefix."""
        answer = self.ask("gobgp", "-j", "global", "rib", "-a", _FAMILY[prefix.version], str(prefix))
        try:
            known = json.loads(answer)
        except json.JSONDecodeError:
            return set()
        paths = [path for paths in known.values() for path in paths]
        found = [attribute["nexthop"] for path in paths for attribute in path["attrs"] if "nexthop" in attribute]
        return {ipaddress.ip_address(text) for text in found}

    def _configuration(self) -> dict[str, object]:
        plan = self._plan
        return {
            "global": {"config": {"as": plan.as_number, "router-id": plan.router_id}},
            "neighbors": [self._session(each) for each in plan.neighbours],
        }

    def _session(self, neighbour: Neighbour) -> dict[str, object]:
        plan = self._plan
        session: dict[str, object] = {
            "config": {
                "neighbor-address": str(neighbour.address),
                "peer-as": neighbour.as_number,
                "auth-password": plan.password,
            },
            "timers": {"config": {"hold-time": plan.hold_seconds, "keepalive-interval": plan.hold_seconds // 3}},
            "transport": {"config": {"passive-mode": True}},
            "graceful-restart": {"config": {"enabled": True, "restart-time": plan.restart_seconds}},
            "afi-safis": [
                {
                    "config": {"afi-safi-name": f"{family}-unicast"},
                    "mp-graceful-restart": {"config": {"enabled": True}},
                }
                # With both families on a session, routes of one would have a next hop of the other.
                for version, family in _FAMILY.items()
                if plan.reflector or version == neighbour.address.version
            ],
        }
        if plan.reflector:
            session["route-reflector"] = {
                "config": {"route-reflector-client": True, "route-reflector-cluster-id": plan.router_id}
            }
        return session

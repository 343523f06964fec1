"""A speaker whose peers are changed a hundred times while a thousand announcements a second flow through it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import ipaddress
import itertools
import random
import re
import signal
import statistics
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from bgp.advertisement import outbound
from bgp.events import SessionDown
from bgp.exabgp_config import fingerprint
from bgp.filter import Action, Rule
from bgp.peer import Peer
from bgp.route import Announcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.conftest import Agent, Host, Network

HEAD = """
router id 10.7.0.2;
timeformat protocol iso long us;
protocol device {}
"""
PROTOCOL = """
protocol bgp NAME {
  local THEIRS as THEIR_AS;
  neighbor OURS as 64512;
  hold time 240; graceful restart on;
  connect delay time 1; error wait time 1, 2;
  OPTIONS
  ipv4 { import all; export none; };
}
"""
#: Sessions that stand the whole time, each of another kind: what is different with us, what BIRD is told.
STANDING: dict[str, tuple[dict[str, Any], str]] = {
    "s_called": ({}, ""),
    "s_calling": ({}, "passive on;"),
    "s_external": ({"peer_as": 65001, "ttl_security_hops": 1}, "direct; ttl security yes;"),
    "s_password": ({"password": "standing"}, 'password "standing"; passive on;'),
}
#: Peers that come, change and go; every second one is called by us.
CHANGING = tuple(f"c_{number}" for number in range(12))
ROUNDS, CHANGES_A_ROUND = 10, 10
#: How long is waited for a change to take effect. What is promised is 10 s; how long it took is printed (`-rP`).
DEADLINE_SECONDS = 60.0
TICK_SECONDS, ANNOUNCED_A_TICK = 0.1, 100
#: So many announcements may be on their way to a standing peer before new ones wait.
BACKLOG = 300
#: How many announcements are kept once they are known to have arrived.
KEPT = 500
NEXT_HOP = ipaddress.ip_address("10.7.0.1")
STEADY = tuple(Announcement(network, NEXT_HOP) for network in ipaddress.ip_network("10.20.0.0/24").subnets(2))
FILTERS: tuple[tuple[Rule, ...], ...] = ((), (Rule(Action.REJECT, cidr=STEADY[0].prefix),))
PASSWORDS = (None, "first", "second")
HOLD_TIMES = (30, 60, 90)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What BIRD shows of a protocol."""

    established: bool
    since: float = 0.0
    hold_seconds: int = 0
    received: int = 0


class Bird:
    """BIRD in a host's namespace."""

    def __init__(self, host: Host) -> None:
        self._control = host.directory / "bird.ctl"
        self._path = host.directory / "bird.conf"
        self._command = host.command("bird", "-f", "-c", str(self._path), "-s", str(self._control))
        self._log = (host.directory / "bird.log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def load(self, text: str) -> None:
        """Start with this configuration, or change to it; protocols that are the same go on."""
        self._path.write_text(text)
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
            )
        else:
            assert "Reconfig" in self._ask("configure")

    def protocols(self) -> dict[str, Seen]:
        """Return what is seen of each BGP protocol."""
        found: dict[str, Seen] = {}
        for block in self._ask("show", "protocols", "all").split("\n\n"):
            words = block.split()
            if "BGP" not in words[1:2]:
                continue
            lines = {line.partition(":")[0].strip(): line.partition(":")[2].split() for line in block.splitlines()}
            found[words[0]] = Seen(
                established=lines["BGP state"] == ["Established"],
                since=dt.datetime.fromisoformat(" ".join(words[4:6])).timestamp(),
                hold_seconds=int(lines["Hold timer"][0].partition("/")[2]) if "Hold timer" in lines else 0,
                received=int(lines["Import updates"][0]) if "Import updates" in lines else 0,
            )
        return found

    def routes(self, *where: str) -> dict[str, set[str]]:
        """Return the prefixes known from each protocol."""
        found: dict[str, set[str]] = {}
        prefix = ""
        for line in self._ask("show", "route", *where).splitlines():
            # The next hop need not be reachable: nothing is sent there.
            if route := re.match(r"(\S*)\s+(?:unicast|unreachable) \[(\S+)", line):
                prefix = route[1] or prefix
                found.setdefault(route[2], set()).add(prefix)
        return found

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=30)
        self._log.close()

    def _ask(self, *words: str) -> str:
        command = ["birdc", "-s", str(self._control), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def birds() -> Iterator[list[Bird]]:
    """Collect the BIRDs a test starts, and stop them at its end."""
    started: list[Bird] = []
    yield started
    for bird in started:
        bird.stop()


class Flow:
    """Announces new prefixes without a pause, each exactly once, and withdraws them once all standing peers have them.

    It goes at 1,000 a second, or as fast as a busy machine can: what is more only piles up where nobody looks.

    `peers` is what is wanted by name; whoever changes it calls `tell`.
    """

    def __init__(self, agent: Agent, bird: Bird) -> None:
        self._agent = agent
        self._bird = bird
        self._fresh = (
            Announcement(ipaddress.ip_network((int(ipaddress.ip_address("10.64.0.0")) + 64 * number, 26)), NEXT_HOP)
            for number in itertools.count()
        )
        self.peers: dict[str, Peer] = {}
        self.announced = len(STEADY)
        self.current = list(STEADY)

    async def tell(self) -> None:
        """Want what is wanted now."""
        await self._agent.want(self.peers.values(), self.current)

    async def run(self) -> None:
        """Go on until cancelled."""
        due = time.monotonic()
        while True:
            self.current += itertools.islice(self._fresh, ANNOUNCED_A_TICK)
            self.announced += ANNOUNCED_A_TICK
            arrived = self.arrived()
            del self.current[len(STEADY) : len(STEADY) + max(0, len(self.current) - KEPT - self.announced + arrived)]
            await self.tell()
            due += TICK_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            while self.announced - self.arrived() > BACKLOG:
                await asyncio.sleep(TICK_SECONDS)
                due = time.monotonic()

    def arrived(self) -> int:
        """Return how many announcements every standing peer has heard."""
        seen = self._bird.protocols()
        return min(seen.get(name, Seen(established=False)).received for name in STANDING)


class Changes:
    """The changing peers: what they are to be, and whether they are."""

    def __init__(self, ours: Host, theirs: Host, bird: Bird, flow: Flow) -> None:
        self._bird = bird
        self._flow = flow
        self._state = ours.state
        self._random = random.Random(4271)  # noqa: S311 - a test that can be repeated
        self._peers: dict[str, tuple[Peer, str]] = {}
        for number, name in enumerate((*STANDING, *CHANGING), start=20):
            here, there = f"10.7.0.{number}", f"10.7.0.{number + 100}"
            for host, address in ((ours, here), (theirs, there)):
                host.run("ip", "address", "add", f"{address}/24", "dev", "up0")
            calling = "passive on;" if number % 2 else ""
            different, options = STANDING.get(name, ({}, calling))
            base = Peer(ipaddress.ip_address(there), ipaddress.ip_address(here), 64512, 64512, "10.7.0.1")
            self._peers[name] = (
                dataclasses.replace(base, passive="passive on" not in options, **different),
                options,
            )
        self._began: dict[str, float] = {}
        self.kinds: list[str] = []
        self.took_seconds: list[float] = []

    async def start(self) -> None:
        """Begin with the standing peers alone."""
        self._flow.peers = {name: self._peers[name][0] for name in STANDING}
        self._bird.load(self._configuration())
        await self._flow.tell()

    async def change(self, name: str) -> None:
        """Add the peer if it is not there; otherwise change one thing of it or remove it."""
        peer = self._flow.peers.get(name)
        kind = "add" if peer is None else self._random.choice(("remove", "hold time", "password", "filter"))
        self.kinds.append(kind)
        self._began[name] = time.monotonic()
        if peer is None:
            peer = self._vary(self._vary(self._vary(self._peers[name][0], "hold time"), "password"), "filter")
        else:
            peer = self._vary(peer, kind)
        self._peers[name] = (peer, self._peers[name][1])
        if kind == "remove":
            del self._flow.peers[name]
        else:
            self._flow.peers[name] = peer
        if kind in ("add", "password"):
            self._bird.load(self._configuration())
        await self._flow.tell()

    async def watch(self) -> None:
        """Note when each change takes effect, until cancelled; fail if one of them does not."""
        while True:
            await asyncio.sleep(0.1)  # BIRD is not to be kept busy by being asked
            different, now = self._not_in_effect(), time.monotonic()
            for name, began in list(self._began.items()):
                if name not in different:
                    self.took_seconds.append(now - began)
                    del self._began[name]
                else:
                    assert now < began + DEADLINE_SECONDS, different[name]

    def under_way(self) -> bool:
        """Say whether any change is not in effect yet."""
        return bool(self._began)

    def _not_in_effect(self) -> dict[str, str]:
        """Return what is not yet as it is to be: by what is loaded, and by what the real other side sees."""
        seen, steady = self._bird.protocols(), self._bird.routes("where", "net", "~", "[10.20.0.0/24+]")
        loaded = (self._state / "exabgp.conf").read_text()
        found = {}
        for name in CHANGING:
            peer = self._flow.peers.get(name)
            if peer is None:
                is_right = not seen[name].established and f"neighbor {self._peers[name][0].address} {{" not in loaded
            else:
                is_right = (
                    seen[name].established
                    and seen[name].hold_seconds == peer.hold_time_seconds
                    and steady.get(name, set()) == told(peer, STEADY)
                    and fingerprint(peer) in loaded
                )
            if not is_right:
                found[name] = f"{name}: {seen[name]}, {steady.get(name)}, not {peer}"
        return found

    def _vary(self, peer: Peer, kind: str) -> Peer:
        if kind == "hold time":
            others = [each for each in HOLD_TIMES if each != peer.hold_time_seconds]
            return dataclasses.replace(peer, hold_time_seconds=self._random.choice(others))
        if kind == "password":
            keys = [each for each in PASSWORDS if each != peer.password]
            return dataclasses.replace(peer, password=self._random.choice(keys))
        if kind == "filter":
            (rules,) = (each for each in FILTERS if each != peer.export_rules)
            return dataclasses.replace(peer, export_rules=rules)
        return peer

    def _configuration(self) -> str:
        text = HEAD
        for name, (peer, options) in self._peers.items():
            password = f'password "{peer.password}";' if peer.password and name not in STANDING else ""
            text += (
                PROTOCOL.replace("NAME", name)
                .replace("THEIRS", str(peer.address))
                .replace("OURS", str(peer.local_address))
                .replace("THEIR_AS", str(peer.peer_as))
                .replace("OPTIONS", options + password)
            )
        return text


def told(peer: Peer, announcements: tuple[Announcement, ...] | list[Announcement]) -> set[str]:
    """Return the prefixes that the peer is to be told."""
    return {str(each.prefix) for each in announcements if outbound(each, peer) is not None}


async def test_a_hundred_changes_of_peers_disturb_no_other_session_and_lose_no_announcement(
    network: Network, birds: list[Bird]
) -> None:
    """Each takes effect, standing sessions hear every announcement once, and all ends as desired."""
    ours, theirs = network.host(), network.host()
    ours.start()
    agent = network.agent(ours)
    bird = Bird(theirs)
    birds.append(bird)
    flow = Flow(agent, bird)
    changes = Changes(ours, theirs, bird, flow)
    await changes.start()
    await agent.until(lambda: flow.arrived() == len(STEADY), "heard by all that stand")
    standing = {name: bird.protocols()[name].since for name in STANDING}
    began_flowing = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(work) for work in (flow.run(), changes.watch())]
        for number in range(ROUNDS):
            for offset in range(CHANGES_A_ROUND):
                await changes.change(CHANGING[(CHANGES_A_ROUND * number + offset) % len(CHANGING)])
                before = flow.announced
                await agent.until(lambda before=before: flow.announced > before, "flowing")  # type: ignore[misc]  # mypy cannot type a default
            await agent.until(lambda: not changes.under_way(), "in effect", seconds=2 * DEADLINE_SECONDS)
        for task in beside:
            task.cancel()
    flowed_seconds = time.monotonic() - began_flowing
    took = changes.took_seconds
    print(  # noqa: T201  for people
        f"{len(took)} changes in effect after {statistics.median(took):.1f} s (median), {max(took):.1f} s (slowest); "
        f"{flow.announced / flowed_seconds:.0f} announcements a second meanwhile"
    )
    assert len(took) == ROUNDS * CHANGES_A_ROUND
    assert set(changes.kinds) == {"add", "remove", "hold time", "password", "filter"}
    assert len(changes.kinds) == ROUNDS * CHANGES_A_ROUND
    await flow.tell()
    wanted = {name: told(peer, flow.current) for name, peer in flow.peers.items()}
    await agent.until(lambda: bird.routes() == wanted, "told everything that is desired, and nothing else")
    seen = bird.protocols()
    # BIRD works the time out anew each time it is asked.
    assert max(abs(seen[name].since - standing[name]) for name in STANDING) < 1.0
    assert {name: seen[name].received for name in STANDING} == dict.fromkeys(STANDING, flow.announced)
    stood = {flow.peers[name].address for name in STANDING}
    assert not [event for _, event in agent.events if isinstance(event, SessionDown) and event.peer in stood]

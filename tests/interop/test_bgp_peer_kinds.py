"""Every kind of peer that can be configured, with BIRD 2 at the other end: it comes up, and routes go both ways."""

from __future__ import annotations

import dataclasses
import ipaddress
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from bgp.advertisement import announcements
from bgp.events import SessionUp
from bgp.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.conftest import Agent, Host, Network

HEAD = """
log stderr all;
debug protocols { events, states };
router id 10.7.0.2;
protocol device {}
protocol static { ipv4; route 10.60.0.0/24 blackhole; }
protocol static { ipv6; route fd60::/64 blackhole; }
"""
PROTOCOL = """
protocol bgp NAME {
  local THEIRS as THEIR_AS;
  neighbor OURS as OUR_AS;
  graceful restart on;
  connect delay time 1; error wait time 1, 2;
  OPTIONS
  ipv4 { import keep filtered; import all; export where source = RTS_STATIC; next hop address 10.7.0.2; };
  ipv6 { import all; export where source = RTS_STATIC; next hop address fd07::2; };
}
"""
SECRET = "correct horse"
#: By name: what is different with us, what BIRD is told.
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "ibgp": ({}, ""),
    "ibgp_active": ({}, "passive on;"),
    "ebgp": ({"peer_as": 65001}, "direct;"),
    "ebgp_active": ({"peer_as": 65001}, "direct; passive on;"),
    "ebgp_multihop": ({"peer_as": 4200000001}, "multihop 3;"),
    "other_as": ({"local_as": 65002, "peer_as": 65001}, "multihop 3; passive on;"),
    "gtsm": ({"peer_as": 65001, "ttl_security_hops": 1}, "direct; ttl security yes;"),
    "gtsm_active": ({"peer_as": 65001, "ttl_security_hops": 1}, "direct; ttl security yes; passive on;"),
    "gtsm_ibgp": ({"ttl_security_hops": 1}, "direct; ttl security yes;"),
    "gtsm_multihop": ({"peer_as": 65001, "ttl_security_hops": 3}, "multihop 3; ttl security yes;"),
    "md5": ({"password": SECRET}, f'password "{SECRET}";'),
    "md5_active": ({"password": SECRET}, f'password "{SECRET}"; passive on;'),
    "md5_gtsm": (
        {"password": SECRET, "ttl_security_hops": 1, "peer_as": 65001},
        f'password "{SECRET}"; direct; ttl security yes;',
    ),
    "short_hold": ({"hold_time_seconds": 3}, "hold time 240;"),
}


class Bird:
    """BIRD in a host's namespace, with one protocol for each peer."""

    def __init__(self, host: Host, configuration: str) -> None:
        self._host = host
        self._control = host.directory / "bird.ctl"
        path = host.directory / "bird.conf"
        path.write_text(configuration)
        command = host.command("bird", "-f", "-c", str(path), "-s", str(self._control))
        with (host.directory / "bird.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(self, *words: str) -> str:
        """Return what birdc answers."""
        command = ["birdc", "-s", str(self._control), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def up(self) -> set[str]:
        """Return the protocols that are established."""
        rows = [line.split() for line in self.ask("show", "protocols").splitlines()]
        return {row[0].removeprefix("to_") for row in rows if len(row) > 5 and row[5] == "Established"}

    def knows(self, prefix: str) -> set[str]:
        """Return the protocols that have brought the prefix."""
        answer = self.ask("show", "route", "all", prefix)
        return {line.partition("[to_")[2].split()[0] for line in answer.splitlines() if "[to_" in line}

    def stop(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=30)


@pytest.fixture
def birds() -> Iterator[list[Bird]]:
    """Collect the BIRDs a test starts, and stop them at its end."""
    started: list[Bird] = []
    yield started
    for bird in started:
        bird.stop()


def made(ours: Host, theirs: Host, version: int) -> tuple[list[Peer], str]:
    """Return a peer of each kind and BIRD's protocols for them; each has an address of its own at both ends."""
    pattern = "10.7.0.{}" if version == 4 else "fd07::{}"
    length = 24 if version == 4 else 64
    peers, protocols = [], []
    for number, (name, (different, options)) in enumerate(KINDS.items(), start=20):
        here, there = pattern.format(number), pattern.format(number + 100)
        for host, address in ((ours, here), (theirs, there)):
            host.run("ip", "address", "add", f"{address}/{length}", "dev", "up0", *(["nodad"] if version == 6 else []))
        peer = Peer(
            ipaddress.ip_address(there), ipaddress.ip_address(here), 64512, 64512, "10.7.0.1", hold_time_seconds=9
        )
        peer = dataclasses.replace(peer, passive="passive on" not in options, **different)
        peers.append(peer)
        text = PROTOCOL.replace("NAME", f"to_{name}").replace("THEIRS", there).replace("OURS", here)
        text = text.replace("THEIR_AS", str(peer.peer_as)).replace("OUR_AS", str(peer.local_as))
        protocols.append(text.replace("OPTIONS", options))
    return peers, HEAD + "".join(protocols)


def tellers(agent: Agent, prefix: str) -> int:
    """Return how many peers announce the prefix."""
    return len(agent.rib.routes().get(ipaddress.ip_network(prefix), ()))


@pytest.mark.parametrize("version", [4, 6])
async def test_every_kind_of_peer_exchanges_routes_of_both_families(
    network: Network, birds: list[Bird], version: int
) -> None:
    """Over a session of either IP version, on source addresses that appeared after the speaker had started."""
    ours, theirs = network.host(), network.host()
    ours.start()
    agent = network.agent(ours)
    blocks = [ipaddress.ip_network(text) for text in ("10.20.0.0/26", "fd20::/122")]
    announced = announcements(ours.router, blocks=blocks)
    await agent.want([], announced)
    await agent.until(lambda: agent.events, "listened to")
    peers, configuration = made(ours, theirs, version)
    bird = Bird(theirs, configuration)
    birds.append(bird)
    await agent.want(peers, announced)
    await agent.until(lambda: bird.up() == set(KINDS), f"established with {bird.up() ^ set(KINDS)}")
    await agent.until(lambda: bird.knows("10.20.0.0/26") == set(KINDS), "known over all, IPv4")
    await agent.until(lambda: bird.knows("fd20::/122") == set(KINDS), "known over all, IPv6")
    await agent.until(lambda: tellers(agent, "10.60.0.0/24") == len(KINDS), "told by all, IPv4")
    await agent.until(lambda: tellers(agent, "fd60::/64") == len(KINDS), "told by all, IPv6")
    assert "SessionDown" not in agent.kinds()


@pytest.mark.parametrize("version", [4, 6])
async def test_a_peer_from_too_far_is_not_let_in_until_it_may_be(
    network: Network, birds: list[Bird], version: int
) -> None:
    """One that calls with a lower TTL is cut off; the others do not notice; without the check it is let in."""
    ours, theirs = network.host(), network.host()
    ours.start()
    agent = network.agent(ours)
    peers, configuration = made(ours, theirs, version)
    names = list(KINDS)
    near, far = peers[names.index("gtsm_multihop")], peers[names.index("ebgp_multihop")]
    bird = Bird(theirs, configuration)
    birds.append(bird)
    await agent.want([near, dataclasses.replace(far, ttl_security_hops=3)])
    await agent.until(lambda: "gtsm_multihop" in bird.up(), "up with the near one")
    await agent.until(
        lambda: "Last error" in bird.ask("show", "protocols", "all", "to_ebgp_multihop"), "seen to refuse the far one"
    )
    assert far.address not in {event.peer for _, event in agent.events if isinstance(event, SessionUp)}
    await agent.want([near, far])
    await agent.until(lambda: bird.up() == {"gtsm_multihop", "ebgp_multihop"}, "up with both")
    assert "SessionDown" not in agent.kinds()

"""BIRD 2 as a member of the mesh, with both families or with one alone."""

from __future__ import annotations

import ipaddress
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from bgp.advertisement import announcements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.conftest import Host, Network

CONFIGURATION = """
router id 10.7.0.2;
protocol device {{ }}
protocol static {{ ipv4; route 10.60.0.0/24 blackhole; }}
protocol static {{ ipv6; route fd60::/64 blackhole; }}
protocol bgp tortie {{
  local 10.7.0.2 as 64512;
  neighbor 10.7.0.1 as 64512;
  graceful restart on;
  ipv4 {{ import all; export all; next hop self; }};
  {ipv6}
}}
"""
IPV6 = "ipv6 { import all; export all; next hop address fd07::2; };"


class Bird:
    """BIRD in a host's namespace."""

    def __init__(self, host: Host, ipv6: str) -> None:
        self._host = host
        self._control = host.directory / "bird.ctl"
        path = host.directory / "bird.conf"
        path.write_text(CONFIGURATION.format(ipv6=ipv6))
        command = host.command("bird", "-f", "-c", str(path), "-s", str(self._control))
        with (host.directory / "bird.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(self, *words: str) -> str:
        """Return what birdc answers."""
        command = ["birdc", "-s", str(self._control), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def stop(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)


@pytest.fixture
def birds() -> Iterator[list[Bird]]:
    """Collect the BIRDs a test starts, and stop them at its end."""
    started: list[Bird] = []
    yield started
    for bird in started:
        bird.stop()


@pytest.mark.parametrize("ipv6", [IPV6, ""], ids=["both-families", "ipv4-only"])
async def test_bird_learns_our_blocks_and_we_learn_its_own(network: Network, birds: list[Bird], ipv6: str) -> None:
    """Routes go both ways in every family both have; End-of-RIB of a family it lacks does not disturb BIRD."""
    first, second = network.host(), network.host()
    first.start()
    bird = Bird(second, ipv6)
    birds.append(bird)
    one = network.agent(first)
    blocks = [ipaddress.ip_network(text) for text in ("10.20.0.0/26", "fd20::/122")]
    await one.want(network.peers(first, second), announcements(first.router, blocks=blocks))
    theirs = {"10.60.0.0/24", "fd60::/64"} if ipv6 else {"10.60.0.0/24"}
    await one.until(lambda: one.learned() == theirs, "aware of BIRD's routes")
    await one.until(lambda: "10.20.0.0/26" in bird.ask("show", "route"), "known to BIRD")
    if ipv6:
        await one.until(lambda: "fd20::/122" in bird.ask("show", "route"), "known to BIRD")
        assert "BGP.next_hop: fd07::1" in bird.ask("show", "route", "fd20::/122", "all")
    assert "Established" in bird.ask("show", "protocols", "tortie")
    assert "SessionDown" not in one.kinds()

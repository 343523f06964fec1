"""A drained host is routed around while it is still reached, then it announces nothing; undrained, all is as before.

One router listens to the host; another one offers a second way to the host's blocks, by the second host, to that
router and to the third host.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

import pytest

from bgp.peering import PeerDefinition
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_peer
from controller.lab.lab import Lab
from controller.lab.routers import AS_NUMBER, control_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import Flow

OBSERVER, ALTERNATIVE = "192.0.2.251", "192.0.2.252"
DRAINED, DETOUR = ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")
GRACEFUL_SHUTDOWN = "(65535,0)"
OBSERVING = f"""
log stderr all;
router id {OBSERVER};
protocol device {{ }}
protocol direct {{ ipv4; ipv6; }}
protocol bgp h1 {{
  local {OBSERVER} as {AS_NUMBER}; neighbor {DRAINED[0]} as {AS_NUMBER}; passive on;
  ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }};
}}
protocol bgp r2 {{
  local {OBSERVER} as {AS_NUMBER}; neighbor {ALTERNATIVE} as {AS_NUMBER}; passive on;
  ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }};
}}
"""


def offering(blocks: list[str]) -> str:
    """Return the configuration of a router that knows a second, less preferred way to the blocks."""
    statics = "".join(
        f"protocol static {{ ipv{6 if ':' in block else 4}; route {block} blackhole; }}\n" for block in blocks
    )
    channels = "".join(
        f"ipv{version} {{ import none; next hop keep;\n"
        f"    export filter {{ bgp_local_pref = 50; bgp_next_hop = {next_hop}; accept; }}; }};\n  "
        for version, next_hop in zip((4, 6), DETOUR, strict=True)
    )
    peers = "".join(
        f"protocol bgp {name} {{\n  local {ALTERNATIVE} as {AS_NUMBER}; neighbor {address} as {AS_NUMBER};"
        f" {passive}\n  {channels}}}\n"
        for name, address, passive in (("r1", OBSERVER, "connect delay time 0;"), ("h3", "192.0.2.3", "passive on;"))
    )
    return f"log stderr all;\nrouter id {ALTERNATIVE};\nprotocol device {{ }}\n{statics}{peers}"


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """Return the blocks of the first host, IPv4 first; known once the lab is up."""
    return []


@pytest.fixture(scope="module")
def lab(blocks: list[str], write_records: Callable[..., None], wait_until: Callable[..., None]) -> Iterator[Lab]:
    """Three dual-stack hosts and the two routers, of which the observer prefers the direct way."""
    lab = Lab(f"dr{os.getpid()}")
    try:
        first, *_ = lab.up(nodes=3, workloads=1, dual_stack=True).workloads
        blocks += [
            str(ipaddress.ip_network(f"{address}/{122 if ':' in address else 26}", strict=False))
            for address in first.addresses
        ]
        lab.add_router("bird", OBSERVING)
        lab.add_router("bird", offering(blocks))
        definitions = [
            PeerDefinition("observer", ipaddress.ip_address(OBSERVER), AS_NUMBER, node="h1"),
            PeerDefinition("alternative", ipaddress.ip_address(ALTERNATIVE), AS_NUMBER, node="h3"),
        ]
        write_records(lab, {keys.peer(each.name): encode_peer(each) for each in definitions})
        for block in blocks:
            wait_until(lambda block=block: len(ways(lab, block)) == 2, "the observer knows both ways")
            wait_until(lambda block=block: "h1 " in ways(lab, block)[0], "it prefers the direct one")
        yield lab
    finally:
        lab.down()


def ways(lab: Lab, block: str) -> list[str]:
    """Return the ways to the block that the observer knows, with their attributes, the preferred one first."""
    layout = lab.layout()
    control = str(control_path(layout, layout.router("r1")))
    shown = lab.run("r1", ["birdc", "-s", control, "show", "route", block, "all"]).stdout
    return [f"{part.partition(']')[0]} {part}" for part in shown.split("unicast [")[1:]]


def way_of(lab: Lab, host: str, block: str) -> str:
    """Return the host's kernel route for the block, empty if there is none."""
    version = "-6" if ":" in block else "-4"
    return lab.run(host, ["ip", version, "route", "show", "proto", "116", "exact", block]).stdout


def tortiectl(lab: Lab, *words: str) -> None:
    """Run `tortiectl` on the first host, and fail with what it says."""
    done = lab.run("h1", ["tortiectl", *words])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_drained_host_is_routed_around_and_still_reached(
    lab: Lab, blocks: list[str], start_flow: Callable[..., Flow], wait_until: Callable[..., None]
) -> None:
    """Within the grace the other way is preferred where there is one, and no packet is lost on any."""
    [addresses] = [each.addresses for each in lab.status().workloads if each.name == "h1w1"]
    flows = [start_flow(lab, source, address) for source in ("h2w1", "h3w1") for address in addresses]
    wait_until(lambda: all(len(flow.answers()) > 10 for flow in flows), "answers")
    tortiectl(lab, "node", "drain", "h1", "--grace-seconds", "600")
    for block, direct, detour in zip(blocks, DRAINED, DETOUR, strict=True):
        wait_until(
            lambda block=block: any(
                each.startswith("h1 ") and GRACEFUL_SHUTDOWN in each and "local_pref: 0\n" in each
                for each in ways(lab, block)
            ),
            "the host asks to be routed around",
        )
        wait_until(lambda block=block: ways(lab, block)[0].startswith("r2 "), "the observer does so")
        wait_until(
            lambda block=block, detour=detour: f"via {detour} " in way_of(lab, "h3", block), "so does another host"
        )
        assert f"via {direct} " in way_of(lab, "h2", block), "who knows no other way keeps this one"
    assert lab.ping().complete
    tortiectl(lab, "node", "undrain", "h1")
    for block, direct in zip(blocks, DRAINED, strict=True):
        wait_until(lambda block=block: ways(lab, block)[0].startswith("h1 "), "the observer prefers it again")
        wait_until(
            lambda block=block, direct=direct: f"via {direct} " in way_of(lab, "h3", block), "so does the other host"
        )
        assert not any(GRACEFUL_SHUTDOWN in each for each in ways(lab, block))
    assert {flow.name: flow.lost() for flow in flows} == {flow.name: [] for flow in flows}


def test_after_the_grace_a_drained_host_announces_nothing_until_it_is_undrained(
    lab: Lab, blocks: list[str], wait_until: Callable[..., None]
) -> None:
    """Its prefixes are gone everywhere, its sessions and what it learned itself stay."""
    tortiectl(lab, "node", "drain", "h1", "--grace-seconds", "1")
    for block in blocks:
        wait_until(lambda block=block: not way_of(lab, "h2", block), "the other host has no way to it")
        wait_until(lambda block=block: not any(each.startswith("h1 ") for each in ways(lab, block)), "nor the observer")
    reached = {(cell.source, cell.target): cell.reachable for cell in lab.ping().cells}
    assert not reached["h2w1", "h1w1"]
    assert reached["h2w1", "h3w1"]
    assert all(state == "established" for host in lab.status().hosts for state in host.sessions.values())
    blocks_there = lab.run("h1", ["ip", "route", "show", "proto", "116"]).stdout
    assert "via 192.0.2.2 " in blocks_there
    assert "via 192.0.2.3 " in blocks_there
    tortiectl(lab, "node", "undrain", "h1")
    wait_until(lambda: lab.ping().complete, "everybody reaches everybody")
    for block in blocks:
        wait_until(lambda block=block: ways(lab, block)[0].startswith("h1 "), "the observer prefers it again")

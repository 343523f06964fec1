"""Peers, filters and communities applied with `tortiectl` take effect on running hosts; other sessions never notice."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from controller.agent_client import agent_status
from controller.lab.lab import Lab
from controller.lab.routers import control_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import Flow

ROUTER = "192.0.2.251"
ROUTER_AS = 64999
#: Within the pool, where no host of the lab has a block.
LEARNED = ("10.244.210.0/26", "10.244.211.0/26")
CONFIGURATION = f"""
log stderr all;
router id {ROUTER};
protocol device {{ }}
protocol static {{ ipv4; {"".join(f"route {prefix} blackhole;" for prefix in LEARNED)} }}
""" + "".join(
    f"""
protocol bgp h{number} {{
  local {ROUTER} as {ROUTER_AS};
  neighbor 192.0.2.{number} as 64512;
  passive on;
  graceful restart on;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
"""
    for number in (1, 2, 3)
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts in a mesh, and a router that nobody peers with yet."""
    lab = Lab(f"ap{os.getpid()}")
    try:
        lab.up(nodes=3, workloads=1)
        lab.add_router("bird", CONFIGURATION)
        yield lab
    finally:
        lab.down()


def tortiectl(lab: Lab, *words: str, document: object = None) -> str:
    """Run `tortiectl` on the first host with a document on its standard input, and fail with what it says."""
    command, environment = lab.command("h1", ["tortiectl", *words])
    given = None if document is None else json.dumps(document)
    done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def apply(lab: Lab, kind: str, name: str, **spec: object) -> None:
    """Apply one resource."""
    document = {"apiVersion": "tortie/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    tortiectl(lab, "apply", "-f", "-", document=document)


def established(lab: Lab) -> dict[tuple[str, str], float]:
    """Return since when each session is established, by host and peer."""
    layout = lab.layout()
    statuses = {host.name: agent_status(layout.directory(host) / "run" / "agent.sock") for host in layout.hosts}
    return {
        (host, session.address): session.since
        for host, status in statuses.items()
        for session in status.sessions
        if session.established
    }


def learned(lab: Lab, host: str) -> set[str]:
    """Return which of the router's prefixes the host's kernel has."""
    lines = lab.run(host, ["ip", "route", "show", "proto", "116", "via", ROUTER]).stdout.splitlines()
    return {line.split()[0] for line in lines}


def heard(lab: Lab, *words: str) -> str:
    """Return what the router tells of the routes it has."""
    layout = lab.layout()
    control = str(control_path(layout, layout.router("r1")))
    return lab.run("r1", ["birdc", "-s", control, "show", "route", *words]).stdout


def test_what_is_applied_takes_effect_and_disturbs_nobody_else(
    lab: Lab, start_flow: Callable[[Lab, str, str], Flow], wait_until: Callable[..., None]
) -> None:
    """A peer comes, gets filters, moves to all nodes, and goes: the mesh's sessions stand and no packet is lost."""
    mesh = established(lab)
    assert len(mesh) == 6
    [target] = [each.addresses[0] for each in lab.status().workloads if each.name == "h2w1"]
    flow = start_flow(lab, "h1w1", target)
    peer = {"peerAddress": ROUTER, "peerAS": ROUTER_AS}

    apply(lab, "BGPPeer", "tor", node="h1", **peer)
    wait_until(lambda: learned(lab, "h1") == set(LEARNED), "the first host uses what the router tells it")
    wait_until(lambda: "via 192.0.2.1 on " in heard(lab), "and tells it of its block")
    session = established(lab)["h1", ROUTER]
    assert [key for key in established(lab) if key[1] == ROUTER] == [("h1", ROUTER)]

    only_first = [{"action": "Accept", "cidr": LEARNED[0], "matchOperator": "Equal"}, {"action": "Reject"}]
    apply(lab, "BGPFilter", "first", imports=only_first)
    apply(lab, "BGPPeer", "tor", node="h1", filters=["first"], **peer)
    wait_until(lambda: learned(lab, "h1") == {LEARNED[0]}, "a filter of the peer rejects the other prefix")
    apply(lab, "BGPFilter", "first", imports=[{"action": "Reject"}], exports=[{"action": "Reject"}])
    wait_until(lambda: learned(lab, "h1") == set(), "the filter's change rejects both")
    wait_until(lambda: "via 192.0.2.1 on " not in heard(lab), "nothing is told to the router any more")
    apply(lab, "BGPFilter", "first", imports=only_first)
    wait_until(lambda: learned(lab, "h1") == {LEARNED[0]}, "and lets the one in again")
    wait_until(lambda: "via 192.0.2.1 on " in heard(lab), "the router is told of the host's block again")
    assert established(lab)["h1", ROUTER] == session

    apply(lab, "BGPPeer", "tor", **peer)
    wait_until(lambda: all(learned(lab, host) == set(LEARNED) for host in ("h1", "h2", "h3")), "all hosts peer with it")
    pool = json.loads(tortiectl(lab, "get", "pools", "-o", "json"))["items"][0]
    apply(lab, "Pool", pool["metadata"]["name"], **{**pool["spec"], "communities": ["64512:77"]})
    wait_until(lambda: heard(lab, "all").count("(64512,77)") == 3, "the pool's community is told with each block")

    tortiectl(lab, "delete", "peer", "tor")
    wait_until(lambda: established(lab).keys() == mesh.keys(), "the peer's sessions are gone")
    for host in ("h1", "h2", "h3"):
        wait_until(lambda host=host: not learned(lab, host), "and its routes")
    assert established(lab) == mesh
    assert flow.lost() == []

"""Hosts without a mesh, behind a route reflector: all workloads reach all, and the reflector may die.

Every host pings the others' workloads a hundred times a second in both families, from before the mesh is given up
until after the reflector was killed and came back: no packet may be lost.
"""

from __future__ import annotations

import ipaddress
import os
import signal
from typing import TYPE_CHECKING

import pytest

from bgp.configuration import BgpConfiguration
from bgp.peering import PeerDefinition
from controller.agent_client import agent_status
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_bgp_configuration, encode_peer
from controller.errors import AgentUnavailable
from controller.lab.lab import Lab
from controller.lab.routers import AS_NUMBER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from controller.agent_client import AgentStatus
    from controller.lab.layout import RouterProgram
    from tests.e2e.conftest import Flow


#: What a flow must get answered, for more than a second, after sessions are up and before they are relied upon:
#: routes, and the word that these were all, come at once, but behind the session.
SETTLING_ANSWERS = 150


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three dual-stack hosts with two workloads each, in a mesh."""
    lab = Lab(f"rr{os.getpid()}")
    try:
        lab.up(nodes=3, workloads=2, dual_stack=True)
        yield lab
    finally:
        lab.down()


def statuses(lab: Lab) -> list[AgentStatus]:
    """Return what every host's agent says."""
    layout = lab.layout()
    return [agent_status(layout.directory(host) / "run" / "agent.sock") for host in layout.hosts]


def problems(lab: Lab) -> tuple[str, ...]:
    """Return what h1's agent complains of; that it does not answer yet is nothing, and no peace either."""
    try:
        return statuses(lab)[0].problems
    except AgentUnavailable as error:
        return (str(error),)


def behind(lab: Lab, *peers: str) -> bool:
    """Whether these are the sessions of every host, all established, and every host knows the others' blocks."""
    return all(
        established(status) == [each.address for each in status.sessions] == list(peers)
        and status.document["bgp"]["learned_count"] == 2 * (len(lab.layout().hosts) - 1)
        for status in statuses(lab)
    )


def established(status: AgentStatus) -> list[str]:
    """Return the peers with which a host has a session."""
    return [each.address for each in status.sessions if each.established]


def pid_of(lab: Lab, service: str) -> int:
    """Return the process of a running service, or 0."""
    return next((each.pid or 0 for each in lab.status().services if each.name == service), 0)


@pytest.fixture
def all_flows(lab: Lab, start_flow: Callable[..., Flow], wait_until: Callable[..., None]) -> list[Flow]:
    """Flows from every host's first workload to those of the others, all answered."""
    first = [each for each in lab.status().workloads if each.name.endswith("w1")]
    flows = [
        start_flow(lab, source.name, address)
        for source in first
        for target in first
        if source is not target
        for address in target.addresses
    ]
    wait_until(lambda: all(len(flow.answers()) > 10 for flow in flows), "answers")
    return flows


@pytest.fixture
def wait_for_routes(all_flows: list[Flow], wait_until: Callable[..., None]) -> Callable[[], None]:
    """Return a function that waits until what peers tell behind a new session has long come."""

    def wait() -> None:
        counts = [len(flow.answers()) + SETTLING_ANSWERS for flow in all_flows]
        wait_until(
            lambda: all(len(flow.answers()) >= count for flow, count in zip(all_flows, counts, strict=True)),
            "more answers",
        )

    return wait


@pytest.mark.parametrize("program", ["bird", "gobgp"])
def test_behind_a_reflector_all_reach_all_even_while_it_restarts(
    lab: Lab,
    program: RouterProgram,
    all_flows: list[Flow],
    *,
    write_records: Callable[..., None],
    wait_until: Callable[..., None],
    wait_for_routes: Callable[[], None],
) -> None:
    """From the mesh to a reflector, through its death and return, and back to the mesh, with no packet lost.

    In between its record is malformed while an agent starts: the session of that host stays.
    """
    router = lab.add_router(program)
    address, *_ = lab.layout().addresses(router)
    peer = PeerDefinition("reflector", ipaddress.ip_address(address), AS_NUMBER, next_hop_self=False)
    write_records(lab, {keys.peer("reflector"): encode_peer(peer)})
    wait_until(lambda: all(str(address) in established(status) for status in statuses(lab)), "sessions with it")
    wait_for_routes()
    write_records(lab, {keys.BGP_CONFIGURATION: encode_bgp_configuration(BgpConfiguration(mesh=False))})
    wait_until(lambda: behind(lab, str(address)), "the reflector is all they have")
    assert lab.ping().complete

    service = f"{router.name}/{program}"
    former = pid_of(lab, service)
    os.kill(former, signal.SIGKILL)
    wait_until(lambda: pid_of(lab, service) not in (0, former), "the reflector runs again")
    wait_until(lambda: behind(lab, str(address)), "its sessions are back", seconds=60)
    assert lab.ping().complete
    wait_for_routes()

    before = statuses(lab)[0].sessions
    lab.stop("h1/agent")
    write_records(lab, {keys.peer("reflector"): b"?"})
    lab.start("h1/agent")
    wait_until(lambda: any("sessions and announcements stay" in each for each in problems(lab)), "it is told of")
    assert lab.ping().complete
    write_records(lab, {keys.peer("reflector"): encode_peer(peer)})
    wait_until(lambda: not problems(lab) and behind(lab, str(address)), "the record is mended")
    assert statuses(lab)[0].sessions == before

    added = lab.add_node(workloads=1)
    wait_until(lambda: behind(lab, str(address)), "the reflector is told of hosts that come")
    lab.remove_node(added)
    wait_until(lambda: behind(lab, str(address)), "and of those that go")

    write_records(lab, {keys.BGP_CONFIGURATION: None})
    wait_until(lambda: all(len(status.sessions) == 3 for status in statuses(lab)), "the mesh is configured")
    wait_until(lambda: all(each.established for status in statuses(lab) for each in status.sessions), "and up")
    wait_for_routes()
    write_records(lab, {keys.peer("reflector"): None})
    wait_until(lambda: all(len(status.sessions) == 2 for status in statuses(lab)), "the mesh is all they have")
    lab.remove_router(router.name)
    assert lab.ping().complete
    assert {flow.name: flow.lost() for flow in all_flows} == {flow.name: [] for flow in all_flows}


def test_an_operator_adds_routers_and_workloads_with_the_command(lab: Lab) -> None:
    """`lab add-router` and `add-workload --ip` say what they made, and take it away again."""

    def tortiectl(*words: str) -> str:
        done = lab.run("fabric", ["tortiectl", "lab", words[0], "--name", lab.name, *words[1:]])
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "router r1 started at 192.0.2.251, 2001:db8::fb" in tortiectl("add-router", "--program", "gobgp")
    assert "r1/gobgp" in tortiectl("status")
    assert "r1 removed" in tortiectl("remove-router", "r1")
    wired = tortiectl("add-workload", "h2", "--ip", "10.244.7.70", "--ip", "fd00:244::7")
    assert "h2w3 wired with 10.244.7.70, fd00:244::7" in wired
    refused = lab.run("fabric", ["tortiectl", "lab", "add-workload", "--name", lab.name, "h1", "--ip", "10.244.7.70"])
    assert refused.returncode != 0
    assert "10.244.7.70 is already assigned" in refused.stderr
    assert [each.name for each in lab.status().workloads if each.host == "h1"] == ["h1w1", "h1w2"]
    assert "h2w3 removed" in tortiectl("remove-workload", "h2w3")

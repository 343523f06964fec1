"""Traffic flows on whatever dies: agent, ExaBGP, sidecar, store.

Every workload pings one on every other host a hundred times a second, both families, while `ip monitor` listens on
every host: no packet may be lost, and no route may be deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from controller.agent_client import agent_status
from controller.lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from controller.lab.status import LabStatus

_DEADLINE_SECONDS = 90.0
#: Answers a flow must get after a recovery before it is judged, at a little more than a hundred a second (at an
#: interval of 10 ms ping comes to 60), and while Consul is away: a minute.
_SETTLING_ANSWERS = 200
_OUTAGE_ANSWERS = 7000


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = _DEADLINE_SECONDS) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.05)


@dataclass
class Flow:
    """A ping that runs until it is ended; its output says how many answers came."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def answer_count(self) -> int:
        """Return how many answers have come so far."""
        return self.output.read_bytes().count(b"bytes from")

    def lost_count(self) -> int:
        """End the flow and return how many packets had no answer; one that was on its way at the end is not lost."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=10)
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", self.output.read_text())
        assert counts is not None, self.output.read_text()[-500:]
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ", self.output.read_text())}
        return len(set(range(1, int(counts[1]))) - answered)


class Traffic:
    """Flows between all hosts and a record of every route deleted meanwhile."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self.flows: list[Flow] = []
        self._monitors: dict[str, Path] = {}

    def __enter__(self) -> Self:
        """Start everything, and return when every flow has its first answers."""
        with contextlib.ExitStack() as stack:
            status = self._lab.status()
            for host in status.hosts:
                self._monitors[host.name] = self._directory / f"routes-{host.name}"
                self._spawn(stack, host.name, ["ip", "monitor", "route"], self._monitors[host.name])
            for source in status.workloads:
                for target in status.workloads:
                    if source.host != target.host and target.name.endswith("w1") and source.name.endswith("w1"):
                        for address in target.addresses:
                            self._ping(stack, source.name, address)
            self.wait_for_answers(10)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    def wait_for_answers(self, count: int) -> None:
        """Return when every flow has had this many more answers."""
        wanted = {flow.name: flow.answer_count() + count for flow in self.flows}
        wait_until(
            lambda: all(flow.answer_count() >= wanted[flow.name] for flow in self.flows),
            f"{count} more answers each",
            seconds=_DEADLINE_SECONDS + count / 20,
        )

    def check(self) -> None:
        """Assert that nothing was lost and no route of ours deleted."""
        self.wait_for_answers(_SETTLING_ANSWERS)
        assert {flow.name: flow.lost_count() for flow in self.flows} == dict.fromkeys(
            (flow.name for flow in self.flows), 0
        )
        deleted = {
            host: [line for line in path.read_text().splitlines() if "Deleted" in line and "proto 116" in line]
            for host, path in self._monitors.items()
        }
        assert deleted == {host: [] for host in self._monitors}

    def _ping(self, stack: contextlib.ExitStack, source: str, address: str) -> None:
        output = self._directory / f"{source}-{address}"
        process = self._spawn(
            stack, source, ["nice", "-n", "15", "ping", "-n", "-i", "0.009", "-W", "2", address], output
        )
        self.flows.append(Flow(output.name, process, output))

    def _spawn(
        self, stack: contextlib.ExitStack, place: str, arguments: list[str], output: Path
    ) -> subprocess.Popen[bytes]:
        command, environment = self._lab.command(place, arguments)
        with output.open("wb") as sink:
            process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
        stack.callback(_ended, process)
        return process


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.fixture(scope="module", params=["sqlite", "consul"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Three dual-stack hosts, on either store."""
    lab = Lab(f"s{os.getpid()}{request.param[0]}")
    try:
        lab.up(nodes=3, workloads=1, store=request.param, dual_stack=True)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def traffic(lab: Lab) -> Iterator[Traffic]:
    """All flows running, on a lab that is well."""
    wait_until(lambda: well(lab), "the lab is well")
    with tempfile.TemporaryDirectory(prefix="traffic-") as directory, Traffic(lab, Path(directory)) as traffic:
        yield traffic


def pid_of(status: LabStatus, service: str) -> int:
    """Return the process of a running service, or 0."""
    return next((each.pid or 0 for each in status.services if each.name == service), 0)


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def established_at(lab: Lab) -> dict[tuple[str, str], float]:
    """Return since when each session is established, by the host that says so and its peer."""
    return {
        (host.name, session.address): session.since
        for host in lab.status().hosts
        for session in agent_status(Path(host.sockets["agent"])).sessions
        if session.established
    }


def well(lab: Lab) -> bool:
    """Whether everything runs, and every agent knows both blocks of both other hosts."""
    status = lab.status()
    return status.healthy and all(
        agent_status(Path(host.sockets["agent"])).document["bgp"]["learned_count"] == 4 for host in status.hosts
    )


def recovered(lab: Lab, service: str, former: int) -> bool:
    """Whether the service runs in a new process and everything is well."""
    return pid_of(lab.status(), service) not in (0, former) and well(lab)


@pytest.mark.parametrize("service", ["agent", "bgp"])
def test_a_killed_program_takes_no_packet_and_no_route_with_it(lab: Lab, traffic: Traffic, service: str) -> None:
    """The agent, and ExaBGP with its sidecar; afterwards everything is as before."""
    name = f"h1/{service}"
    former = pid_of(lab.status(), name)
    os.kill(former, signal.SIGKILL)
    wait_until(lambda: recovered(lab, name, former), f"{name} is back")
    traffic.check()


def test_a_killed_sidecar_ends_no_session(lab: Lab, traffic: Traffic) -> None:
    """ExaBGP starts it again, and the sessions are those from before."""
    bgp = pid_of(lab.status(), "h1/bgp")
    [former] = children_of(bgp)
    before = established_at(lab)
    os.kill(former, signal.SIGKILL)
    wait_until(lambda: children_of(bgp) not in ([], [former]), "a new sidecar")
    wait_until(lambda: well(lab) and established_at(lab).keys() == before.keys(), "everything is well again")
    assert pid_of(lab.status(), "h1/bgp") == bgp
    assert {ends: since for ends, since in established_at(lab).items() if ends[0] != "h1"} == {
        ends: since for ends, since in before.items() if ends[0] != "h1"
    }
    traffic.check()


def test_everything_of_a_host_killed_at_once_takes_nothing_with_it(lab: Lab, traffic: Traffic) -> None:
    """Agent, ExaBGP and sidecar of one host together."""
    status = lab.status()
    former = {name: pid_of(status, name) for name in ("h2/agent", "h2/bgp")}
    for pid in former.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(recovered(lab, name, pid) for name, pid in former.items()), "all are back")
    traffic.check()


def test_all_agents_killed_at_once_take_nothing_with_them(lab: Lab, traffic: Traffic) -> None:
    """As in an upgrade that went wrong everywhere."""
    status = lab.status()
    former = {name: pid_of(status, name) for name in ("h1/agent", "h2/agent", "h3/agent")}
    for pid in former.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(recovered(lab, name, pid) for name, pid in former.items()), "all are back")
    traffic.check()


@pytest.mark.parametrize("lab", ["consul"], indirect=True)
def test_consul_may_be_away_for_a_minute(lab: Lab, traffic: Traffic) -> None:
    """Flows go on, new workloads are refused in CNI's own words, and afterwards new workloads are wired again."""
    lab.stop("consul")
    wait_until(lambda: not any(host.ready for host in lab.status().hosts), "the agents notice")
    traffic.wait_for_answers(_OUTAGE_ANSWERS)
    lab.start("consul")
    wait_until(lambda: well(lab), "everything is well again")
    traffic.check()
    workload = lab.add_workload("h1")
    assert workload.addresses
    wait_until(lambda: lab.ping().complete, "the new workload is reachable")
    lab.remove_workload(workload.name)


@pytest.mark.parametrize("lab", ["consul"], indirect=True)
def test_a_consul_that_lost_its_contents_takes_nothing_with_it(lab: Lab, traffic: Traffic) -> None:
    """It comes back with an empty disk: nobody believes it, and once its contents are restored all is as before."""
    data = lab.layout().state / "consul"
    aside = data.with_name("consul-aside")
    lab.stop("consul")
    data.rename(aside)
    lab.start("consul")
    wait_until(
        lambda: all("lost its contents" in " ".join(host.problems) for host in lab.status().hosts), "the agents notice"
    )
    traffic.wait_for_answers(_SETTLING_ANSWERS)
    lab.stop("consul")
    shutil.rmtree(data)
    aside.rename(data)
    lab.start("consul")
    wait_until(lambda: well(lab), "everything is well again")
    traffic.check()

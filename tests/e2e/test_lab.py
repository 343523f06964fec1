"""The lab itself: it comes up, shows what it is, heals, and leaves nothing behind in whatever state it is removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.cli.main import run
from controller.errors import RefusedError
from controller.lab.layout import StoreKind, is_namespace_of
from controller.lab.network import NAMESPACES, namespaces_of
from controller.lab.processes import processes_in
from controller.lab.services import program
from controller.lab.state import manifest_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.lab.lab import Lab

DEADLINE_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as the condition holds; fail with `what` at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.05)


def remains(lab: Lab) -> list[str]:
    """Return everything on this machine that carries the lab's name."""
    named = [str(path) for path in NAMESPACES.iterdir() if is_namespace_of(lab.name, path.name)]
    named += [str(path) for path in Path("/run").glob(f"tortie-{lab.name}*")]
    mine = f"/run/tortie-{lab.name}/".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue  # it has ended
            if mine in words:
                named.append(f"process {process.name}: {words[:80]!r}")
    return named


@pytest.mark.parametrize(("store", "dual_stack"), [("sqlite", False), ("consul", True)])
def test_a_lab_comes_up_whole_and_leaves_nothing(
    new_lab: Callable[[], Lab], store: StoreKind, *, dual_stack: bool
) -> None:
    """All services run, all sessions are up, every workload reaches every other; afterwards it is as it was before."""
    lab = new_lab()
    status = lab.up(nodes=3, workloads=2, store=store, dual_stack=dual_stack)
    matrix = lab.ping()
    assert matrix.complete
    assert len(matrix.cells) == 6 * 6 * (2 if dual_stack else 1)
    assert status.healthy
    assert [len(host.sessions) for host in status.hosts] == [2, 2, 2]
    assert {service.name for service in status.services} >= {"h1/agent", "h1/bgp", "h3/agent", "h3/bgp"}
    assert lab.down()
    assert remains(lab) == []


def test_a_running_lab_is_left_as_it_is(new_lab: Callable[[], Lab]) -> None:
    """A second `up` restarts nothing; one that wants another store is refused."""
    lab = new_lab()
    first = lab.up(nodes=2, workloads=1)
    assert lab.up(nodes=2, workloads=1).services == first.services
    with pytest.raises(RefusedError, match="runs on sqlite"):
        lab.up(nodes=2, workloads=1, store="consul")


def test_a_killed_service_comes_back_and_a_stopped_one_does_not(new_lab: Callable[[], Lab]) -> None:
    """The supervisor restarts what ends by itself, and only that."""
    lab = new_lab()
    before = {service.name: service.pid for service in lab.up(nodes=2, workloads=1).services}
    lab.stop("h2/agent")
    os.kill(before["h1/agent"] or 0, signal.SIGKILL)
    wait_until(lambda: any(each.name == "h1/agent" and each.restarts == 1 for each in lab.status().services), "restart")
    wait_until(lambda: lab.status().hosts[0].ready, "h1 is ready again")
    assert "service=h1/agent" in lab.log("supervisor").read_text()
    status = lab.status()
    stopped = next(service for service in status.services if service.name == "h2/agent")
    assert (stopped.state, stopped.pid) == ("stopped", None)
    assert not status.healthy
    assert lab.ping().complete
    lab.start("h2/agent")
    wait_until(lambda: lab.status().healthy, "all is well after the start")


def test_hosts_and_workloads_come_and_go(new_lab: Callable[[], Lab]) -> None:
    """A new host is reached by all; a removed one has left no route, block, node or namespace; the rest is unharmed."""
    lab = new_lab()
    lab.up(nodes=2, workloads=1)
    assert lab.add_node(workloads=1) == "h3"
    workload = lab.add_workload("h1")
    wait_until(lambda: lab.ping().complete, "everybody reaches the new workloads")
    assert len(lab.ping().cells) == 16
    lab.remove_workload(workload.name)
    lab.remove_node("h2")
    assert [host.name for host in lab.status().hosts] == ["h1", "h3"]
    blocks = json.loads(lab.run("h1", ["tortiectl", "get", "blocks", "-o", "json"]).stdout)["items"]
    assert {block["spec"]["affinity"] for block in blocks} == {"h1", "h3"}
    assert sum(block["spec"]["inUse"] for block in blocks) == 2
    assert not any(name.endswith(("-h2", "-h2w1", "-h1w2")) for name in namespaces_of(lab.name))
    wait_until(lambda: "via 192.0.2.2 " not in lab.run("h1", ["ip", "route"]).stdout, "no route leads to h2")
    wait_until(lambda: lab.status().healthy, "nobody waits for h2")
    assert lab.ping().complete


def test_two_labs_know_nothing_of_each_other(new_lab: Callable[[], Lab]) -> None:
    """They have the same addresses and do not meet; removing one leaves the other whole."""
    one, other = new_lab(), new_lab()
    one.up(nodes=2, workloads=1)
    other.up(nodes=1, workloads=1)
    assert one.down()
    assert remains(one) == []
    assert other.status().healthy
    assert other.ping().complete


@pytest.mark.parametrize("moment", ["namespaces", "pools", "ready", "wired"])
def test_what_a_killed_up_left_is_removed(new_lab: Callable[[], Lab], moment: str) -> None:
    """`up` may be killed at any moment: `down` finds everything."""
    lab = new_lab()
    _killed_up(lab, moment)
    lab.down()
    assert remains(lab) == []


def test_what_a_killed_up_left_is_replaced(new_lab: Callable[[], Lab]) -> None:
    """`up` after a killed `up` builds a whole lab."""
    lab = new_lab()
    _killed_up(lab, "pools")
    assert lab.up(nodes=1, workloads=1).healthy


def test_what_a_killed_up_left_takes_no_more(new_lab: Callable[[], Lab]) -> None:
    """A host added to half a lab would wait in vain: the request is refused at once, with the way out."""
    lab = new_lab()
    _killed_up(lab, "pools")
    with pytest.raises(RefusedError, match=f"never finished; `tortiectl lab up --name {lab.name}`"):
        lab.add_node(workloads=1)
    with pytest.raises(RefusedError, match="never finished"):
        lab.add_workload("h1")


def test_a_lab_whose_manifest_is_broken_is_removed(new_lab: Callable[[], Lab]) -> None:
    """What there is is found by looking, whatever the manifest says."""
    lab = new_lab()
    lab.up(nodes=1, workloads=1)
    manifest_path(lab.name).write_text("{")
    assert _tortiectl(lab, "status").returncode == 1
    assert lab.down()
    assert remains(lab) == []


def test_an_interrupted_up_says_what_stays(new_lab: Callable[[], Lab]) -> None:
    """Whoever changes their mind half-way reads how to remove the half."""
    lab = new_lab()
    # A shell's background jobs ignore SIGINT, and so would what a test among them starts.
    command = ["env", "--default-signal=INT", program("tortiectl"), "lab", "up", "--name", lab.name, "--nodes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert "namespaces" in first
    assert f"`tortiectl lab down --name {lab.name}`" in rest
    assert process.returncode == 130


def test_a_lab_without_its_supervisor_is_removed(new_lab: Callable[[], Lab]) -> None:
    """The services go on without it, and `down` finds them all the same."""
    lab = new_lab()
    status = lab.up(nodes=1, workloads=1)
    fabric = namespaces_of(lab.name)[status.fabric_namespace]
    for process in processes_in([fabric]):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: not lab.status().supervised, "the supervisor is gone")
    assert not lab.status().healthy
    assert lab.ping().complete
    assert lab.down()
    assert remains(lab) == []


def test_down_does_nothing_where_there_is_no_lab(
    new_lab: Callable[[], Lab], capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be said twice."""
    lab = new_lab()
    assert run(["lab", "down", "--name", lab.name]) == 0
    assert capsys.readouterr().out == f"there is no lab {lab.name}\n"
    assert remains(lab) == []


def test_the_commands_speak_of_a_lab_as_it_is(new_lab: Callable[[], Lab]) -> None:
    """`up`, `status`, `ping`, `exec` and `logs` do what their help says, and their exit codes can be relied on."""
    lab = new_lab()
    shown = _tortiectl(lab, "up", "--nodes", "2", "--workloads", "1")
    assert shown.returncode == 0, shown.stderr
    for heading in (
        "Nodes",
        "Blocks",
        "BGP sessions of h1",
        "Routes of h1",
        "Who reaches whom, IPv4: 4 of 4",
        "Try next",
    ):
        assert heading in shown.stdout
    status = json.loads(_tortiectl(lab, "status", "-o", "json").stdout)
    assert status["hosts"][1]["namespace"] == f"tortie-{lab.name}-h2"
    inside = _tortiectl(lab, "exec", "h2w1", "--", "ip", "-brief", "address", "show", "eth0")
    assert status["workloads"][1]["addresses"][0] in inside.stdout
    assert "registered" in _tortiectl(lab, "logs", "h1/agent").stdout
    assert _tortiectl(lab, "exec", "h1", "--", "sh", "-c", "exit 7").returncode == 7
    assert _tortiectl(lab, "exec", "h1", "--", "tortiectl", "node", "status").returncode == 0
    lab.run("h2w1", ["ip", "link", "set", "eth0", "down"])
    broken = _tortiectl(lab, "ping")
    assert broken.returncode == 1
    assert "FAIL" in broken.stdout
    assert _tortiectl(lab, "stop", "h9/agent").returncode == 1


def _tortiectl(lab: Lab, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("tortiectl"), "lab", verb, "--name", lab.name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _killed_up(lab: Lab, moment: str) -> None:
    """Run `lab up` in a process of its own, and kill that as soon as it has told of this step."""
    # A shell's background jobs ignore SIGINT, and so would what a test among them starts.
    command = ["env", "--default-signal=INT", program("tortiectl"), "lab", "up", "--name", lab.name, "--nodes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if moment in line:
                break
        process.kill()
    assert moment in told, told

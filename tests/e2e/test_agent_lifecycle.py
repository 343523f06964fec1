"""How the agent starts and stops, on real hosts: what it waits for, what it says, and what it leaves as it is."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from controller.agent_client import agent_status
from controller.datamodel import keys
from controller.kernel.namespaces import entered
from controller.kernel.routes import KernelFib
from controller.lab.lab import Lab
from controller.lab.network import NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.e2e.conftest import Flow

_DEADLINE_SECONDS = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {_DEADLINE_SECONDS} s: {what}")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts on SQLite, each with one workload."""
    lab = Lab(f"a{os.getpid()}")
    try:
        lab.up(nodes=2, workloads=1)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def stopped(lab: Lab) -> Iterator[Lab]:
    """Give the lab with h1's agent stopped; it runs again afterwards."""
    lab.stop("h1/agent")
    yield lab
    lab.start("h1/agent")
    wait_until(lambda: lab.status().healthy, "the lab is well again")


class Program:
    """A `tortie-agent` on h1 in the test's own hands, and what it has written."""

    def __init__(self, lab: Lab, output: Path, *flags: str, **environment: str) -> None:
        command, settings = lab.command("h1", ["tortie-agent", *flags])
        self._output = output
        with output.open("wb") as sink:
            self.process = subprocess.Popen(
                command, env={**settings, **environment}, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )

    def __enter__(self) -> Self:
        """Nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def text(self) -> str:
        """Return its output so far."""
        return self._output.read_text()

    def exit_code(self) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(timeout=_DEADLINE_SECONDS)


class ServiceManager:
    """The end of a NOTIFY_SOCKET that belongs to the service manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_DEADLINE_SECONDS)
        self._socket.bind(str(path))

    def __enter__(self) -> Self:
        """Nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self._socket.close()

    def told(self) -> str:
        """Wait for the next message and return it."""
        return self._socket.recv(4096).decode()

    def heard_nothing(self) -> bool:
        """Whether no message is waiting."""
        return select.select([self._socket], [], [], 0) == ([], [], [])


def agent_pid(lab: Lab, host: str = "h1") -> int:
    """Return the process of a host's agent, 0 while there is none."""
    return next(each.pid or 0 for each in lab.status().services if each.name == f"{host}/agent")


def sockets(lab: Lab) -> list[Path]:
    """Return the paths of h1's two sockets of the agent."""
    run = lab.layout().directory(lab.layout().host("h1")) / "run"
    return [run / "agent.sock", run / "cni.sock"]


def routes(lab: Lab, host: str = "h1") -> list[str]:
    """Return a host's routes of ours."""
    return sorted(lab.run(host, ["ip", "route", "show", "proto", "116"]).stdout.splitlines())


def records(lab: Lab, prefix: str) -> list[tuple[str, bytes]]:
    """Return the keys and values of the lab's store that start with the prefix."""
    with contextlib.closing(sqlite3.connect(lab.layout().state / "store.db")) as store:
        return [row for row in store.execute("SELECT key, value FROM entries") if row[0].startswith(prefix)]


def sessions(lab: Lab, host: str) -> dict[str, float]:
    """Return since when each session of a host is established, by its peer."""
    path = lab.layout().directory(lab.layout().host(host)) / "run" / "agent.sock"
    return {session.address: session.since for session in agent_status(path).sessions if session.established}


def health(lab: Lab) -> tuple[int, dict[str, Any]]:
    """Return the status and the document of h1's /v1/health; (0, {}) while nobody answers."""
    connection = http.client.HTTPConnection("agent", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(5)
    try:
        connection.sock.connect(str(sockets(lab)[0]))
        connection.request("GET", "/v1/health", headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except OSError:
        return 0, {}
    finally:
        connection.close()


def complaints(lab: Lab) -> str:
    """Return all problems that h1's agent tells of, none while it does not answer."""
    return "\n".join(health(lab)[1].get("problems", ()))


@contextlib.contextmanager
def kernel_routes(lab: Lab) -> Iterator[KernelFib]:
    """Yield a view of h1's routes that takes no time to look."""
    descriptor = os.open(NAMESPACES / lab.layout().namespace("h1"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(descriptor):
            fib = KernelFib()  # its socket stays in the namespace
    finally:
        os.close(descriptor)
    try:
        yield fib
    finally:
        fib.close()


@contextlib.contextmanager
def recorded_routes(lab: Lab, output: Path) -> Iterator[Callable[[], list[str]]]:
    """Yield a function that returns every deletion of a route of ours on h1 since it was yielded."""
    command, environment = lab.command("h1", ["ip", "monitor", "route"])
    with output.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)

    def probe(prefix: str) -> bool:
        lab.run("h1", ["ip", "route", "replace", "unreachable", prefix])
        lab.run("h1", ["ip", "route", "del", "unreachable", prefix])
        return prefix in output.read_text()

    def deletions() -> list[str]:
        wait_until(lambda: probe("198.51.100.2"), "the monitor has reported everything so far")
        return [line for line in output.read_text().splitlines() if "Deleted" in line and "proto 116" in line]

    try:
        wait_until(lambda: probe("198.51.100.1"), "the monitor reports")
        yield deletions
    finally:
        process.kill()
        process.wait()


def test_sigterm_leaves_everything_but_the_agent(lab: Lab, tmp_path: Path) -> None:
    """Routes and sessions stay, no route is deleted even for a moment, and both sockets are removed."""
    before, since = routes(lab), sessions(lab, "h2")
    assert len(before) == 3  # its workload, its block, the other host's block
    assert len(since) == 1
    with recorded_routes(lab, tmp_path / "monitor") as deletions:
        lab.stop("h1/agent")
        assert [path for path in sockets(lab) if path.exists()] == []
        assert routes(lab) == before
        lab.start("h1/agent")
        wait_until(lambda: lab.status().healthy, "the lab is well again")
        assert deletions() == []
    assert routes(lab) == before
    assert sessions(lab, "h2") == since


def test_sigterm_ends_it_with_success(stopped: Lab, tmp_path: Path) -> None:
    """No traceback, no warning of anything left open, exit code 0."""
    with Program(stopped, tmp_path / "log", PYTHONWARNINGS="default") as agent:
        wait_until(lambda: health(stopped)[0] == 200, "the agent is ready")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.exit_code() == 0
        assert "stopping" in agent.text()
        assert "Traceback" not in agent.text()
        assert "ResourceWarning" not in agent.text()
    assert [path for path in sockets(stopped) if path.exists()] == []


def test_a_connection_that_says_nothing_does_not_hold_up_the_end(stopped: Lab, tmp_path: Path) -> None:
    """Neither on the API nor on the plugin's socket."""
    with Program(stopped, tmp_path / "log") as agent, contextlib.ExitStack() as stack:
        wait_until(lambda: health(stopped)[0] == 200, "the agent is ready")
        for path in sockets(stopped):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        agent.process.send_signal(signal.SIGTERM)
        assert agent.exit_code() == 0


def test_systemd_is_told_when_the_kernel_has_every_route(stopped: Lab, tmp_path: Path) -> None:
    """READY=1 comes when the routes of blocks and workloads are there, not before; STOPPING=1 at SIGTERM."""
    wanted = routes(stopped)
    own = [line for line in wanted if "via" not in line]
    assert len(own) == 2
    with (
        tempfile.TemporaryDirectory(prefix="notify-") as directory,
        ServiceManager(Path(directory) / "s") as manager,
        kernel_routes(stopped) as fib,
    ):
        before = fib.dump()
        for line in own:
            assert stopped.run("h1", ["ip", "route", "del", *line.split()]).returncode == 0
        with Program(stopped, tmp_path / "log", NOTIFY_SOCKET=str(manager.path)) as agent:
            told, present = manager.told(), fib.dump()
            assert told == "READY=1"
            assert present == before
            assert routes(stopped) == wanted
            assert manager.heard_nothing()
            agent.process.send_signal(signal.SIGTERM)
            assert manager.told() == "STOPPING=1"
            assert agent.exit_code() == 0
            assert manager.heard_nothing()


def test_a_second_agent_of_the_same_directory_is_refused(lab: Lab, tmp_path: Path) -> None:
    """It says why and what to do, and the first serves on."""
    pid, before = agent_pid(lab), routes(lab)
    with Program(lab, tmp_path / "log") as second:
        assert second.exit_code() == 1
        [line] = [line for line in second.text().splitlines() if "error:" in line]
        assert "is served by another agent; stop it or choose another run_dir" in line
        assert "Traceback" not in second.text()
    assert all(path.is_socket() for path in sockets(lab))
    assert health(lab)[0] == 200
    assert agent_pid(lab) == pid
    assert routes(lab) == before


def test_a_block_that_cannot_be_read_at_the_start_is_left_as_it_is(
    lab: Lab,
    tmp_path: Path,
    start_flow: Callable[[Lab, str, str], Flow],
    write_records: Callable[[Lab, Mapping[str, bytes | None]], None],
) -> None:
    """Its record was damaged while the agent was away: the workload is reached on, and somebody is told."""
    [(block, whole)] = [(key, value) for key, value in records(lab, keys.BLOCKS) if b'"h1"' in value]
    before, beyond, stale = routes(lab), routes(lab, "h2"), "198.51.100.7"
    [workload] = lab.layout().host("h1").workloads
    [client] = lab.layout().host("h2").workloads
    flow = start_flow(lab, client.name, str(workload.addresses[0]))
    with recorded_routes(lab, tmp_path / "monitor") as deletions:
        lab.stop("h1/agent")
        write_records(lab, {block: b"?"})
        leftover = ["ip", "route", "add", "blackhole", stale, "proto", "116", "metric", "1024"]
        assert lab.run("h1", leftover).returncode == 0
        lab.start("h1/agent")
        wait_until(lambda: health(lab)[0] == 200, "the agent is ready")
        wait_until(lambda: routes(lab) == before, "what nobody desires is swept")
        assert any(f"record {block}" in problem for problem in agent_status(sockets(lab)[0]).problems)
        wait_until(lambda: sessions(lab, "h1"), "the session is there again")
        assert [line for line in deletions() if stale not in line] == []
        assert routes(lab, "h2") == beyond
        write_records(lab, {block: whole})
        wait_until(lambda: lab.status().healthy, "the lab is well again")
    assert flow.lost() == []
    assert routes(lab) == before


def test_a_pool_and_a_configuration_that_cannot_be_read_at_the_start_end_nothing(
    lab: Lab,
    tmp_path: Path,
    start_flow: Callable[[Lab, str, str], Flow],
    write_records: Callable[[Lab, Mapping[str, bytes | None]], None],
) -> None:
    """They were damaged while the agent was away: routes and sessions stay, the operator is told, and may mend them."""
    [(pool, whole)] = records(lab, keys.POOLS)
    before, beyond, since = routes(lab), routes(lab, "h2"), sessions(lab, "h2")
    [workload] = lab.layout().host("h2").workloads
    [client] = lab.layout().host("h1").workloads
    flow = start_flow(lab, client.name, str(workload.addresses[0]))
    with recorded_routes(lab, tmp_path / "monitor") as deletions:
        lab.stop("h1/agent")
        write_records(lab, {pool: b"?", keys.BGP_CONFIGURATION: b"?"})
        lab.start("h1/agent")
        wait_until(lambda: "nothing is known of it" in complaints(lab), "the records are told of")
        wait_until(lambda: agent_status(sockets(lab)[0]).speaker_connected, "the speaker is heard")
        assert "BGP sessions and announcements stay as they were" in complaints(lab)
        assert routes(lab) == before
        write_records(lab, {pool: whole, keys.BGP_CONFIGURATION: None})
        wait_until(lambda: lab.status().healthy and not complaints(lab), "the lab is well again")
        assert deletions() == []
    assert flow.lost() == []
    assert (routes(lab), routes(lab, "h2"), sessions(lab, "h2")) == (before, beyond, since)


def test_the_nodes_own_record_comes_back(lab: Lab) -> None:
    """Somebody deletes it from the store; the sessions of all are soon as they were."""
    store = lab.layout().state / "store.db"
    delete = (
        "import asyncio, sys\n"
        "from controller.ports import Delete\n"
        "from controller.store.opening import open_store\n"
        "async def main():\n"
        "    store = open_store('sqlite:' + sys.argv[1])\n"
        "    await store.commit([Delete(sys.argv[2], None)])\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    registered = lab.log("h1/agent").read_text().count("node registered")
    assert lab.run("h1", ["python", "-c", delete, str(store), keys.node("h1")]).returncode == 0
    wait_until(lambda: lab.log("h1/agent").read_text().count("node registered") > registered, "it is written again")
    wait_until(lambda: lab.status().healthy and len(sessions(lab, "h2")) == 1, "the sessions are there again")
    wait_until(lambda: lab.ping().complete, "everybody reaches everybody")


def test_a_setting_that_is_wrong_ends_it_with_one_line(lab: Lab, tmp_path: Path) -> None:
    """The line names the setting, its value and the rule."""
    with Program(lab, tmp_path / "log", "--hold-time-seconds", "1") as agent:
        assert agent.exit_code() == 1
        [line] = agent.text().splitlines()
    assert "hold_time_seconds='1'" in line
    assert "greater than or equal to 3" in line


def test_a_part_that_fails_ends_the_whole_agent(stopped: Lab, tmp_path: Path) -> None:
    """A defect leaves no half-dead agent: it ends with a traceback, so that its supervisor starts it anew."""
    broken = (
        "import sys\n"
        "from controller.agent import routing\n"
        "from controller.agent.main import main\n"
        "def decide(*_known): raise ZeroDivisionError('a defect')\n"
        "routing.decide = decide\n"
        "sys.argv = ['tortie-agent']\n"
        "main()\n"
    )
    before = routes(stopped)
    command, environment = stopped.command("h1", ["python", "-c", broken])
    with (tmp_path / "log").open("wb") as sink:
        ended = subprocess.run(
            command, env=environment, stdout=sink, stderr=sink, timeout=_DEADLINE_SECONDS, check=False
        )
    assert ended.returncode == 1
    assert "ZeroDivisionError: a defect" in (tmp_path / "log").read_text()
    assert [path for path in sockets(stopped) if path.exists()] == []
    assert routes(stopped) == before


def test_a_host_without_an_address_says_what_to_set(lab: Lab, tmp_path: Path) -> None:
    """It waits for one, says so, and obeys SIGTERM meanwhile."""
    namespace = f"tt-{os.getpid()}-bare"
    _, environment = lab.command("h1", [])
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    command = ["nsenter", f"--net={NAMESPACES / namespace}", "--", "tortie-agent", "--run-dir", str(tmp_path)]
    try:
        with (tmp_path / "log").open("wb") as sink:
            agent = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        try:
            wait_until(lambda: "looked for again" in (tmp_path / "log").read_text(), "it says that it waits")
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(timeout=_DEADLINE_SECONDS) == 0
        finally:
            agent.kill()
            agent.wait()
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)
    assert "add a default route or set one of them" in (tmp_path / "log").read_text()
    assert "seconds_left=" in (tmp_path / "log").read_text()


def test_an_agent_without_its_store_leaves_everything_and_recovers(new_lab: Callable[[], Lab], tmp_path: Path) -> None:
    """Consul is down when the agent starts: routes stay, health names the store, and nobody has to help later."""
    lab = new_lab()
    lab.up(nodes=2, workloads=1, store="consul")
    before = routes(lab)
    assert len(before) == 3
    lab.stop("h1/agent")
    lab.stop("consul")
    with recorded_routes(lab, tmp_path / "monitor") as deletions:
        lab.start("h1/agent")
        wait_until(lambda: "not be registered" in lab.log("h1/agent").read_text(), "the agent has met its store")
        wait_until(lambda: health(lab)[0] == 503, "the agent answers")
        assert "the consul store is not reachable" in health(lab)[1]["problems"][0]
        assert routes(lab) == before
        lab.start("consul")
        wait_until(lambda: lab.status().healthy, "everything is well")
        wait_until(lambda: health(lab) == (200, {"ready": True, "problems": []}), "nothing is left to complain about")
        assert deletions() == []
    assert routes(lab) == before
    assert lab.ping().complete

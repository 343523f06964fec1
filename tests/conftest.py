"""What tests of several directories share: a real Consul server. And no run passes that left a test out."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DEADLINE_SECONDS = 60.0


class ConsulServer:
    """A single Consul server on loopback ports of its own; its data stays in `directory` between its lives.

    `settings` are merged into its configuration file; with a `cert_file` among them it serves `https_address` too.
    """

    def __init__(self, directory: Path, settings: dict[str, Any] | None = None) -> None:
        self.directory = directory
        self.port, https_port, serf_port, server_port = _free_ports(4)
        self.address = f"http://127.0.0.1:{self.port}"
        self.https_address = f"https://127.0.0.1:{https_port}"
        self._process: subprocess.Popen[bytes] | None = None
        configuration: dict[str, Any] = {
            "server": True,
            "bootstrap": True,
            "node_name": "test",
            "bind_addr": "127.0.0.1",
            "data_dir": str(directory / "data"),
            "ports": {"http": self.port, "dns": -1, "serf_lan": serf_port, "serf_wan": -1, "server": server_port},
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            # More than the tests open at once, and below the 1024 files that a login shell allows by default.
            "limits": {"http_max_conns_per_client": 900},
        }
        if settings is not None and "cert_file" in settings:
            configuration["ports"]["https"] = https_port
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "consul.json").write_text(json.dumps(_merged(configuration, settings or {})))

    def start(self) -> None:
        """Start it and wait until it takes writes."""
        self.launch()
        _wait_until(self.is_ready, f"{self.address} has a leader; see {self.directory}/log")

    def launch(self) -> None:
        """Start it without waiting."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_consul_program(), "agent", "-config-file", str(self.directory / "consul.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "GOMAXPROCS": "2"},
            )

    def is_ready(self) -> bool:
        """Return whether it has elected itself and answers consistent reads."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"Consul ended; see {self.directory}/log")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v1/kv/none?keys&consistent")
            # 404: there is no such key; 403: without a token it would not say.
            return connection.getresponse().status in (403, 404)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End it as a crash would, at once and without a word to its clients."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it; nothing happens when it does not run."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Let it answer nothing while its connections stay."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Forget all its data, for the time it is started again."""
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the Consul server was not started")
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class _Together(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Gives the tests of a file to one worker, and those of packaging and of Docker, which share trees and hosts."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        directory = file.parent
        shared = directory.name == "packaging" or (directory.parent.name, directory.name) == ("e2e", "docker")
        return str(directory if shared else file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Together:
    """Share tests out in the order they were found in: the long ones first.

    Not by marks: xdist 3.8 writes them into what pytest 9.2 no longer reads.
    """
    config.option.loadscopereorder = False
    return _Together(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what tests have measured beside what they promise."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == "measured":
                terminalreporter.write_line(f"measured: {value} ({report.nodeid})")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a test was skipped or was expected to fail: a promise nobody checked is not kept."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.exitstatus != pytest.ExitCode.OK:
        return
    left_out = [report for outcome in ("skipped", "xfailed", "xpassed") for report in reporter.stats.get(outcome, [])]
    if left_out:
        reporter.write_line(f"\nfailed: {len(left_out)} left out, and every test must run (see the summary)", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def consul_program() -> str:
    """Find Consul's server program."""
    return _consul_program()


@pytest.fixture(scope="session")
def consul_server() -> Iterator[ConsulServer]:
    """One Consul server for the whole run, never interrupted: keep to a prefix of your own."""
    yield from _running_server(None)


@pytest.fixture
def own_consul() -> Iterator[ConsulServer]:
    """Start a Consul server for this test alone, to be killed, wiped and started at will."""
    yield from _running_server(None)


@pytest.fixture
def make_consul() -> Iterator[Callable[[dict[str, Any]], ConsulServer]]:
    """Make Consul servers with settings of the test's own, not yet started; they are stopped when the test ends."""
    with tempfile.TemporaryDirectory(prefix="consul-") as directory:
        made: list[ConsulServer] = []

        def make(settings: dict[str, Any]) -> ConsulServer:
            made.append(ConsulServer(Path(directory) / str(len(made)), settings))
            return made[-1]

        try:
            yield make
        finally:
            for server in made:
                server.stop()


def _running_server(settings: dict[str, Any] | None) -> Iterator[ConsulServer]:
    with tempfile.TemporaryDirectory(prefix="consul-") as directory:
        server = ConsulServer(Path(directory), settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _consul_program() -> str:
    beside = Path(__file__).parent.parent / ".tools" / "bin" / "consul"
    program = os.environ.get("TORTIE_CONSUL") or (str(beside) if beside.exists() else shutil.which("consul"))
    if program is None:
        raise RuntimeError("no Consul server: set TORTIE_CONSUL to its path, or put `consul` on PATH")
    return program


def _free_ports(count: int) -> list[int]:
    # Below the range from which the kernel takes the source ports of connections, so that none takes them meanwhile.
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20000, 32000)  # noqa: S311  a port number, not a secret
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], more[key]) for key in base.keys() & more.keys() if isinstance(base[key], dict)}
    return {**base, **more, **both}


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {_DEADLINE_SECONDS} s still not so: {what}")
        time.sleep(0.02)

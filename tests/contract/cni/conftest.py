"""The plugin's two programs, ready to run, and a stand-in for the agent."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.cni import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]
DEADLINE = 60
_TWIN = """
import sys
from controller.cni import protocol, shim
protocol.DEFAULT_SOCKET = {!r}
shim.DEADLINE_SECONDS = {}
sys.exit(shim.main())
"""


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    status: int
    output: bytes
    errors: bytes


class Running:
    """A program that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def outcome(self) -> Outcome:
        """Wait for its end."""
        output, errors = self.process.communicate(timeout=DEADLINE)
        return Outcome(self.process.returncode, output, errors)


class Program:
    """One of the two programs, in a build whose default socket nobody serves."""

    def __init__(self, command: list[str], default_socket: str) -> None:
        self.command = command
        self.default_socket = default_socket

    def start(self, standard_input: bytes | int, environment: dict[str, str]) -> Running:
        """Start it; standard input is a file with these bytes, or this descriptor."""
        with tempfile.TemporaryFile() as file:
            if isinstance(standard_input, bytes):
                file.write(standard_input)
                file.seek(0)
            return Running(
                subprocess.Popen(
                    self.command,
                    cwd=ROOT,
                    env={"PATH": os.environ["PATH"], "UNRELATED": "1", **environment},
                    stdin=file if isinstance(standard_input, bytes) else standard_input,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )

    def run(self, standard_input: bytes, **environment: str) -> Outcome:
        """Run it to its end."""
        return self.start(standard_input, environment).outcome()


class FakeAgent:
    """A socket on which a test answers by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(DEADLINE)

    def accept(self) -> socket.socket:
        """Return the next caller's connection."""
        connection, _ = self._listener.accept()
        connection.settimeout(DEADLINE)
        return connection

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


@dataclass(frozen=True)
class Received:
    """A request, taken apart. `inode` is that of the descriptor's file, None without one."""

    namespace_errno: int
    environment: list[bytes]
    standard_input: bytes
    inode: int | None


@pytest.fixture
def receive() -> Callable[[socket.socket], Received]:
    """Read one whole request off a connection."""

    def read(connection: socket.socket) -> Received:
        content = bytearray()
        inode = None
        lengths = (0, protocol.REQUEST_HEADER.size)
        while len(content) < protocol.REQUEST_HEADER.size + sum(lengths):
            chunk, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(16))
            assert chunk, "the caller hung up"
            for _, _, rights in ancillary:
                for descriptor in array.array("i", rights):
                    inode = os.fstat(descriptor).st_ino
                    os.close(descriptor)
            content += chunk
            if len(content) >= protocol.REQUEST_HEADER.size:
                header = bytes(content[: protocol.REQUEST_HEADER.size])
                namespace_errno, *rest = protocol.decode_request_header(header)
                lengths = (rest[0], rest[1])
        start = protocol.REQUEST_HEADER.size
        environment = bytes(content[start : start + lengths[0]])
        assert not environment or environment.endswith(b"\0")
        return Received(
            namespace_errno, sorted(environment.split(b"\0")[:-1]), bytes(content[start + lengths[0] :]), inode
        )

    return read


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    """Give a stand-in for the agent on a socket of its own."""
    fake = FakeAgent(tmp_path / "cni.sock")
    yield fake
    fake.close()


@pytest.fixture(scope="session")
def make_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Program]:
    """Make the C program (built with the sanitizers) or the Python one, with a deadline in seconds."""
    directory = tmp_path_factory.mktemp("plugin")
    default_socket = str(directory / "nobody.sock")

    def make(kind: str, deadline_seconds: int) -> Program:
        if kind == "python":
            return Program([sys.executable, "-c", _TWIN.format(default_socket, deadline_seconds)], default_socket)
        binary = directory / f"tortie-cni-{deadline_seconds}"
        if not binary.exists():
            subprocess.run(
                [
                    *("gcc", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
                    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
                    *(f"-DDEADLINE_SECONDS={deadline_seconds}", f'-DDEFAULT_SOCKET="{default_socket}"'),
                    *("-o", str(binary), str(ROOT / "controller/cni/tortie-cni.c")),
                ],
                check=True,
            )
        return Program([str(binary)], default_socket)

    return make


@pytest.fixture(params=["c", "python"])
def program(request: pytest.FixtureRequest, make_program: Callable[[str, int], Program]) -> Program:
    """Give each program in turn."""
    return make_program(request.param, 60)


@pytest.fixture(params=["c", "python"])
def impatient_program(request: pytest.FixtureRequest, make_program: Callable[[str, int], Program]) -> Program:
    """Give each program in turn, with a deadline of one second."""
    return make_program(request.param, 1)

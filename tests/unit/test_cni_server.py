"""Every caller gets an answer, and no descriptor stays open, whatever the caller does."""

from __future__ import annotations

import array
import asyncio
import errno
import ipaddress
import json
import logging
import os
import socket
import struct
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.cni import protocol
from controller.cni.failures import CniFailure, ErrorCode
from controller.cni.result import CniResult
from controller.cni.server import Deadlines, serve
from controller.errors import RefusedError, StoreUnavailable, TransientError
from controller.private_socket import bind
from ipam.errors import PoolExhausted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from typing import BinaryIO

    from controller.cni.request import CniRequest

LIMIT = 60
CONFIG = json.dumps({"cniVersion": "0.4.0", "name": "net", "type": "tortie-cni"}).encode()
NEWEST = json.dumps(
    {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "tortie-cni",
        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
    }
).encode()
SHORT = Deadlines(receive_seconds=0.05, answer_seconds=0.05, send_seconds=0.05, stop_seconds=LIMIT)


class FakeBackend:
    """Answers at once, or raises `error`, or waits for `gate`; records what the descriptor was at the end."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.finished = asyncio.Event()
        self.inodes: list[int] = []

    async def _work(self) -> None:
        self.running += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def add(self, request: CniRequest, namespace_descriptor: int) -> CniResult:
        """Return a result whose sandbox is the request's."""
        await self._work()
        self.inodes.append(os.fstat(namespace_descriptor).st_ino)
        self.finished.set()
        address = ipaddress.IPv4Address("10.0.0.1")
        gateway = ipaddress.IPv4Address("169.254.1.1")
        return CniResult(
            "tor1", "ee:ee", request.interface, "02:00", request.namespace_path, (address,), 1500, gateway, None
        )

    async def delete(self, request: CniRequest, namespace_descriptor: int | None) -> None:
        """Look at the namespace, if it is there."""
        if namespace_descriptor is not None:
            os.fstat(namespace_descriptor)
        assert request.container_id
        await self._work()

    async def check(self, request: CniRequest, namespace_descriptor: int) -> None:
        """Look at the namespace."""
        assert request.container_id
        os.fstat(namespace_descriptor)
        await self._work()

    async def collect(self, request: CniRequest) -> None:
        """Do nothing."""
        assert list(request.valid or ()) == [("c1", "eth0")]
        await self._work()

    async def status(self, request: CniRequest) -> None:
        """Do nothing."""
        assert request.config.name == "net"
        await self._work()


@pytest.fixture
async def backend() -> FakeBackend:
    """Give a backend that answers at once."""
    return FakeBackend()


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until it is so."""
    async with asyncio.timeout(LIMIT):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def open_descriptor_count() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@asynccontextmanager
async def served(path: Path, backend: FakeBackend, deadlines: Deadlines | None = None) -> AsyncGenerator[None, None]:
    """Serve at the path."""
    task = asyncio.create_task(serve(bind(path), path, backend, deadlines))
    before = open_descriptor_count()
    try:
        yield
        # Connections are closed a moment after their answers; then nothing is left.
        await until(lambda: open_descriptor_count() <= before)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def environment(command: str = "ADD", **more: str) -> bytes:
    """Return the environment of a call."""
    variables = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/ns/x", **more}
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items())


class Caller:
    """A connection to the server."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.socket.connect(str(path))

    async def send(self, content: bytes, descriptors: list[int] | None = None) -> None:
        """Send bytes, descriptors with the first."""
        if descriptors:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            content = content[self.socket.sendmsg([content[:1]], rights) :]
        await asyncio.get_running_loop().sock_sendall(self.socket, content)

    async def answer(self) -> tuple[int, bytes]:
        """Return exit status and output, and check that nothing follows."""
        received = bytearray()
        # A server that has heard enough hangs up on the rest.
        async with asyncio.timeout(LIMIT):
            with suppress(ConnectionResetError):
                while chunk := await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16):
                    received += chunk
        self.socket.close()
        status, length = protocol.decode_reply_header(bytes(received[: protocol.REPLY_HEADER.size]))
        assert len(received) == protocol.REPLY_HEADER.size + length
        return status, bytes(received[protocol.REPLY_HEADER.size :])

    async def failure(self) -> tuple[int, str]:
        """Return code and message of an answer that is an error."""
        status, output = await self.answer()
        assert status == 1
        decoded = json.loads(output)
        return decoded["code"], decoded["msg"]


async def call(
    path: Path,
    variables: bytes,
    descriptors: list[int] | None = None,
    number: int = errno.ENOENT,
    config: bytes = CONFIG,
) -> Caller:
    """Send a whole request; without descriptors it carries the errno."""
    caller = Caller(path)
    request = protocol.encode_request(0 if descriptors else number, variables, config)
    await caller.send(request, descriptors)
    return caller


@pytest.fixture
def file() -> Iterator[BinaryIO]:
    """Give an open file to pass for a namespace."""
    with Path("/proc/self/ns/net").open("rb") as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a path for the socket, in a directory that does not exist yet."""
    return tmp_path / "run" / "cni.sock"


async def test_add_gets_the_namespace_and_answers_in_the_callers_version(
    path: Path, backend: FakeBackend, file: BinaryIO
) -> None:
    """The backend sees the very file that the caller opened."""
    async with served(path, backend):
        caller = await call(path, environment(), [file.fileno()])
        status, output = await caller.answer()
    assert backend.inodes == [os.fstat(file.fileno()).st_ino]
    result = json.loads(output)
    assert (status, result["cniVersion"], result["ips"][0]["version"]) == (0, "0.4.0", "4")
    assert result["interfaces"][1]["sandbox"] == "/ns/x"


@pytest.mark.parametrize(("number", "text"), [(errno.ENOENT, "No such file"), (errno.EACCES, "Permission denied")])
async def test_add_without_a_namespace_names_path_and_reason(
    path: Path, backend: FakeBackend, number: int, text: str
) -> None:
    """Code 3: the container is not known."""
    async with served(path, backend):
        code, message = await (await call(path, environment(), number=number)).failure()
    assert code == 3
    assert "/ns/x" in message
    assert text in message


async def test_add_with_no_path_at_all_is_an_environment_error(path: Path, backend: FakeBackend) -> None:
    """Code 4, naming the variable."""
    async with served(path, backend):
        code, message = await (await call(path, environment(CNI_NETNS=""))).failure()
    assert (code, "CNI_NETNS" in message) == (4, True)


async def test_delete_needs_no_namespace(path: Path, backend: FakeBackend) -> None:
    """It is gone already when a container is removed."""
    async with served(path, backend):
        assert await (await call(path, environment("DEL", CNI_NETNS=""))).answer() == (0, b"")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TransientError("why"), 50),
        (PoolExhausted("why"), 50),
        (CniFailure(ErrorCode.LIMITED_CONNECTIVITY, "why"), 51),
        (ZeroDivisionError("why"), 999),
    ],
)
async def test_status_answers_nothing_or_code_50_or_51(
    path: Path, backend: FakeBackend, error: Exception, code: int
) -> None:
    """A runtime shows the reason as its node's condition."""
    async with served(path, backend):
        assert await (await call(path, environment("STATUS"), config=NEWEST)).answer() == (0, b"")
        backend.error = error
        found, message = await (await call(path, environment("STATUS"), config=NEWEST)).failure()
    assert (found, "why" in message) == (code, True)


async def test_gc_and_check_answer_nothing_or_the_reason(path: Path, backend: FakeBackend, file: BinaryIO) -> None:
    """GC needs no namespace, CHECK does."""
    async with served(path, backend):
        assert await (await call(path, environment("GC"), config=NEWEST)).answer() == (0, b"")
        for variables, code in ((environment("CHECK", CNI_NETNS=""), 4), (environment("CHECK"), 3)):
            assert (await (await call(path, variables, config=NEWEST)).failure())[0] == code
        check = (path, environment("CHECK"), [file.fileno()])
        assert await (await call(*check, config=NEWEST)).answer() == (0, b"")
        backend.error = CniFailure(ErrorCode.CHECK_FAILED, "mtu: is 1, should be 2")
        assert await (await call(*check, config=NEWEST)).failure() == (120, "mtu: is 1, should be 2")


@pytest.mark.parametrize("command", ["UPDATE", "add", ""])
async def test_an_unknown_command_is_code_4(path: Path, backend: FakeBackend, command: str) -> None:
    """The message lists the known ones."""
    async with served(path, backend):
        code, message = await (await call(path, environment(command))).failure()
    assert (code, "ADD, DEL, CHECK, GC, STATUS, VERSION" in message) == (4, True)


async def test_every_call_has_a_witness(path: Path, backend: FakeBackend) -> None:
    """Told of command and outcome, also of calls whose configuration or command nobody can read."""
    seen: list[tuple[str | None, ErrorCode | None]] = []
    task = asyncio.create_task(
        serve(bind(path), path, backend, witness=lambda command, code, _: seen.append((command, code)))
    )
    for variables, config in (
        (environment("DEL"), CONFIG),
        (environment("DEL"), b"?"),
        (environment("UPDATE"), CONFIG),
        (b"", CONFIG),
    ):
        await (await call(path, variables, config=config)).answer()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert seen == [
        ("DEL", None),
        ("DEL", ErrorCode.DECODE_FAILURE),
        ("UPDATE", ErrorCode.INVALID_ENVIRONMENT),
        (None, ErrorCode.INVALID_ENVIRONMENT),
    ]


@pytest.mark.parametrize(
    ("error", "code"), [(PoolExhausted("full"), 104), (StoreUnavailable("down"), 11), (RefusedError("no"), 113)]
)
async def test_what_the_backend_refuses_is_told(path: Path, backend: FakeBackend, error: Exception, code: int) -> None:
    """Code and text, in the caller's version."""
    backend.error = error
    async with served(path, backend):
        assert await (await call(path, environment("DEL"))).failure() == (code, str(error))


async def test_a_defect_is_told_and_logged_with_its_traceback(
    path: Path, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Code 999, and the next call is served."""
    backend.error = ZeroDivisionError("surprise")
    async with served(path, backend):
        code, message = await (await call(path, environment("DEL"))).failure()
        backend.error = None
        assert (await (await call(path, environment("DEL"))).answer())[0] == 0
    assert (code, "surprise" in message) == (999, True)
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


async def test_an_answer_that_would_be_too_large_is_refused_before_anything_is_done(
    path: Path, backend: FakeBackend, file: BinaryIO
) -> None:
    """What other plugins answered is longer when it is written again; nobody would learn of what was attached."""
    configuration = '{"cniVersion":"1.0.0","name":"net","prevResult":{"dns":{"domain":"%s"}}}'
    async with served(path, backend):
        for text, fits in (("ö" * 150_000, True), ("ö" * 170_000, False), ("a" * 200_000, True)):
            config = (configuration % text).encode()
            caller = await call(path, environment(), [file.fileno()], config=config)
            status, output = await caller.answer()
            assert (status == 0, json.loads(output).get("code", 0)) == (fits, 0 if fits else 7)
    assert len(backend.inodes) == 2


def test_an_answer_that_is_too_large_is_replaced() -> None:
    """The plugin's program takes no larger one, and would call the agent a stranger."""
    reply = protocol.encode_reply(0, b"x" * (protocol.MAX_OUTPUT_BYTES + 1))
    status, length = protocol.decode_reply_header(reply[: protocol.REPLY_HEADER.size])
    failure = json.loads(reply[protocol.REPLY_HEADER.size :])
    assert (status, length) == (1, len(reply) - protocol.REPLY_HEADER.size)
    assert (failure["code"], f"{protocol.MAX_OUTPUT_BYTES + 1} bytes" in failure["msg"]) == (999, True)


async def test_input_that_is_no_json_is_code_6(path: Path, backend: FakeBackend) -> None:
    """The caller hears from the parser."""
    async with served(path, backend):
        caller = Caller(path)
        await caller.send(protocol.encode_request(errno.ENOENT, environment("DEL"), b"{"))
        assert (await caller.failure())[0] == 6


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n", "this is no CNI plugin"),
        (struct.pack("!4sHHII", b"TCNI", 2, 2, 0, 0), "protocol version 2"),
        (struct.pack("!4sHHII", b"TCNI", 1, 2, 0, (1 << 20) + 1), "at most"),
        (struct.pack("!4sHHII", b"TCNI", 1, 2, 0xFFFFFFFF, 0), "at most"),
        (struct.pack("!4sHHII", b"TCNI", 1, 0, 0, 0), "0 descriptors came"),
    ],
)
async def test_a_malformed_request_is_refused_with_the_reason(
    path: Path, backend: FakeBackend, content: bytes, complaint: str
) -> None:
    """Also when the caller has more to say than is read."""
    async with served(path, backend):
        caller = Caller(path)
        await caller.send(content)
        code, message = await caller.failure()
    assert (code, complaint in message) == (5, True)


@pytest.mark.parametrize("count", [2, 100])
async def test_more_descriptors_than_one_are_refused_and_closed(
    path: Path, backend: FakeBackend, file: BinaryIO, count: int
) -> None:
    """A caller cannot fill the agent's table; `served` checks that none stays open."""
    async with served(path, backend):
        code, message = await (await call(path, environment(), [file.fileno()] * count)).failure()
    assert (code, "descriptors came" in message) == (5, True)


async def test_a_second_descriptor_is_refused_when_it_comes(path: Path, backend: FakeBackend, file: BinaryIO) -> None:
    """A caller that sends a byte now and then, each with a descriptor, cannot have the agent hold them all."""
    async with served(path, backend):
        caller = Caller(path)
        for byte in protocol.encode_request(0, environment(), CONFIG)[:2]:
            await caller.send(bytes([byte]), [file.fileno()])
        code, message = await caller.failure()
    assert (code, "2 descriptors came" in message) == (5, True)


async def test_a_descriptor_beside_an_errno_is_refused_and_closed(
    path: Path, backend: FakeBackend, file: BinaryIO
) -> None:
    """The two contradict each other."""
    async with served(path, backend):
        caller = Caller(path)
        await caller.send(protocol.encode_request(errno.ENOENT, environment(), CONFIG), [file.fileno()])
        assert (await caller.failure())[0] == 5


async def test_a_caller_that_vanishes_leaves_nothing_open(path: Path, backend: FakeBackend, file: BinaryIO) -> None:
    """In the middle of its request, or before the answer."""
    async with served(path, backend):
        half = Caller(path)
        await half.send(protocol.encode_request(0, environment(), CONFIG)[:20], [file.fileno()])
        half.socket.close()
        silent = Caller(path)
        silent.socket.close()
        whole = await call(path, environment(), [file.fileno()])
        whole.socket.close()
        async with asyncio.timeout(LIMIT):
            await backend.finished.wait()
        assert (await (await call(path, environment("DEL"))).answer())[0] == 0


async def test_a_request_may_come_byte_by_byte(path: Path, backend: FakeBackend, file: BinaryIO) -> None:
    """However the bytes are cut, they are one request."""
    async with served(path, backend):
        caller = Caller(path)
        content = protocol.encode_request(0, environment(), CONFIG)
        await caller.send(content[:1], [file.fileno()])
        for byte in content[1:]:
            await caller.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await caller.answer())[0] == 0


async def test_a_slow_caller_is_told_and_let_go(path: Path, backend: FakeBackend) -> None:
    """It holds its place only until the deadline."""
    async with served(path, backend, SHORT):
        caller = Caller(path)
        await caller.send(protocol.encode_request(errno.ENOENT, environment(), CONFIG)[:-1])
        code, message = await caller.failure()
    assert (code, "did not arrive" in message) == (5, True)


async def test_late_work_is_told_and_runs_on_with_its_descriptor(
    path: Path, backend: FakeBackend, file: BinaryIO
) -> None:
    """The caller is told to try again; the namespace stays open until the work has ended."""
    backend.gate.clear()
    async with served(path, backend, SHORT):
        code, message = await (await call(path, environment(), [file.fileno()])).failure()
        assert (code, "goes on" in message) == (11, True)
        backend.gate.set()
        async with asyncio.timeout(LIMIT):
            await backend.finished.wait()
    assert backend.inodes == [os.fstat(file.fileno()).st_ino]


async def test_calls_are_served_side_by_side(path: Path, backend: FakeBackend) -> None:
    """A call that waits holds nobody else."""
    backend.gate.clear()
    async with served(path, backend):
        callers = [await call(path, environment("DEL")) for _ in range(100)]
        await until(lambda: backend.running == 100)
        backend.gate.set()
        assert {await caller.answer() for caller in callers} == {(0, b"")}


async def test_a_server_that_stops_finishes_what_it_began(path: Path, backend: FakeBackend) -> None:
    """The call gets its answer, new ones find no socket."""
    backend.gate.clear()
    task = asyncio.create_task(serve(bind(path), path, backend))
    caller = await call(path, environment("DEL"))
    await until(lambda: backend.running == 1)
    task.cancel()
    await until(lambda: not path.exists())
    for _ in range(20):  # more turns of the loop than an end without waiting would take
        await asyncio.sleep(0)
    assert not task.done()
    backend.gate.set()
    assert await caller.answer() == (0, b"")
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_server_that_stops_waits_less_long_for_requests(path: Path, backend: FakeBackend) -> None:
    """Nothing has begun for a caller that says nothing; it is told to try again, and does not hold up the end."""
    deadlines = Deadlines(receive_seconds=LIMIT, stop_seconds=LIMIT, last_request_seconds=0.05)
    task = asyncio.create_task(serve(bind(path), path, backend, deadlines))
    early, late = Caller(path), Caller(path)
    await early.send(b"T")
    async with asyncio.timeout(LIMIT / 2):
        assert await (await call(path, environment("DEL"))).answer() == (0, b"")  # by now all have been accepted
        task.cancel()
        for caller in (early, late):
            assert await caller.failure() == (11, "the agent stopped before the call was done")
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_work_cut_short_from_within_is_try_again_later(path: Path, backend: FakeBackend) -> None:
    """Parts of the agent that stop first cancel who waits for them; the caller hears of it all the same."""
    backend.error = asyncio.CancelledError()
    async with served(path, backend):
        assert await (await call(path, environment("DEL"))).failure() == (
            11,
            "the agent stopped before the call was done",
        )


async def test_work_without_end_is_abandoned_when_the_server_stops(path: Path, backend: FakeBackend) -> None:
    """Stopping has a deadline."""
    backend.gate.clear()
    task = asyncio.create_task(serve(bind(path), path, backend, Deadlines(stop_seconds=0.05)))
    caller = await call(path, environment("DEL"))
    await until(lambda: backend.running == 1)
    task.cancel()
    async with asyncio.timeout(LIMIT):
        with pytest.raises(asyncio.CancelledError):
            await task
    caller.socket.close()


async def test_a_dead_agents_socket_is_replaced(path: Path, backend: FakeBackend) -> None:
    """A crash leaves it behind."""
    bind(path).close()
    async with served(path, backend):
        assert (await (await call(path, environment("DEL"))).answer())[0] == 0

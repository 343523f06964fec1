"""Whatever a caller sends, it gets an answer of the protocol, and the agent goes on as before."""

from __future__ import annotations

import array
import asyncio
import ipaddress
import json
import math
import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.assignment.assigner import Assigner
from controller.cni import protocol
from controller.cni.answering import Answer, answer
from controller.cni.backend import WorkloadBackend
from controller.cni.protocol import CNI_VERSIONS
from controller.cni.receiving import ReceivedRequest
from controller.cni.server import serve
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.kernel.link_inspection import ContainerSide, HostSide, LinkState
from controller.ports import ABSENT, Put
from controller.private_socket import bind
from controller.store.memory import MemoryStore
from ipam.pool import Pool
from tests.mutations import EXAMPLES, FUZZ, VALUES, mutated_bytes, mutated_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from controller.ports import KernelRoute, WorkloadLink

REQUESTS = Path(__file__).parents[1] / "contract" / "cni" / "requests"
CALLS = [call for path in sorted(REQUESTS.glob("*.json")) for call in json.loads(path.read_text())["calls"]]
LIMIT = 60

VARIABLES = st.text(max_size=30) | st.sampled_from(
    ["", "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "/", "IP=10.66.0.300", "MAC=ff:ff:ff:ff:ff:ff", ";;=;"]
)
#: What a runtime remembers of an ADD.
RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "tor000000000000", "mac": "ee:ee:ee:ee:ee:ee"},
        {"name": "eth0", "mac": "02:11:22:33:44:55", "sandbox": "/run/netns/left"},
    ],
    "ips": [{"address": "10.66.0.1/32", "gateway": "169.254.1.1", "interface": 1}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
}
#: What another plugin may have answered.
PREVIOUS = st.dictionaries(
    st.sampled_from(["dns", "ips", "x"]), VALUES | st.sampled_from([math.nan, -math.inf, {"a": math.inf}]), max_size=3
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return environment and standard input of a call that a runtime made, with something wrong about it."""
    call = draw(st.sampled_from(CALLS))
    variables = dict(call["environment"])
    for name in draw(st.lists(st.sampled_from(sorted(variables)), max_size=2)):
        variables[name] = draw(VARIABLES)
    configuration = call["configuration"]
    if configuration.get("prevResult") == "@result":
        configuration = {**configuration, "prevResult": RESULT}
    configuration = draw(mutated_json(configuration)) if draw(st.integers(0, 3)) else configuration
    if isinstance(configuration, dict) and not draw(st.integers(0, 3)):
        configuration = {**configuration, "prevResult": draw(PREVIOUS)}
    environment = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items())
    return draw(mutated_bytes(environment)), draw(mutated_bytes(json.dumps(configuration).encode()))


class Kernel:
    """Links in memory."""

    def __init__(self) -> None:
        self.index_of: dict[str, int] = {}

    async def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link."""
        os.fstat(namespace_descriptor)
        return self.index_of.setdefault(link.host_name, 7)

    async def unwire(self, host_name: str, _descriptor: int | None = None) -> None:
        """Remove the link."""
        self.index_of.pop(host_name, None)

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Take the routes."""


def inspect(*_arguments: object) -> LinkState:
    """Find nothing of any link."""
    nothing = ContainerSide(None, frozenset(), frozenset(), {}, ipv6_off=True)
    return LinkState(HostSide(None, frozenset(), {}, {}), nothing)


class Agent:
    """An agent with its socket, on an event loop of its own."""

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        self.runner = runner
        self.path = directory / "cni.sock"
        self.kernel = Kernel()
        self.store = MemoryStore()
        self.assigner = Assigner(self.store, "node", time.time)
        self.backend = WorkloadBackend(
            addresses=self.assigner,
            links=self.kernel,
            routes=self.kernel,
            default_mtu_bytes=lambda: 1500,
            obstacle=lambda: None,
            inspect=inspect,
        )

    async def start(self) -> None:
        """Begin to serve."""
        pools = (
            Pool("four", ipaddress.ip_network("10.66.0.0/24"), 26),
            Pool("six", ipaddress.ip_network("fd66::/120"), 122),
        )
        await self.store.commit([Put(keys.pool(pool.name), encode_pool(pool), ABSENT) for pool in pools])
        await self.assigner.start()
        self._serving = asyncio.create_task(serve(bind(self.path), self.path, self.backend))

    async def stop(self) -> None:
        """Release what is left as operators would, and stop."""
        self._serving.cancel()
        with suppress(asyncio.CancelledError):
            await self._serving
        for handle in {holder.handle for holder in self.assigner.holders().values()}:
            await self.assigner.release(handle)
        assert self.backend._turn_of == {}
        await self.assigner.close()
        await self.store.close()

    def check_links(self) -> None:
        """Check that every link has addresses, without which nobody would ever remove it, and the other way round."""
        held = {holder.interface for holder in self.assigner.holders().values()}
        assert set(self.kernel.index_of) == held

    async def exchange(self, content: bytes, descriptors: list[int]) -> bytes:
        """Send these bytes and no more, and return everything that comes back."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.setblocking(False)
            caller.connect(str(self.path))
            if content and descriptors:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                content = content[caller.sendmsg([content[:1]], rights) :]
            received = bytearray()
            async with asyncio.timeout(LIMIT):
                # The agent answers and hangs up as soon as it knows what is wrong.
                with suppress(BrokenPipeError, ConnectionResetError):
                    await loop.sock_sendall(caller, content)
                    caller.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    while chunk := await loop.sock_recv(caller, 1 << 16):
                        received += chunk
            return bytes(received)


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Serve on an event loop that goes on only while a request is made; afterwards no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  nothing but a count
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner() as runner:
        made = Agent(runner, Path(directory))
        runner.run(made.start())
        try:
            yield made
        finally:
            runner.run(made.stop())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  nothing but a count


@pytest.fixture
def namespace() -> Iterator[int]:
    """Give an open descriptor to pass for a namespace."""
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def strict_json(text: bytes) -> dict[str, Any]:
    """Return what the text says as any program would read it, not only Python's."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    decoded = json.loads(text, parse_constant=refuse)
    assert isinstance(decoded, dict)
    return decoded


def check(reply: Answer) -> None:
    """Check that an answer is one of the protocol, and tells of no defect."""
    assert len(reply.output) <= protocol.MAX_OUTPUT_BYTES
    if reply.exit_status == 0:
        assert not reply.output or strict_json(reply.output)["cniVersion"] in CNI_VERSIONS
        return
    failure = strict_json(reply.output)
    assert reply.exit_status == 1
    assert set(failure) == {"cniVersion", "code", "msg", "details"}
    assert failure["cniVersion"] in CNI_VERSIONS
    assert 0 < failure["code"] < 999, failure
    assert failure["msg"]


@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_a_mutated_call_is_answered(agent: Agent, namespace: int) -> None:
    """Parsing, address management and the answer, for calls that are nearly right."""

    @FUZZ
    @given(requests(), st.booleans())
    def fuzz(request: tuple[bytes, bytes], opened: bool) -> None:  # noqa: FBT001  drawn by hypothesis
        environment, standard_input = request
        received = ReceivedRequest(namespace if opened else None, 0 if opened else 2, environment, standard_input)
        check(agent.runner.run(asyncio.wait_for(answer(received, agent.backend), LIMIT)))
        agent.check_links()

    fuzz()


@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_mutated_bytes_on_the_socket_are_answered_or_dropped(agent: Agent, namespace: int) -> None:
    """Framing and descriptors, for bytes that are nearly a request; nothing that came with them stays open."""

    @FUZZ
    @given(requests(), st.data(), st.integers(0, 3))
    def fuzz(request: tuple[bytes, bytes], data: st.DataObject, count: int) -> None:
        whole = protocol.encode_request(0 if count else 2, *request)
        sent = data.draw(mutated_bytes(whole[: protocol.REQUEST_HEADER.size])) + whole[protocol.REQUEST_HEADER.size :]
        received = agent.runner.run(agent.exchange(data.draw(mutated_bytes(sent)), [namespace] * count))
        if received:
            head, output = received[: protocol.REPLY_HEADER.size], received[protocol.REPLY_HEADER.size :]
            status, length = protocol.decode_reply_header(head)
            assert length == len(output)
            check(Answer(status, output))
        agent.check_links()

    fuzz()

"""Draining a node and taking that back, as an operator does it, and waiting until it has its effect."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from pathlib import Path
from socketserver import UnixStreamServer
from typing import TYPE_CHECKING, TypeAlias

import pytest

from controller.assignment.node_deletion import delete_node
from controller.cli.main import run
from controller.cli.node_drain import await_withdrawal, drain_node, undrain_node
from controller.datamodel import keys
from controller.datamodel.bgp_records import Drain, decode_drain
from controller.datamodel.endpoints import Endpoints, encode_endpoints
from controller.datamodel.records import Node, encode_node
from controller.errors import AgentUnavailable, RefusedError
from controller.ports import Put
from controller.store.memory import MemoryStore
from controller.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from controller.ports import Operation, Store, Version

Work: TypeAlias = "Callable[[Store], Awaitable[object]]"
NODE = Put(keys.node("h1"), encode_node(Node("h1", 64512, IPv4Address("192.0.2.1"), None)), None)
NOWHERE = Path("/nowhere.sock")
DRAIN = Drain("h1", 1000.0, 10.0)


class Host:
    """A clock that goes only while somebody waits, and what the store says of the drain meanwhile."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.present: Drain | None = DRAIN
        self.at: dict[float, Callable[[], None]] = {}

    def pause(self, seconds: float) -> None:
        """Let the time pass, and what is to happen by then happen."""
        self.now += seconds
        for time_of in [each for each in self.at if each <= self.now]:
            self.at.pop(time_of)()

    def wait(self, socket: Path) -> bool:
        """Wait for the drain's effect."""
        return await_withdrawal(DRAIN, lambda: self.present, socket, clock=lambda: self.now, pause=self.pause)


@contextmanager
def agent(path: Path, node: str, phases: Sequence[str]) -> Iterator[None]:
    """Run an agent that says of its drain one after the other of these, and the last for ever."""
    remaining = list(phases)

    class Answer(BaseHTTPRequestHandler):
        """Says what is next."""

        def do_GET(self) -> None:
            """Answer with the status."""
            drain = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            bgp = {"connected": True, "peers": [], "rejected": [], "problems": []}
            status = {"node": node, "version": "1", "ready": True, "drain": drain, "bgp": bgp, "problems": []}
            status |= {"store": {"kind": "sqlite", "connected": True}, "routes": {"in_sync": True, "count": 0}}
            body = json.dumps(status).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's signature
            """Say nothing."""

    with UnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def in_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], object]:
    """Return a function that does something with the store of the commands, in which there is one node."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    monkeypatch.setenv("TORTIE_AGENT_SOCKET", str(NOWHERE))

    def done(work: Work) -> object:
        async def opened() -> object:
            store = SqliteStore(path)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(opened())

    done(lambda store: store.commit([NODE]))
    return done


class OvertakenStore(MemoryStore):
    """A store in which somebody else does something just before one's own next transaction, once."""

    other: Callable[[], Awaitable[object]] | None = None

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Let the other go first."""
        other, self.other = self.other, None
        if other is not None:
            await other()
        return await super().commit(operations)


def state(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the node's state as the table of nodes shows it."""
    capsys.readouterr()
    assert run(["get", "nodes", "h1"]) == 0
    return capsys.readouterr().out.splitlines()[1].split()[1]


def test_a_node_is_drained_and_undrained(
    in_store: Callable[[Work], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record says since when and for how long it only asks; the table of nodes shows how far it is."""

    async def record(store: Store) -> Drain:
        return decode_drain(keys.drain("h1"), (await store.get([keys.drain("h1")]))[keys.drain("h1")].value)

    before = time.time()
    assert run(["node", "drain", "h1"]) == 0
    drain = in_store(record)
    assert isinstance(drain, Drain)
    assert before <= drain.since <= time.time()
    assert drain.grace_seconds == 10
    assert state(capsys) == "draining"
    assert run(["node", "undrain", "h1"]) == 0
    assert state(capsys) == "silent"
    assert run(["node", "drain", "h1", "--grace-seconds=0"]) == 0
    assert state(capsys) == "drained"


def test_doing_it_twice_changes_nothing(in_store: Callable[[Work], object], capsys: pytest.CaptureFixture[str]) -> None:
    """The first drain goes on, whatever grace the second asks for."""
    run(["node", "drain", "h1", "--grace-seconds=0"])
    first = in_store(lambda store: store.get([keys.drain("h1")]))
    assert run(["node", "drain", "h1", "--grace-seconds=60"]) == 0
    assert in_store(lambda store: store.get([keys.drain("h1")])) == first
    assert capsys.readouterr().out.splitlines()[1].startswith("node h1 drained since ")
    assert run(["node", "undrain", "h1"]) == 0
    assert run(["node", "undrain", "h1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["node h1 undrained", "node h1 was not drained"]


@pytest.mark.usefixtures("in_store")
@pytest.mark.parametrize("command", [["drain", "h2"], ["undrain", "h2"]])
def test_a_node_that_does_not_exist_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With those that do."""
    assert run(["node", *command]) == 1
    assert "node h2 does not exist; the nodes are: h1" in capsys.readouterr().err


@pytest.mark.usefixtures("in_store")
def test_a_grace_period_out_of_range_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A day is the most."""
    assert run(["node", "drain", "h1", "--grace-seconds=-1"]) == 2
    assert run(["node", "drain", "h1", "--grace-seconds=86401"]) == 2
    assert "0<=x<=86400" in capsys.readouterr().err


async def test_a_drain_that_cannot_be_read_is_replaced_or_removed() -> None:
    """Both are ways out."""
    store = MemoryStore()
    await store.commit([NODE, Put(keys.drain("h1"), b"{", None)])
    assert await drain_node(store, "h1", grace_seconds=1.0, now=5.0) == (Drain("h1", 5.0, 1.0), True)
    await store.commit([Put(keys.drain("h1"), b"{", None)])
    assert await undrain_node(store, "h1")
    assert await store.list(keys.DRAINS) == {}


async def test_two_who_drain_at_once_agree() -> None:
    """The second takes what the first wrote."""
    store = OvertakenStore()
    await store.commit([NODE])
    store.other = lambda: drain_node(store, "h1", grace_seconds=1.0, now=5.0)
    assert await drain_node(store, "h1", grace_seconds=9.0, now=6.0) == (Drain("h1", 5.0, 1.0), False)


async def test_a_node_that_is_deleted_meanwhile_is_not_drained() -> None:
    """A later node of that name would come up drained."""
    store = OvertakenStore()
    await store.commit([NODE])
    store.other = lambda: delete_node(store, "h1")
    with pytest.raises(RefusedError, match="node h1 does not exist"):
        await drain_node(store, "h1", grace_seconds=1.0, now=5.0)
    assert await store.list(keys.DRAINS) == {}


def test_a_node_is_silent_when_its_agent_has_not_written_for_long(
    in_store: Callable[[Work], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice the time after which a living one writes again."""

    def seen(seconds_ago: float) -> str:
        record = encode_endpoints(Endpoints("h1", time.time() - seconds_ago))
        in_store(lambda store: store.commit([Put(keys.endpoints("h1"), record, None)]))
        return state(capsys)

    assert seen(200) == "running"
    assert seen(400) == "silent"
    assert seen(-60) == "running"  # the node's clock is ahead


def test_waiting_for_a_node_elsewhere_goes_by_the_clock(tmp_path: Path) -> None:
    """There is nobody to ask; the agent of this host is another node's."""
    host = Host(1004.0)
    with agent(tmp_path / "agent.sock", "other", [""]):
        assert not host.wait(tmp_path / "agent.sock")
    assert host.now == pytest.approx(1010.0)
    assert not Host(2000.0).wait(NOWHERE)


def test_waiting_for_this_node_goes_by_its_agent(tmp_path: Path) -> None:
    """It is over when the agent says so, not when the time has come."""
    host = Host(1000.0)
    with agent(tmp_path / "agent.sock", "h1", ["", "draining", "drained"]):
        assert host.wait(tmp_path / "agent.sock")
    assert host.now > 1010.0


def test_an_agent_that_does_not_act_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """What it says is told."""
    host = Host(1000.0)
    with (
        agent(tmp_path / "agent.sock", "h1", ["draining"]),
        pytest.raises(AgentUnavailable, match="its agent still says 'draining' 30 s after"),
    ):
        host.wait(tmp_path / "agent.sock")
    assert host.now < 1050.0


@pytest.mark.parametrize("after", [None, Drain("h1", 1005.0, 10.0)])
@pytest.mark.parametrize("at", [1005.0, 1012.0])
def test_waiting_ends_when_the_drain_does(after: Drain | None, at: float, tmp_path: Path) -> None:
    """Before the time to withdraw and after it."""
    host = Host(1000.0)
    host.at[at] = lambda: setattr(host, "present", after)
    with (
        agent(tmp_path / "agent.sock", "h1", ["draining"]),
        pytest.raises(RefusedError, match="h1 was undrained or drained anew meanwhile"),
    ):
        host.wait(tmp_path / "agent.sock")
    assert host.now < 1015.0


@pytest.mark.usefixtures("in_store")
def test_the_command_waits(capsys: pytest.CaptureFixture[str]) -> None:
    """And says on what its word rests."""
    assert run(["node", "drain", "h1", "--grace-seconds=0", "--wait"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "node h1 announces nothing if its clock is right"

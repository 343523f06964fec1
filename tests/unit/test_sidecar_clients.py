"""What the sidecar's clients are told: all of it and in order, at the speed they read."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING

import pytest

from bgp import nlri, wire
from bgp.events import EndOfRib, SpeakerSnapshot
from bgp.messages import Heartbeat, Hello, Told
from bgp.peer import Peer
from bgp.rib import AdjRibIn
from bgp.sidecar.clients import Clients
from bgp.sidecar.portions import portions
from bgp.updates import Group, Known, Prefixes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from bgp.messages import Message, Outgoing

HERE = ipaddress.ip_address("10.0.0.1")
PEERS = tuple(ipaddress.ip_address(f"10.0.0.{number}") for number in (2, 3, 4))
CONFIGURED = [Peer(address, HERE, 64512, 64512, "10.0.0.1") for address in PEERS]
#: As many communities as the octets of one update have room for.
LONG = tuple((64512, number) for number in range(500))


def block(number: int) -> bytes:
    """Return one of many prefixes, in octets."""
    return nlri.row([ipaddress.ip_network((int(ipaddress.ip_address("10.64.0.0")) + 64 * number, 26))])


def known() -> Known:
    """Return much: one peer with long attributes, one with few and many prefixes, one that has not ended yet."""
    shared = (HERE, PEERS[0], (64999,), 100, 0, "igp", LONG, "", ())
    groups = [Group(Prefixes(4, (block(number),)), (*shared[:4], number, *shared[5:])) for number in range(1500)]
    groups.append(
        Group(Prefixes(4, tuple(map(block, range(70_000)))), (HERE, PEERS[1], (), 100, 0, "igp", (), "192.0.2.9", ()))
    )
    groups.append(
        Group(Prefixes(6, (bytes.fromhex("10fd10"),)), (PEERS[2], PEERS[2], (), 100, 0, "igp", (), "", ("1.2.3.4",)))
    )
    ended = frozenset((address, version) for address in PEERS[:2] for version in (4, 6))
    return Known(frozenset(PEERS), ended, tuple(groups))


def learned(messages: Iterable[Message | None]) -> tuple[object, ...]:
    """Return what an agent knows afterwards that knew one route before."""
    rib = AdjRibIn()
    rib.configure(CONFIGURED, 0.0)
    before = Known(frozenset(PEERS), frozenset(), (Group(Prefixes(4, (block(99_999),)), known().routes[0].shared),))
    for message in (wire.decode(wire.encode(before)), *messages):
        rib.feed(message, 0.0)  # type: ignore[arg-type]  # only events are sent here
    return rib.routes(), rib.stale_count(), rib.settled(0.0), rib.next_expiry()


def test_a_snapshot_of_any_size_comes_in_lines_of_bounded_length_and_says_the_same() -> None:
    """Nothing is missing, what is there no more is gone, and a peer that has not ended is waited for."""
    lines = [wire.encode(message) for message in portions(known())]
    assert len(lines) > 10
    assert max(map(len, lines)) < 2 * 1024 * 1024
    assert isinstance(wire.decode(lines[0]), SpeakerSnapshot)
    assert learned(map(wire.decode, lines)) == learned([wire.decode(wire.encode(known()))])


def test_a_small_snapshot_is_one_line() -> None:
    """So it is heard at once."""
    small = Known(frozenset(PEERS), frozenset({(PEERS[0], 4)}), known().routes[:3])
    assert list(portions(small)) == [small]
    assert list(portions(Known(frozenset(), frozenset(), ()))) == [Known(frozenset(), frozenset(), ())]


class Place:
    """Clients of a sidecar that knows a little, and the path of its socket; `dropped` once a greeting is not kept."""

    def __init__(self, path: Path, deadline_seconds: float = 60.0) -> None:
        self.path = path
        self.greeting: list[Outgoing] = []
        self.dropped = asyncio.Event()
        self.clients = Clients(path, greeting=self._greet, on_desired=lambda _: None, deadline_seconds=deadline_seconds)

    def _greet(self) -> Iterator[Outgoing]:
        try:
            yield from list(self.greeting)
        finally:
            self.dropped.set()


@contextlib.asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Place]:
    """Open a place for a while."""
    await place.clients.open()
    try:
        yield place
    finally:
        place.clients.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """Offer a place that is open."""
    async with opened(Place(tmp_path / "bgp.sock")) as place:
        yield place


async def test_a_client_hears_nothing_but_heartbeats_until_the_sidecar_knows(place: Place) -> None:
    """Then everything, and what has happened since."""
    place.greeting = [Known(frozenset(), frozenset(), ())]
    reader, writer = await asyncio.open_unix_connection(place.path)
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        stack.callback(writer.transport.abort)
        assert wire.decode(await reader.readline()) == Hello(wire.PROTOCOL)
        place.clients.broadcast(Heartbeat())
        assert wire.decode(await reader.readline()) == Heartbeat()
        place.clients.ready.set()
        assert wire.decode(await reader.readline()) == SpeakerSnapshot(frozenset(), frozenset(), ())
        place.clients.broadcast(Told(frozenset()))
        assert wire.decode(await reader.readline()) == Told(frozenset())


async def test_what_happens_as_soon_as_the_sidecar_knows_is_not_told_before_the_greeting(place: Place) -> None:
    """An End-of-RIB before the routes would take away all that the peer announced."""
    reader, writer = await asyncio.open_unix_connection(place.path)
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        stack.callback(writer.transport.abort)
        assert wire.decode(await reader.readline()) == Hello(wire.PROTOCOL)
        place.clients.ready.set()
        place.greeting = [Known(frozenset(), frozenset({(PEERS[0], 4)}), ())]
        place.clients.broadcast(EndOfRib(PEERS[0], 4))
        place.clients.broadcast(Heartbeat())
        heard = [wire.decode(await reader.readline()) for _ in range(2)]
        assert heard == [Heartbeat(), SpeakerSnapshot(frozenset(), frozenset({(PEERS[0], 4)}), ())]
        place.clients.broadcast(EndOfRib(PEERS[0], 6))
        assert wire.decode(await reader.readline()) == EndOfRib(PEERS[0], 6)


async def test_a_client_is_greeted_to_the_end_however_long_that_is_and_hears_later_what_happens_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The greeting is as long as many of the longest lines; nothing that happens gets before it, or lost."""
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 100_000)
    place.greeting = [EndOfRib(PEERS[0], 4)] * 50_000
    place.clients.ready.set()
    reader, writer = await asyncio.open_unix_connection(place.path)
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        stack.callback(writer.transport.abort)
        assert wire.decode(await reader.readline()) == Hello(wire.PROTOCOL)
        heard = []
        for number in range(50_000):
            heard.append(wire.decode(await reader.readline()))
            if number < 500:
                place.clients.broadcast(EndOfRib(PEERS[1], 6))
        assert heard == [EndOfRib(PEERS[0], 4)] * 50_000
        assert [wire.decode(await reader.readline()) for _ in range(500)] == [EndOfRib(PEERS[1], 6)] * 500


async def test_a_client_that_does_not_read_is_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it is still being greeted or not; others are not. It is logged once, however much happens."""
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 100_000)
    place.greeting = [EndOfRib(PEERS[0], 4)] * 50_000
    place.clients.ready.set()
    reader, writer = await asyncio.open_unix_connection(place.path)
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        stack.callback(writer.transport.abort)
        assert wire.decode(await reader.readline()) == Hello(wire.PROTOCOL)
        for _ in range(5_000):
            place.clients.broadcast(EndOfRib(PEERS[1], 6))
        with contextlib.suppress(ConnectionError):
            heard = [line async for line in reader]
            assert len(heard) < 50_000
        assert reader.at_eof() or reader.exception() is not None
    assert [record.message for record in caplog.records].count("client does not read; cut off") == 1


async def test_a_client_that_reads_nothing_of_its_greeting_is_cut_off_and_the_greeting_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if nothing happens that could pile up; it is logged once, whatever happens afterwards."""
    async with asyncio.timeout(60), opened(Place(tmp_path / "bgp.sock", 0.1)) as place:
        place.greeting = [EndOfRib(PEERS[0], 4)] * 50_000
        place.clients.ready.set()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place.path))
            await place.dropped.wait()
            place.clients.broadcast(EndOfRib(PEERS[1], 6))
            reader, writer = await asyncio.open_unix_connection(sock=client)
            with contextlib.closing(writer), contextlib.suppress(ConnectionError):
                assert len([line async for line in reader]) < 50_000
    assert [record.message for record in caplog.records] == ["client does not read its greeting; cut off"]

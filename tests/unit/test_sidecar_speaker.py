"""The speaker port against a scripted sidecar: what is desired always arrives, and losses are told once."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import TYPE_CHECKING

import pytest

from bgp import wire
from bgp.events import SessionState, SessionStatus, SpeakerLost, SpeakerSnapshot
from bgp.messages import Desired, Heartbeat, Hello, Sessions, Told
from bgp.route import Announcement
from bgp.updates import Group, Known, Prefixes, Update
from controller.speaker.client import SidecarSpeaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bgp.messages import Message, Outgoing

HERE = ipaddress.ip_address("10.0.0.1")
#: What a sidecar that knows nothing says, and what is read of it.
NOTHING_KNOWN = Known(frozenset(), frozenset(), ())
EMPTY = SpeakerSnapshot(frozenset(), frozenset(), ())


class Script:
    """A sidecar that greets every client with the same messages and keeps what it is told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.greeting: list[Outgoing] = [Hello(wire.PROTOCOL), NOTHING_KNOWN]
        self.told: asyncio.Queue[Message | None] = asyncio.Queue()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def close(self) -> None:
        """Go away, as a process that dies does."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(b"".join(wire.encode(message) for message in self.greeting))
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self.told.put_nowait(wire.decode(line))
        writer.transport.abort()


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[Script]:
    """Offer a sidecar that is not listening yet."""
    script = Script(tmp_path / "bgp.sock")
    yield script
    await script.close()


@pytest.fixture
async def speaker(tmp_path: Path) -> AsyncIterator[SidecarSpeaker]:
    """Offer the port."""
    speaker = SidecarSpeaker(tmp_path / "bgp.sock")
    yield speaker
    await speaker.close()


def announcements(count: int) -> tuple[Announcement, ...]:
    """Return so many announcements."""
    return tuple(Announcement(ipaddress.ip_network(f"10.9.{number}.0/26"), HERE) for number in range(count))


async def test_what_is_desired_is_sent_at_every_connection_and_at_every_change(
    script: Script, speaker: SidecarSpeaker
) -> None:
    """Set before the sidecar is there, changed while it is, and sent again to the one that comes after it."""
    await speaker.set([], announcements(1))
    async with asyncio.timeout(30), contextlib.aclosing(speaker.events()) as events:
        assert isinstance(await anext(events), SpeakerLost)
        await script.open()
        assert await anext(events) == EMPTY
        assert await script.told.get() == Desired((), announcements(1))
        await speaker.set([], announcements(2))
        assert await script.told.get() == Desired((), announcements(2))
        await script.close()
        assert isinstance(await anext(events), SpeakerLost)
        await script.open()
        assert await anext(events) == EMPTY
        assert await script.told.get() == Desired((), announcements(2))


async def test_what_is_desired_already_is_not_sent_again(script: Script, speaker: SidecarSpeaker) -> None:
    """The agent says it at every decision, and a decision is made at every update of a peer."""
    await script.open()
    async with asyncio.timeout(30), contextlib.aclosing(speaker.events()) as events:
        assert await anext(events) == EMPTY
        await speaker.set([], announcements(1))
        assert await script.told.get() == Desired((), announcements(1))
        await speaker.set([], announcements(1))
        for _ in range(10):
            await asyncio.sleep(0)  # the sender's turn, should it have something to send
        await speaker.set([], announcements(2))
        assert await script.told.get() == Desired((), announcements(2))


async def test_sessions_are_kept_beside_the_events(script: Script, speaker: SidecarSpeaker) -> None:
    """They are what the sidecar said last, and unknown once it is lost."""
    status = SessionStatus(HERE, SessionState.IDLE, 1.0, "refused")
    script.greeting = [Hello(wire.PROTOCOL), Sessions((status,)), Heartbeat(), NOTHING_KNOWN]
    await script.open()
    async with asyncio.timeout(30), contextlib.aclosing(speaker.events()) as events:
        assert await anext(events) == EMPTY
        assert speaker.sessions == (status,)
        await script.close()
        assert isinstance(await anext(events), SpeakerLost)
        assert not speaker.sessions


async def test_what_is_announced_is_known_until_the_sidecar_is_lost(script: Script, speaker: SidecarSpeaker) -> None:
    """Who waits for an announcement is called when the sidecar tells of it, and finds it; unknown is not announced."""
    prefix = announcements(1)[0].prefix
    script.greeting = [Hello(wire.PROTOCOL), Told(frozenset({prefix})), NOTHING_KNOWN]
    heard: list[frozenset[object]] = []
    speaker.on_announced(lambda: heard.append(speaker.announced))
    await script.open()
    async with asyncio.timeout(30), contextlib.aclosing(speaker.events()) as events:
        assert await anext(events) == EMPTY
        assert heard == [{prefix}]
        await script.close()
        assert isinstance(await anext(events), SpeakerLost)
        assert not speaker.announced


async def test_a_sidecar_of_another_protocol_is_not_believed(script: Script, speaker: SidecarSpeaker) -> None:
    """It counts as lost, told once however often it is tried, until one of this protocol takes its place."""
    script.greeting = [Hello(wire.PROTOCOL + 1), NOTHING_KNOWN]
    await script.open()
    async with asyncio.timeout(30), contextlib.aclosing(speaker.events()) as events:
        lost = await anext(events)
        assert isinstance(lost, SpeakerLost)
        assert "protocol 3, not 2" in lost.reason
        script.greeting = [Hello(wire.PROTOCOL), NOTHING_KNOWN]
        assert await anext(events) == EMPTY


async def test_a_line_that_is_too_long_is_told_with_the_peer_it_is_about(
    script: Script, speaker: SidecarSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the log knows which session to look at; the next connection is tried as ever."""
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 1000)
    long = Group(Prefixes(4, (b"\x18\x0a\x09\x00",) * 1000), (HERE, HERE, (), 100, 0, "igp", (), "", ()))
    script.greeting = [Hello(wire.PROTOCOL), NOTHING_KNOWN, Update(HERE, (), (long,))]
    await script.open()
    async with asyncio.timeout(30), contextlib.aclosing(speaker.events()) as events:
        assert await anext(events) == EMPTY
        lost = await anext(events)
        assert isinstance(lost, SpeakerLost)
        assert "about peer 10.0.0.1 is longer than 1000 bytes" in lost.reason
        assert await anext(events) == EMPTY


async def test_a_closed_speaker_ends_its_events(script: Script, speaker: SidecarSpeaker) -> None:
    """The consumer's loop ends, without a loss to act on."""
    await script.open()
    async with asyncio.timeout(30), contextlib.aclosing(speaker.events()) as events:
        assert await anext(events) == EMPTY
        await speaker.close()
        assert [event async for event in events] == []

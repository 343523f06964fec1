"""The speaker port over the sidecar's unix socket.

The connection lives in `events`, which also sends: whoever listens is connected, and one task owns the socket. What is
desired is kept and sent whole at every connection, and whenever it changes; the sidecar applies the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from typing import TYPE_CHECKING

from bgp import wire
from bgp.events import SpeakerLost
from bgp.messages import Desired, Heartbeat, Hello, Refusal, Sessions, Told
from controller.errors import SpeakerUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection
    from pathlib import Path

    from bgp.events import SessionStatus, SpeakerEvent
    from bgp.messages import Message
    from bgp.peer import Peer
    from bgp.route import Announcement
    from ipam.address import IPNetwork

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 3 * wire.HEARTBEAT_SECONDS
#: A line that is too long names its peer in its beginning.
_BEGINNING_BYTES = 1000
_NAMED_PEER = re.compile(rb'"peer":"([0-9a-f.:]+)"')


class SidecarSpeaker:
    """A client of the sidecar that listens on `socket_path`; give `events` to one consumer."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._desired: Desired | None = None
        self._changed = asyncio.Event()
        self._closed = False
        self._writer: asyncio.StreamWriter | None = None
        self._sessions: tuple[SessionStatus, ...] = ()
        self._announced: frozenset[IPNetwork] = frozenset()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def sessions(self) -> tuple[SessionStatus, ...]:
        """What the sidecar last said of every configured peer; empty while it is not connected."""
        return self._sessions

    @property
    def announced(self) -> frozenset[IPNetwork]:
        """The prefixes that the speaker took last for all of its sessions; empty while the sidecar is not connected."""
        return self._announced

    def on_announced(self, callback: Callable[[], None]) -> None:
        """Call this whenever `announced` has something new."""
        self._callbacks.append(callback)

    async def set(self, peers: Collection[Peer], announcements: Collection[Announcement]) -> None:
        """Make these the whole desired state; it is sent at once or as soon as the sidecar is there."""
        desired = Desired(tuple(peers), tuple(announcements))
        if desired != self._desired:
            self._desired = desired
            self._changed.set()

    async def events(self) -> AsyncGenerator[SpeakerEvent, None]:
        """Deliver a snapshot at every connection, then events, and `SpeakerLost` once for every connection lost.

        The first connection that cannot be made is a loss too, so that a consumer knows it stands alone.
        """
        pause = _FIRST_PAUSE_SECONDS
        told = False
        while not self._closed:
            try:
                async with contextlib.aclosing(self._connection()) as events:
                    async for event in events:
                        pause, told = _FIRST_PAUSE_SECONDS, False
                        yield event
            except SpeakerUnavailable as error:
                self._sessions, self._announced = (), frozenset()
                if not told and not self._closed:
                    log.warning("speaker lost", extra={"reason": str(error)})
                    told = True
                    yield SpeakerLost(str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def close(self) -> None:
        """End the connection; the consumer of `events` sees its end."""
        self._closed = True
        if self._writer is not None:
            self._writer.transport.abort()

    async def _connection(self) -> AsyncGenerator[SpeakerEvent, None]:
        """Deliver the events of one connection, until it ends with `SpeakerUnavailable`."""
        reader, writer = await self._connect()
        self._writer = writer
        sender = asyncio.create_task(self._send(writer))
        try:
            while True:
                message = await self._receive(reader)
                if isinstance(message, Sessions):
                    self._sessions = message.sessions
                elif isinstance(message, Told):
                    self._announced = message.prefixes
                    for callback in self._callbacks:
                        callback()
                elif isinstance(message, Refusal):
                    log.error("speaker refused the desired state", extra={"reason": message.message})
                elif isinstance(message, Hello):
                    if message.protocol != wire.PROTOCOL:
                        reason = (
                            f"the sidecar speaks protocol {message.protocol}, not {wire.PROTOCOL}: upgrade the older"
                        )
                        raise SpeakerUnavailable(reason)
                elif message is not None and not isinstance(message, Heartbeat | Desired):
                    yield message
                    await asyncio.sleep(0)  # what has come already is read without a wait; others want their turn
        finally:
            self._writer = None
            sender.cancel()
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await asyncio.open_unix_connection(self._socket_path, limit=wire.MAX_LINE_BYTES)
        except (OSError, TimeoutError) as error:
            raise SpeakerUnavailable(f"{self._socket_path}: {error or 'no answer'}; is tortie-bgp running?") from error

    async def _receive(self, reader: asyncio.StreamReader) -> Message | None:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                line = await reader.readuntil(b"\n")
            return wire.decode(line)
        except asyncio.IncompleteReadError as error:
            raise SpeakerUnavailable(f"{self._socket_path}: the sidecar closed the connection") from error
        except asyncio.LimitOverrunError as error:
            beginning = await reader.read(_BEGINNING_BYTES)
            found = _NAMED_PEER.search(beginning)
            whom = f" about peer {found[1].decode()}" if found else ""
            reason = f"{self._socket_path}: a line{whom} is longer than {wire.MAX_LINE_BYTES} bytes; restart tortie-bgp"
            raise SpeakerUnavailable(reason) from error
        except TimeoutError as error:
            raise SpeakerUnavailable(f"{self._socket_path}: no sign of life for {_SILENCE_SECONDS:g} s") from error
        except (OSError, ValueError) as error:
            raise SpeakerUnavailable(f"{self._socket_path}: {error}") from error

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        """Send what is desired now, and again whenever it changes; only the newest if the sidecar is slow."""
        with contextlib.suppress(OSError):
            while True:
                self._changed.clear()
                if self._desired is not None:
                    writer.write(wire.encode(self._desired))
                    await writer.drain()
                await self._changed.wait()

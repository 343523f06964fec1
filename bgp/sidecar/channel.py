"""The two pipes to ExaBGP: events and answers come in, commands go out, one at a time.

ExaBGP has one thread and writes to this process without a timeout: if nobody reads, every BGP session dies. So the
reader takes whatever comes and never waits for anything. ExaBGP answers commands of different kinds in any order, so
only one is outstanding.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bgp.exabgp_events import is_event

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

_ANSWERS = {"done": True, "error": False}


class ChannelStuck(Exception):
    """ExaBGP did not answer within the deadline; what it will answer later can no longer be told apart."""


@dataclass(slots=True)
class _Outstanding:
    finished: asyncio.Future[bool]
    on_line: Callable[[str], None]
    #: The answer counts only once this says so: leftovers of a former process may come first.
    is_complete: Callable[[], bool]


@dataclass(slots=True)
class Answer:
    """What ExaBGP answered: whether it took the command, and the lines of text, if they were not consumed."""

    accepted: bool
    lines: list[str] = field(default_factory=list)


class Channel(asyncio.Protocol):
    """Open it with `open_channel`. `on_event` gets every event line in order; `closed` ends when ExaBGP is gone."""

    def __init__(self, on_event: Callable[[str], None], *, deadline_seconds: float) -> None:
        self._on_event = on_event
        self._deadline_seconds = deadline_seconds
        self._partial = b""
        self._outstanding: _Outstanding | None = None
        self._turn = asyncio.Lock()
        self.closed = asyncio.Event()
        self.commands: asyncio.WriteTransport | None = None

    def data_received(self, data: bytes) -> None:
        """Take all complete lines, each at once and in order."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._take(line.decode("ascii", "replace"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        """Note that ExaBGP is gone."""
        self.closed.set()

    async def command(
        self,
        line: str,
        *,
        on_line: Callable[[str], None] | None = None,
        is_complete: Callable[[], bool] = lambda: True,
    ) -> Answer:
        """Write a command and return its answer.

        `on_line` gets the answer's lines instead, each in its place among the events. Raises `ChannelStuck`.
        """
        lines: list[str] = []
        async with self._turn:
            finished = asyncio.get_running_loop().create_future()
            self._outstanding = _Outstanding(finished, on_line or lines.append, is_complete)
            try:
                if self.commands is not None:
                    self.commands.write(line.encode() + b"\n")
                async with asyncio.timeout(self._deadline_seconds):
                    accepted = await finished
            except TimeoutError as error:
                raise ChannelStuck(f"ExaBGP did not answer within {self._deadline_seconds} s: {line[:80]}") from error
            finally:
                self._outstanding = None
        return Answer(accepted, lines)

    def _take(self, line: str) -> None:
        if is_event(line):
            self._on_event(line)
            return
        outstanding = self._outstanding
        if outstanding is None or outstanding.finished.done():
            return
        if line not in _ANSWERS:
            outstanding.on_line(line)
        elif outstanding.is_complete():
            outstanding.finished.set_result(_ANSWERS[line])


async def open_channel(
    source: BinaryIO, sink: BinaryIO, on_event: Callable[[str], None], *, deadline_seconds: float = 60.0
) -> Channel:
    """Return a channel that reads one pipe and writes the other."""
    loop = asyncio.get_running_loop()
    channel = Channel(on_event, deadline_seconds=deadline_seconds)
    await loop.connect_read_pipe(lambda: channel, source)
    channel.commands, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sink)
    return channel


def close_channel(channel: Channel) -> None:
    """Stop writing; what was not written yet is lost."""
    if channel.commands is not None:
        with contextlib.suppress(OSError):
            channel.commands.abort()

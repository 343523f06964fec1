"""The sidecar's unix socket and everybody connected to it (the protocol is in `bgp.wire`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgp import wire
from bgp.messages import Desired, Heartbeat, Hello, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bgp.messages import Outgoing

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Client:
    """One that is connected.

    Until it `is_greeted`, what happens is not for it: the greeting will have it. What happens while it is being greeted
    is `behind` the greeting, else that is None.
    """

    writer: asyncio.StreamWriter
    is_greeted: bool = False
    behind: list[bytes] | None = None
    behind_bytes: int = 0

    def tell(self, line: bytes) -> None:
        """Queue a line; a client with more queued than the longest line does not read, and is cut off."""
        if self.writer.transport.is_closing():
            return
        if self.behind is not None:
            self.behind.append(line)
            self.behind_bytes += len(line)
        else:
            self.writer.write(line)
        if self.behind_bytes + self.writer.transport.get_write_buffer_size() > wire.MAX_LINE_BYTES + len(line):
            log.warning("client does not read; cut off")
            self.writer.transport.abort()

    async def greet(self, greeting: Iterable[Outgoing], deadline_seconds: float) -> None:
        """Send the greeting no faster than it is read, for it may be long, and then what happened meanwhile.

        Raises `TimeoutError` if a message of it is not read within the deadline.
        """
        self.is_greeted, self.behind = True, []
        for message in greeting:
            self.writer.write(wire.encode(message))
            async with asyncio.timeout(deadline_seconds):
                await self.writer.drain()
            await asyncio.sleep(0)  # there are others, and ExaBGP must never wait
        self.writer.write(b"".join(self.behind))
        self.behind, self.behind_bytes = None, 0


class Clients:
    """Serves any number of clients; one that does not read is cut off, and gets a snapshot when it comes back.

    `greeting` returns what a client is told after the hello, as of the moment it is called, once `ready` is set; before
    that there is nothing to tell but heartbeats. `on_desired` takes what a client wants. Each message of the greeting
    is to be read within the deadline.
    """

    def __init__(
        self,
        path: Path,
        *,
        greeting: Callable[[], Iterable[Outgoing]],
        on_desired: Callable[[Desired], None],
        deadline_seconds: float = 60.0,
    ) -> None:
        self._path = path
        self._greeting = greeting
        self._on_desired = on_desired
        self._deadline_seconds = deadline_seconds
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self.ready = asyncio.Event()

    async def open(self) -> None:
        """Listen on the path, mode 0600, in place of whatever socket was there."""
        listener, self._inode = _listen(self._path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=wire.MAX_LINE_BYTES)

    def close(self) -> None:
        """Cut everybody off, and remove the socket unless another process has put its own there."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.writer.transport.abort()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def broadcast(self, message: Outgoing) -> None:
        """Tell everybody; who waits for the greeting hears of nothing but heartbeats before it."""
        line = wire.encode(message)
        for client in self._clients:
            if client.is_greeted or isinstance(message, Heartbeat):
                client.tell(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(writer)
        client.tell(wire.encode(Hello(wire.PROTOCOL)))
        self._clients.add(client)
        try:
            await self.ready.wait()
            # Nothing can happen between the two: from the moment that the greeting tells of, the client hears all.
            await client.greet(self._greeting(), self._deadline_seconds)
            while line := await reader.readline():
                self._take(line, client)
        except TimeoutError:
            log.warning("client does not read its greeting; cut off")
        except (ConnectionError, ValueError) as error:
            # ValueError: a line longer than the protocol allows.
            log.warning("client cut off", extra={"reason": str(error)})
        finally:
            self._clients.discard(client)
            writer.transport.abort()

    def _take(self, line: bytes, client: _Client) -> None:
        try:
            message = wire.decode(line)
        except wire.MalformedMessage as error:
            log.warning("client not understood", extra={"reason": str(error)})
            client.tell(wire.encode(Refusal(str(error))))
            return
        if isinstance(message, Desired):
            self._on_desired(message)


def _listen(path: Path) -> tuple[socket.socket, int]:
    """Return a listening socket and its inode; it appears under its path complete, and replaces a dead one.

    Our group may connect: the agent of a sidecar that is not root joins it, and needs no right to override modes.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    mask = os.umask(0o117)
    try:
        listener.bind(str(temporary))
        listener.listen()
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    inode = temporary.stat().st_ino
    temporary.replace(path)
    return listener, inode

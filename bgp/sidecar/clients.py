"""The sidecar's unix socket and everybody connected to it (the protocol is in `bgp.wire`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

from bgp import wire
from bgp.messages import Desired, Hello, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bgp.messages import Outgoing

log = logging.getLogger(__name__)


class Clients:
    """Serves any number of clients; one that does not read is cut off, and gets a snapshot when it comes back.

    `greeting` returns what a new client is told after the hello; `on_desired` takes what a client wants.
    """

    def __init__(
        self,
        path: Path,
        *,
        greeting: Callable[[], Iterable[Outgoing]],
        on_desired: Callable[[Desired], None],
    ) -> None:
        self._path = path
        self._greeting = greeting
        self._on_desired = on_desired
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._inode: int | None = None

    async def open(self) -> None:
        """Listen on the path, mode 0600, in place of whatever socket was there."""
        listener, self._inode = _listen(self._path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=wire.MAX_LINE_BYTES)

    def close(self) -> None:
        """Cut everybody off, and remove the socket unless another process has put its own there."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def broadcast(self, message: Outgoing) -> None:
        """Tell everybody."""
        line = wire.encode(message)
        for writer in self._writers:
            _write(writer, line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _write(writer, wire.encode(Hello(wire.PROTOCOL)))
        for message in self._greeting():
            _write(writer, wire.encode(message))
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                self._take(line, writer)
        except (ConnectionError, ValueError) as error:
            # ValueError: a line longer than the protocol allows.
            log.warning("client cut off", extra={"reason": str(error)})
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _take(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            message = wire.decode(line)
        except wire.MalformedMessage as error:
            log.warning("client not understood", extra={"reason": str(error)})
            _write(writer, wire.encode(Refusal(str(error))))
            return
        if isinstance(message, Desired):
            self._on_desired(message)


def _write(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Queue a line; a client with more queued than the longest line does not read, and is cut off."""
    if writer.transport.get_write_buffer_size() > wire.MAX_LINE_BYTES:
        log.warning("client does not read; cut off")
        writer.transport.abort()
    else:
        writer.write(line)


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

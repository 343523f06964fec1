"""Many BGP peers in one thread that only listen: each knows which prefixes it has been told, and nothing else.

Messages are those of RFC 4271, section 4; only IPv4 unicast is spoken, so every prefix is in the update's own NLRI.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final

from pyroute2 import netns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_PORT: Final = 179
_OPEN, _UPDATE, _KEEPALIVE = 1, 2, 4
_HEADER: Final = struct.Struct("!16sHB")
_MARKER: Final = b"\xff" * 16
_HOLD_SECONDS: Final = 90
_AS_NUMBER_2: Final = 64512
#: IPv4 unicast (RFC 4760, section 8) and AS numbers of four octets (RFC 6793, section 3).
_CAPABILITIES: Final = struct.pack("!BBHBB", 1, 4, 1, 0, 1) + struct.pack("!BBI", 65, 4, _AS_NUMBER_2)
_DEADLINE_SECONDS: Final = 120.0


@dataclass(slots=True)
class _Session:
    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)
    prefixes: set[bytes] = field(default_factory=set)
    is_open: bool = False


class Listeners:
    """Waits for calls to port 179 of every address in a namespace; each connection is one peer of its own."""

    def __init__(self, namespace: str) -> None:
        netns.pushns(namespace)
        try:
            self._server = socket.create_server(("0.0.0.0", _PORT), backlog=128)
        finally:
            netns.popns()
        self._stopping, self._stop = socket.socketpair()
        self._sessions: list[_Session] = []
        self._changed = Condition()
        self._last = 0.0
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up on everybody."""
        self._stop.close()
        self._thread.join()
        for each in (self._stopping, self._server, *(session.connection for session in self._sessions)):
            each.close()

    def wait(self, *, peers: int, prefixes: int) -> float:
        """Wait until that many peers have been told that many prefixes each; return when it was (`perf_counter`)."""

        def reached() -> bool:
            told = [len(session.prefixes) for session in self._sessions if session.is_open]
            return len(told) == peers and set(told) == {prefixes}

        with self._changed:
            if not self._changed.wait_for(reached, _DEADLINE_SECONDS):
                counts = sorted(len(session.prefixes) for session in self._sessions)
                raise RuntimeError(f"{len(counts)} sessions have {counts} prefixes instead of {prefixes}")
            return self._last

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stopping, selectors.EVENT_READ)
            selector.register(self._server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._stopping:
                        return
                    with self._changed:
                        self._serve(selector, key.data)
                        self._last = time.perf_counter()
                        self._changed.notify_all()

    def _serve(self, selector: selectors.BaseSelector, session: _Session | None) -> None:
        if session is None:
            session = _Session(self._server.accept()[0])
            self._sessions.append(session)
            selector.register(session.connection, selectors.EVENT_READ, session)
            return
        try:
            data = session.connection.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            selector.unregister(session.connection)
            session.connection.close()
            self._sessions.remove(session)
            return
        session.received += data
        for kind, body in _messages(session.received):
            _answer(session, kind, body)


def _messages(received: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the complete messages."""
    while len(received) >= _HEADER.size:
        _, length, kind = _HEADER.unpack_from(received)
        if len(received) < length:
            return
        yield kind, bytes(received[_HEADER.size : length])
        del received[:length]


def _answer(session: _Session, kind: int, body: bytes) -> None:
    if kind == _OPEN:
        identifier = socket.inet_aton(session.connection.getsockname()[0])
        parameters = struct.pack("!BB", 2, len(_CAPABILITIES)) + _CAPABILITIES
        opening = struct.pack("!BHH4sB", 4, _AS_NUMBER_2, _HOLD_SECONDS, identifier, len(parameters)) + parameters
        session.connection.sendall(_message(_OPEN, opening) + _message(_KEEPALIVE))
        session.is_open = True
    elif kind == _KEEPALIVE:
        session.connection.sendall(_message(_KEEPALIVE))
    elif kind == _UPDATE:
        withdrawn_end = 2 + int.from_bytes(body[:2], "big")
        announced_start = withdrawn_end + 2 + int.from_bytes(body[withdrawn_end : withdrawn_end + 2], "big")
        session.prefixes.difference_update(_prefixes(body[2:withdrawn_end]))
        session.prefixes.update(_prefixes(body[announced_start:]))


def _prefixes(encoded: bytes) -> Iterator[bytes]:
    """Yield each prefix as it is encoded: its length in bits and as many octets as that takes."""
    at = 0
    while at < len(encoded):
        end = at + 1 + (encoded[at] + 7) // 8
        yield encoded[at:end]
        at = end


def _message(kind: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(_MARKER, _HEADER.size + len(body), kind) + body

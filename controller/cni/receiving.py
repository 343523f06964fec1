"""One request off the agent's socket: bytes within their bounds, and the descriptor that came with them.

A caller may be slow, vanish, send nonsense, or send several descriptors or none; every descriptor that arrives is in
the caller's hands before anything can fail, so that none can leak.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from controller.cni import protocol
from controller.cni.protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DESCRIPTOR_BYTES = array.array("i").itemsize
#: Room for one descriptor more than is right, to notice it; the kernel drops what does not fit (unix(7)).
_ANCILLARY_BYTES = socket.CMSG_SPACE(2 * _DESCRIPTOR_BYTES)


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it came. `namespace_descriptor` is None when the namespace did not open; the errno says why."""

    namespace_descriptor: int | None
    namespace_errno: int
    environment: bytes
    standard_input: bytes


class Descriptors:
    """The descriptors that came over one connection; closed at the end of the with statement."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close those that are open."""
        while self._open:
            os.close(self._open.pop())

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def take(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Take in what recvmsg(2) delivered beside the bytes."""
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) - len(content) % _DESCRIPTOR_BYTES
                self._open += array.array("i", content[:whole])


async def receive_request(connection: socket.socket, descriptors: Descriptors) -> ReceivedRequest:
    """Return the request; raises `ProtocolError`, EOFError when the caller is gone, and OSError."""
    header = await _receive_exactly(connection, protocol.REQUEST_HEADER.size, descriptors)
    namespace_errno, environment_bytes, input_bytes = protocol.decode_request_header(header)
    environment = await _receive_exactly(connection, environment_bytes, descriptors)
    standard_input = await _receive_exactly(connection, input_bytes, descriptors)
    expected = 0 if namespace_errno else 1
    if len(descriptors) != expected:
        raise ProtocolError(f"{len(descriptors)} descriptors came with the request instead of {expected}")
    return ReceivedRequest(next(iter(descriptors), None), namespace_errno, environment, standard_input)


async def _receive_exactly(connection: socket.socket, length: int, descriptors: Descriptors) -> bytes:
    received = bytearray()
    while len(received) < length:
        try:
            chunk, ancillary, _, _ = connection.recvmsg(
                length - len(received), _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            await _until_readable(connection)
            continue
        descriptors.take(ancillary)
        if (count := len(descriptors)) > 1:  # now, for each byte may bring another one
            descriptors.close()
            raise ProtocolError(f"{count} descriptors came with the request, and one is allowed")
        if not chunk:
            raise EOFError(f"the caller hung up after {len(received)} of {length} bytes")
        received += chunk
    return bytes(received)


async def _until_readable(connection: socket.socket) -> None:
    """Wait for bytes or the end of the connection; the loop's own `sock_recv` would drop the descriptors."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)

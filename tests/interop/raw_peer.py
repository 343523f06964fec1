"""A BGP speaker that says whatever it is told, in octets: what no router that people run would say.

It calls, opens a session as an AS, and writes `up`. Then each line of its standard input is the body of an update, in
hexadecimal digits; it writes `closed` when the other side has ended the session.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
_HOLD_SECONDS: Final = 90
_ROUTER_ID: Final = bytes([10, 7, 0, 99])


def message(kind: int, body: bytes = b"") -> bytes:
    """Return a message (RFC 4271, section 4.1)."""
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def opening(as_number: int) -> bytes:
    """Return an OPEN for both families, with four octets an AS, extended messages and graceful restart."""
    capabilities = [
        (1, bytes([0, 1, 0, 1])),
        (1, bytes([0, 2, 0, 1])),
        (6, b""),
        (64, bytes([0, 120, 0, 1, 1, 0x80, 0, 2, 1, 0x80])),
        (65, struct.pack("!I", as_number)),
    ]
    parts = b"".join(bytes([2, len(value) + 2, code, len(value)]) + value for code, value in capabilities)
    return struct.pack("!BHH", 4, as_number, _HOLD_SECONDS) + _ROUTER_ID + bytes([len(parts)]) + parts


def kinds(received: bytearray) -> Iterator[int]:
    """Take all whole messages out of what was received, and yield their kinds."""
    while len(received) >= 19:
        (length,) = struct.unpack("!H", received[16:18])
        if len(received) < length:
            return
        yield received[18]
        del received[:length]


def established(theirs: str, ours: str, as_number: int) -> socket.socket:
    """Return a connection on which the session stands; it is tried again until the other side is ready for it."""
    while True:
        try:
            session = socket.create_connection((theirs, 179), source_address=(ours, 0), timeout=10)
            session.sendall(message(OPEN, opening(as_number)))
            received = bytearray()
            while octets := session.recv(65536):
                received += octets
                found = list(kinds(received))
                if OPEN in found:
                    session.sendall(message(KEEPALIVE))
                if KEEPALIVE in found:
                    return session
            session.close()
        except OSError:
            pass
        time.sleep(0.1)


def main() -> None:
    """Speak until standard input ends or the other side closes."""
    with established(sys.argv[1], sys.argv[2], int(sys.argv[3])) as session:
        print("up", flush=True)  # noqa: T201 - what it is for
        received, pending = bytearray(), b""
        spoken_at = time.monotonic()
        while True:
            readable, _, _ = select.select([session, sys.stdin], [], [], 1)
            if session in readable:
                octets = session.recv(65536)
                received += octets
                if not octets or NOTIFICATION in kinds(received):
                    print("closed", flush=True)  # noqa: T201 - as above
                    return
            if sys.stdin in readable:
                octets = os.read(sys.stdin.fileno(), 65536)
                if not octets:
                    return
                *lines, pending = (pending + octets).split(b"\n")
                for line in lines:
                    session.sendall(message(UPDATE, bytes.fromhex(line.decode())))
            if time.monotonic() > spoken_at + _HOLD_SECONDS / 6:
                session.sendall(message(KEEPALIVE))
                spoken_at = time.monotonic()


if __name__ == "__main__":
    main()

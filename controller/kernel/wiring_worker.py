"""The process that wires links and does nothing else; `wiring_process` starts it and talks to it.

It gets one message for each link over a unix socket that keeps messages apart, with the namespace's descriptor, and
answers each with the index of the link's end on the host, in the order in which they came. A link that it could not
wire it answers with 0, and nothing of it is left: the agent tries again by itself and so learns why. It imports little,
for its memory is used only while many containers come.
"""

from __future__ import annotations

import ipaddress
import os
import select
import signal
import socket
import struct
from contextlib import closing, suppress
from typing import Final

from controller.errors import TortieError
from controller.kernel.links import KernelLinks
from controller.ports import WorkloadLink

#: An answer: the index of a link, or 0.
ANSWER: Final = struct.Struct("=I")
NOT_WIRED: Final = 0
_MESSAGE_BYTES: Final = 4096


def encode_link(link: WorkloadLink) -> bytes:
    """Return the message that asks for a link; no name of a link holds a line's end."""
    words = (link.host_name, link.container_name, link.container_mac, str(link.mtu_bytes), *map(str, link.addresses))
    return "\n".join(words).encode()


def decode_link(message: bytes) -> WorkloadLink:
    """Return the link that a message asks for."""
    host_name, container_name, container_mac, mtu_bytes, *addresses = message.decode().split("\n")
    return WorkloadLink(
        host_name, container_name, container_mac, tuple(map(ipaddress.ip_address, addresses)), int(mtu_bytes)
    )


def main(descriptor: int) -> None:
    """Answer over the socket of this descriptor until its other end, the agent, is gone; begin with one for no link."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the agent, whose end follows
        signal.signal(number, signal.SIG_IGN)
    with (
        suppress(ConnectionError),
        socket.socket(fileno=descriptor) as agent,
        closing(KernelLinks(calls_at_once=1)) as links,
    ):
        agent.send(ANSWER.pack(NOT_WIRED))
        while (index := _wired(agent, links)) is not None:
            agent.send(ANSWER.pack(index))


def _wired(agent: socket.socket, links: KernelLinks) -> int | None:
    """Wire the next link and return the answer; None when the agent is gone, even if it has asked for more before."""
    message, descriptors, _, _ = socket.recv_fds(agent, _MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    if not message:
        return None
    (namespace,) = descriptors
    try:
        return None if _is_gone(agent) else links.wire(namespace, decode_link(message))
    except (TortieError, OSError):
        return NOT_WIRED
    finally:
        os.close(namespace)


def _is_gone(agent: socket.socket) -> bool:
    """Tell whether the other end is closed; what it sent before may still be there to be read."""
    poll = select.poll()
    poll.register(agent, 0)
    return bool(poll.poll(0))

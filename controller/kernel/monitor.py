"""Changes in the kernel as hints: something may have changed, look for yourself.

A route of ours that somebody else changed is told as it is now, as long as there are few of them: what happened to one
route can be repaired without reading all. What the kernel does without an event of the route's own (a link that goes
down, or loses its address, takes its IPv4 routes along silently) is a hint that any route may be concerned.

The kernel drops what concerns nobody before it reaches us: a filter on the socket lets through only those route events
that were caused by somebody else and concern a route of ours, so that neither our own ten thousand writes nor another
routing daemon's wake anybody.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from enum import Enum
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused, KernelUnavailable
from controller.kernel.link_messages import (
    IFADDRMSG,
    IFF_UP,
    IFINFOMSG,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    link_facts,
)
from controller.kernel.link_names import HOST_LINK_PREFIX
from controller.kernel.netlink import DATAGRAM_BYTES, NLM_F_REPLACE, SO_RCVBUFFORCE, messages
from controller.kernel.route_messages import RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, RTM_DELROUTE, RTM_NEWROUTE, heard
from controller.ports import ROUTE_PROTOCOL

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Iterator, Mapping

    from controller.ports import KernelRoute
    from ipam.address import IPNetwork

#: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
#: How much is read before the loop gets its turn again.
_DATAGRAMS_AT_ONCE: Final = 1000
#: Of more routes than this at once nothing is told but that a dump is due, which costs less.
_ROUTES_AT_ONCE: Final = 500
#: In place of the type of events that were lost.
_LOST: Final = 0
_SO_ATTACH_FILTER: Final = 26
#: What a link event says has changed when the link is new.
_EVERYTHING_CHANGED: Final = 0xFFFFFFFF

# Classic BPF (include/uapi/linux/filter.h): code, jump if true, jump if false, constant.
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD_HALF: Final = 0x28
_LOAD_WORD: Final = 0x20
_LOAD_BYTE: Final = 0x30
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_SET: Final = 0x45
_RETURN: Final = 0x06


class KernelChange(Enum):
    """What may have changed."""

    #: Routes of ours, many at once or along with an address.
    ROUTES = "routes"
    #: A link other than a new one went up, or one that is no workload's went down or is gone.
    LINKS = "links"
    #: A global address came or went.
    ADDRESSES = "addresses"
    #: Events were lost: anything.
    EVERYTHING = "everything"


class KernelMonitor:
    """Watches the namespace it was opened in, and calls `on_change` from the event loop, once for each kind of change.

    `own_port_id` is the port of the socket whose route changes are our own (`KernelFib.port_id`). `on_routes` is told
    what somebody else made of single routes of ours, by prefix, None where ours is gone; `on_links_gone` is told the
    indexes of workloads' links that are gone.
    """

    def __init__(
        self,
        own_port_id: int,
        on_change: Callable[[KernelChange], None],
        on_routes: Callable[[Mapping[IPNetwork, KernelRoute | None]], None],
        on_links_gone: Callable[[Collection[int]], None] = lambda _indexes: None,
    ) -> None:
        self._on_change = on_change
        self._on_routes = on_routes
        self._on_links_gone = on_links_gone
        self._socket = _opened(_route_filter(own_port_id))
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call `on_change` from this loop from now on."""
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Watch no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        changes: dict[KernelChange, None] = {}
        told: dict[IPNetwork, KernelRoute | None] = {}
        gone: list[int] = []
        for kind, body in self._events():
            if kind == RTM_DELLINK and _is_workloads(body):
                gone.append(IFINFOMSG.unpack_from(body)[2])
            elif kind not in {RTM_NEWROUTE, RTM_DELROUTE}:
                changes |= dict.fromkeys(changes_of(kind, body))
            elif len(told) >= _ROUTES_AT_ONCE:
                changes[KernelChange.ROUTES] = None
            else:
                prefix, route = heard(body)
                if prefix is not None:
                    told[prefix] = route if kind == RTM_NEWROUTE else None
        if gone:
            self._on_links_gone(gone)
        if told:
            self._on_routes(told)
        for change in changes:
            self._on_change(change)

    def _events(self) -> Iterator[tuple[int, bytes]]:
        """Yield the type and body of what happened, the type 0 for events that were lost."""
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                datagram = self._socket.recv(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The kernel had events for us and no room. It says so once, and goes on with what comes after.
                yield _LOST, b""
                continue
            try:
                for kind, _, _, body in messages(datagram):
                    yield kind, body
            except KernelUnavailable:
                yield _LOST, b""


def changes_of(kind: int, body: bytes) -> Iterator[KernelChange]:
    """Yield what an event other than a route's hints at, if anything; pure."""
    if kind == _LOST:
        yield KernelChange.EVERYTHING
    elif kind in {RTM_NEWADDR, RTM_DELADDR}:
        if IFADDRMSG.unpack_from(body)[3] == RT_SCOPE_UNIVERSE:
            yield KernelChange.ADDRESSES
            # A link's last address takes the link's routes along without an event of theirs; its return allows them.
            yield KernelChange.ROUTES
    elif kind == RTM_NEWLINK:
        # A link that goes down takes its routes along without an event of theirs. A new link has no routes yet, and a
        # workload's goes down when it is taken away; if it comes up again its routes are missing.
        _, _, _, flags, changed = IFINFOMSG.unpack_from(body)
        if changed & IFF_UP and changed != _EVERYTHING_CHANGED and (flags & IFF_UP or not _is_workloads(body)):
            yield KernelChange.LINKS
    elif kind == RTM_DELLINK:
        yield KernelChange.LINKS


def _is_workloads(body: bytes) -> bool:
    return link_facts(body).name.startswith(HOST_LINK_PREFIX)


def _opened(packed_filter: bytes) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        instructions = ctypes.create_string_buffer(packed_filter, len(packed_filter))
        # struct sock_fprog: how many instructions, and where they are; the kernel copies them.
        program = struct.pack("@HP", len(packed_filter) // _INSTRUCTION.size, ctypes.addressof(instructions))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        opened.bind((0, _GROUPS))
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise KernelRefused(
            "watching the kernel (it needs CAP_NET_ADMIN)", error.errno or 0, error.strerror or str(error)
        ) from error
    return opened


def _route_filter(own_port_id: int) -> bytes:
    """Return the program that lets through every event but routes that are not ours or that we changed ourselves.

    A route of ours is one with our mark, and one that has just replaced another: ours may have been the other.
    """
    # Offsets: nlmsghdr has its type at 4, flags at 6, port at 12; rtmsg follows at 16 with table at 20, protocol at 21.
    # BPF loads are big-endian, netlink is in the machine's order.
    program = (
        (_LOAD_HALF, 0, 0, 4),
        (_JUMP_IF_EQUAL, 1, 0, socket.htons(RTM_NEWROUTE)),
        (_JUMP_IF_EQUAL, 0, 8, socket.htons(RTM_DELROUTE)),  # no route: accept
        (_LOAD_WORD, 0, 0, 12),
        (_JUMP_IF_EQUAL, 7, 0, socket.htonl(own_port_id)),  # by us: drop
        (_LOAD_BYTE, 0, 0, 20),
        (_JUMP_IF_EQUAL, 0, 5, RT_TABLE_MAIN),  # another table: drop
        (_LOAD_BYTE, 0, 0, 21),
        (_JUMP_IF_EQUAL, 2, 0, ROUTE_PROTOCOL),  # our mark: accept
        (_LOAD_HALF, 0, 0, 6),
        (_JUMP_IF_SET, 0, 1, socket.htons(NLM_F_REPLACE)),  # not a replacement: drop
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)

"""How ExaBGP 5.0.15 listens, accepts, waits and lets connections go, repaired (`bgp.sidecar.repairs` says why here)."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from exabgp.bgp.message.open.capability import Capability
from exabgp.reactor.listener import Listener
from exabgp.reactor.loop import Reactor
from exabgp.reactor.network.error import NetworkError
from exabgp.reactor.network.tcp import set_minimum_ttl
from exabgp.reactor.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What Linux calls them (include/uapi/linux/tcp.h); Python's socket module does not know them.
_TCP_SAVE_SYN: Final = 27
_TCP_SAVED_SYN: Final = 28
_MAX_TTL: Final = 255
#: Where the TTL or hop limit is in a packet's header, and how long the longest header is.
_TTL_OFFSET: Final = {socket.AF_INET: 8, socket.AF_INET6: 7}
_HEADER_BYTES: Final = 256
#: For how long a second connection of a peer may be the twin of the first.
_COLLISION_SECONDS: Final = 3.0


def take_peers_back() -> None:
    """Take the connection of a peer whose session seems to stand, in the place of that (RFC 4724, section 5).

    A peer that lost its power said nothing, and calls when it is back. ExaBGP refuses it until the hold time is over.
    The old connection is closed without a notification, or the peer would take its routes for withdrawn. A session that
    has only just come up is kept: if both sides call, one of two connections is to go (RFC 4271, section 6.8).
    """
    accept = Peer.handle_connection

    def handle_connection(self: Any, connection: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        if self.established() and not self.stopping() and _restarts_gracefully(self.proto.negotiated):
            age = time.time() - self.stats["complete"]
            if not 0 <= age < _COLLISION_SECONDS:
                self._reset("the peer connected anew")
        return accept(self, connection)

    Peer.handle_connection = handle_connection


def _restarts_gracefully(negotiated: Any) -> bool:  # noqa: ANN401 - ExaBGP's
    """Say whether both sides have offered it."""
    opens = (negotiated.sent_open, negotiated.received_open)
    return all(each.capabilities.announced(Capability.CODE.GRACEFUL_RESTART) for each in opens)


def check_hops_of_accepted_connections() -> None:
    """Keep a peer's TTL security (RFC 5082) also on connections that the peer opens.

    ExaBGP checks it only on those it opens, and its listening sockets answer with the system's TTL, which a peer that
    checks drops. They send the highest now, and keep the first packet of each connection: what it went through is known
    before the connection is used, and from then on the kernel checks every packet.
    """
    make, accept = Listener._new_socket, Peer.handle_connection  # noqa: SLF001 - see above

    def new_socket(self: Any, ip: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        made = make(self, ip)
        level, name = _ttl_option(made)
        made.setsockopt(level, name, _MAX_TTL)
        made.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)
        return made

    def handle_connection(self: Any, connection: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        minimum = self.neighbor["incoming-ttl"]
        if minimum and not _came_near(connection, minimum):
            connection.close()
            return True
        return accept(self, connection)

    Listener._new_socket = new_socket  # noqa: SLF001 - see above
    Peer.handle_connection = handle_connection


def forget_passwords_of_former_peers() -> None:
    """Take a peer's TCP MD5 key off the listening sockets when the peer is removed.

    ExaBGP leaves it there, until the kernel has no room for the key of a new peer.
    """
    remove = Peer.remove

    def remove_with_password(self: Any) -> None:  # noqa: ANN401 - ExaBGP's
        remove(self)
        reactor, address = self.reactor, self.neighbor["peer-address"]
        for ip in reactor._ips:  # noqa: SLF001 - ExaBGP's
            if ip.afi == address.afi:
                reactor.listener.listen_on(ip, address, reactor._port, None, None, None)  # noqa: SLF001 - ExaBGP's

    Peer.remove = remove_with_password


def change_peers_without_a_connection() -> None:
    """Give a peer its changed settings at once while it has no connection.

    ExaBGP gives them when the connection ends. A peer that waits to be called has none that could end: it would never
    learn that it is to call from now on, and refuse one connection before it takes any other change.
    """
    reestablish = Peer.reestablish

    def reestablish_or_change(self: Any, restart_neighbor: Any = None) -> None:  # noqa: ANN401 - ExaBGP's
        if restart_neighbor is None or self.proto is not None or self.generator is not None:
            reestablish(self, restart_neighbor)
            return
        self.neighbor = restart_neighbor
        self._delay.reset()

    Peer.reestablish = reestablish_or_change


def wait_for_what_is_open() -> None:
    """Wait for connections too, and not for what is closed.

    ExaBGP sleeps through a new connection, and a session that ended leaves its descriptor in what is waited for: each
    wait ends at once from then on, and ExaBGP sleeps deaf instead.
    """

    def wait(self: Any, milliseconds: int) -> Iterator[int]:  # noqa: ANN401 - ExaBGP's
        listening = {sock.fileno() for sock in self.listener._sockets}  # noqa: SLF001 - ExaBGP's
        for descriptor in listening:
            self._poller.register(descriptor, select.POLLIN)
        for descriptor, event in self._poller.poll(milliseconds):
            if event & select.POLLNVAL:
                self._poller.unregister(descriptor)
            elif descriptor not in listening:
                yield descriptor

    Reactor._wait_for_io = wait  # noqa: SLF001 - ExaBGP's


def _came_near(connection: Any, minimum: int) -> bool:  # noqa: ANN401 - ExaBGP's
    """Say whether the connection's first packet has the TTL; if so the kernel drops every later one that has not."""
    offset = _TTL_OFFSET[connection.io.family]
    try:
        header = connection.io.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _HEADER_BYTES)
        set_minimum_ttl(connection.io, connection.afi, connection.peer, minimum)
    except (OSError, NetworkError):
        return False
    return len(header) > offset and header[offset] >= minimum


def _ttl_option(made: socket.socket) -> tuple[int, int]:
    """Return the socket option for the TTL, or the hop limit, of what is sent."""
    if made.family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
    return socket.IPPROTO_IP, socket.IP_TTL

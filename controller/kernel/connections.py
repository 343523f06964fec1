"""The kernel's table of connections (conntrack), of which those of an address that moved must go.

An entry keeps what was decided when the connection began, address translation among it, and would go on sending the
packets of an address's new holder to the old one. The kernel cannot be asked to delete by address: the table is dumped,
and each entry that names one of the addresses, in either direction, is deleted by its own tuple
(net/netfilter/nf_conntrack_netlink.c).
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused
from controller.kernel.netlink import NLA_F_NESTED, NetlinkSocket, Request, attribute, attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from ipam.address import IPAddress

log = logging.getLogger(__name__)

_NETLINK_NETFILTER: Final = 12
# include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
_GET: Final = 1 << 8 | 1
_DELETE: Final = 1 << 8 | 2
#: nfgenmsg: family, version, resource.
_NFGENMSG: Final = struct.Struct("=BBH")
_CTA_TUPLE_ORIGINAL: Final = 1
_CTA_TUPLE_REPLY: Final = 2
_CTA_ID: Final = 12
_CTA_ZONE: Final = 18
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_CTA_PROTO_NUM: Final = 1
_CTA_PROTO_SRC_PORT: Final = 2
_CTA_PROTO_DST_PORT: Final = 3
_FAMILY_BY_VERSION: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
#: What a kernel answers that was built without the table, or without netlink access to it.
_NOT_THERE: Final = {errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT}


class KernelConnections:
    """The port `Connections` in the namespace it was opened in. One thread at a time may use it.

    Where the kernel keeps no such table there is nothing to flush; that is said once in the log.
    """

    def __init__(self, *, timeout_seconds: float = 5.0) -> None:
        self._socket: NetlinkSocket | None = None
        try:
            self._socket = NetlinkSocket(timeout_seconds=timeout_seconds, protocol=_NETLINK_NETFILTER)
        except KernelRefused as error:
            self._do_without(error)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

    def flush(self, addresses: Collection[IPAddress]) -> int:
        """Forget every connection from or to one of these addresses, and return how many there were."""
        return sum(
            self._flush(family, {address.packed for address in addresses if address.version == version})
            for version, family in _FAMILY_BY_VERSION.items()
        )

    def flush_datagrams(self, destinations: Collection[tuple[IPAddress, int]]) -> int:
        """Forget what is sent by UDP to one of these addresses and ports and ends there, and return how much it was.

        An entry that was made before a rule that translates would go on without it for as long as packets come.
        """
        return sum(
            self._flush(family, {_place(each, port) for each, port in destinations if each.version == version}, _ending)
            for version, family in _FAMILY_BY_VERSION.items()
        )

    def _flush(
        self,
        family: int,
        packed: set[bytes],
        chosen: Callable[[list[bytes], set[bytes]], Iterator[bytes]] | None = None,
    ) -> int:
        if not packed or self._socket is None:
            return 0
        head = _NFGENMSG.pack(family, 0, 0)
        try:
            entries = self._socket.dump_as(_GET, head, lambda bodies: list((chosen or _entries_of)(bodies, packed)))
        except KernelRefused as error:
            self._do_without(error)
            self._socket.close()
            self._socket = None
            return 0
        refusals = self._socket.exchange(Request(_DELETE, 0, head + entry) for entry in entries)
        for refusal in refusals:
            if refusal.error_number != errno.ENOENT:  # over meanwhile
                raise KernelRefused("forgetting a connection", refusal.error_number, refusal.text)
        return len(entries) - len(refusals)

    def _do_without(self, error: KernelRefused) -> None:
        """Say that there is no such table; raises the error if it means anything else."""
        if error.error_number not in _NOT_THERE:
            raise error
        log.warning("this kernel has no table of connections; none is flushed", extra={"reason": str(error)})


def _entries_of(bodies: list[bytes], packed: set[bytes]) -> Iterator[bytes]:
    """Yield what names each connection that concerns one of the addresses: its tuple, its zone and its number."""
    for body in bodies:
        if not any(address in body for address in packed):  # most concern others, and are not worth reading
            continue
        found = dict(attributes(body, _NFGENMSG.size))
        tuples = (found.get(_CTA_TUPLE_ORIGINAL, b""), found.get(_CTA_TUPLE_REPLY, b""))
        if packed.isdisjoint(address for each in tuples for address in _addresses_of(each)):
            continue
        yield _named(found)


def _ending(bodies: list[bytes], places: set[bytes]) -> Iterator[bytes]:
    """Yield what names each UDP entry for one of these places whose answers come from there, untranslated."""
    ports = {attribute(_CTA_PROTO_DST_PORT, place[-2:]) for place in places}
    for body in bodies:
        if not any(port in body for port in ports):
            continue
        found = dict(attributes(body, _NFGENMSG.size))
        original, reply = (_ends(found.get(kind, b"")) for kind in (_CTA_TUPLE_ORIGINAL, _CTA_TUPLE_REPLY))
        if original[1] == reply[0] and original[1] in places:
            yield _named(found)


def _named(found: Mapping[int, bytes]) -> bytes:
    """Return what names a connection: its tuple, its zone and its number."""
    return attribute(_CTA_TUPLE_ORIGINAL | NLA_F_NESTED, found[_CTA_TUPLE_ORIGINAL]) + b"".join(
        attribute(kind, found[kind]) for kind in (_CTA_ZONE, _CTA_ID) if kind in found
    )


def _place(address: IPAddress, port: int) -> bytes:
    return bytes([socket.IPPROTO_UDP]) + address.packed + port.to_bytes(2, "big")


def _ends(packed_tuple: bytes) -> tuple[bytes, bytes]:
    """Return where packets of this direction come from and go to, as `_place` does."""
    found = dict(attributes(packed_tuple, 0))
    protocol = dict(attributes(found.get(_CTA_TUPLE_PROTO, b""), 0))
    number, *ports = (protocol.get(kind, b"") for kind in (_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT))
    source, destination = sorted(attributes(found.get(_CTA_TUPLE_IP, b""), 0))
    return number + source[1] + ports[0], number + destination[1] + ports[1]


def _addresses_of(packed_tuple: bytes) -> Iterator[bytes]:
    for kind, payload in attributes(packed_tuple, 0):
        if kind == _CTA_TUPLE_IP:
            yield from (address for _, address in attributes(payload, 0))

"""Packed netlink messages, and the one exchange with the kernel that carries them.

A batch of requests goes to the kernel in one datagram, and only its last request asks for an acknowledgement: the
kernel reports every request it refuses anyway, so nothing is lost and 2000 requests cost two system calls
(net/netlink/af_netlink.c, netlink_rcv_skb). The kernel works on a batch inside our send(), so by the time send()
returns the answers are queued; the deadline is there for the case that one is not.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from controller.errors import KernelRefused, KernelUnavailable, TortieError
from controller.kernel.series import portions, repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from controller.kernel.series import Series

_T = TypeVar("_T")

# include/uapi/linux/netlink.h
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_ACK_TLVS: Final = 0x200
NLA_F_NESTED: Final = 0x8000
NLMSGERR_ATTR_MSG: Final = 1
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12
# include/uapi/asm-generic/socket.h; with CAP_NET_ADMIN it goes beyond net.core.rmem_max.
SO_RCVBUFFORCE: Final = 33

HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR_NUMBER: Final = struct.Struct("=i")
#: The kernel builds answers of at most 32 KiB (netlink_recvmsg); this leaves room.
DATAGRAM_BYTES: Final = 128 * 1024
_BATCH_REQUESTS: Final = 2000
_BATCH_BYTES: Final = 128 * 1024
_RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
_DUMP_ATTEMPTS: Final = 20
#: For want of what the kernel does not open a socket now, but may later.
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Request(NamedTuple):
    """One message: its type, its flags besides NLM_F_REQUEST and NLM_F_ACK, and everything after the header."""

    kind: int
    flags: int
    body: bytes


class Refusal(NamedTuple):
    """A request the kernel did not carry out: its place among the requests, the errno and the kernel's own words."""

    position: int
    error_number: int
    text: str


def attribute(kind: int, payload: bytes) -> bytes:
    """Return an attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield the type (without its flag bits) and the payload of every attribute from an offset on."""
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:  # noqa: PLR2004  an attribute's own header; a shorter one would never end this loop
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the type, flags, sequence number and body of every message of a datagram."""
    offset = 0
    end = len(datagram)
    while offset + 16 <= end:
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size or offset + length > end:
            raise KernelUnavailable(
                f"a netlink answer of {end} bytes is cut short at byte {offset}; asking again is safe"
            )
        yield kind, flags, sequence, datagram[offset + 16 : offset + length]
        offset += (length + 3) & ~3


class NetlinkSocket:
    """A netlink socket of the network namespace it was opened in. One thread at a time may use it.

    After `KernelUnavailable` the socket is a new one (late answers to the old one can no longer be taken for answers
    to something else) with the same port number, by which events of our own making are told from others'.
    """

    def __init__(self, *, timeout_seconds: float = 5.0, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._timeout_seconds = timeout_seconds
        self._protocol = protocol
        self._sequence = 0
        self._socket = self._opened(0)
        #: The kernel puts this number into every event that a request of ours causes.
        self.port_id: Final[int] = self._socket.getsockname()[0]

    def close(self) -> None:
        """Close the socket; it may not be used afterwards."""
        self._socket.close()

    def exchange(self, requests: Iterable[tuple[int, int, bytes]]) -> list[Refusal]:
        """Send every request, in order, and return those the kernel refused; the others are done.

        A plain tuple of a request's fields does as well: who sends ten thousand saves the time to make them.

        A refused request does not stop those after it. Raises `KernelUnavailable` when an answer is lost: any of the
        requests may then have been carried out or not.
        """
        rest = iter(requests)
        return self._exchanged(lambda: self._packed(rest))

    def exchange_series(self, series: Iterable[Series]) -> list[Refusal]:
        """Do the same with series of requests, whose places are counted from the first of the first one on."""
        rest = portions(series)
        return self._exchanged(lambda: self._packed_series(rest))

    def require(self, what: str, requests: Iterable[Request]) -> None:
        """Send every request and raise `KernelRefused` for the first that was refused."""
        for refusal in self.exchange(requests):
            raise KernelRefused(f"{what} (step {refusal.position + 1})", refusal.error_number, refusal.text)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return the body of every object of this type, all from one instant as far as the kernel can tell.

        A dump during which the table changed is repeated. Raises `KernelRefused` if the kernel refuses the request.
        """
        return self.dump_as(kind, body, list)

    def dump_as(self, kind: int, body: bytes, convert: Callable[[list[bytes]], Iterable[_T]]) -> list[_T]:
        """Return what `convert` makes of the bodies, which it is given some hundred at a time; otherwise as `dump`.

        It is called between two reads, so other threads have their turn while the kernel fills the next datagram.
        """
        for _ in range(_DUMP_ATTEMPTS):
            found: list[_T] = []
            for bodies in self._dumped(kind, body):
                if bodies is None:
                    break
                found += convert(bodies)
            else:
                return found
        raise KernelUnavailable(f"a dump was interrupted by changes {_DUMP_ATTEMPTS} times in a row; try again later")

    def get(self, kind: int, body: bytes) -> bytes | None:
        """Return the body of one object, or None if there is none (ENODEV, ENOENT)."""
        self._sequence += 1
        asked = HEADER.pack(16 + len(body), kind, NLM_F_REQUEST, self._sequence, 0) + body
        self._send(asked)
        while True:
            for answered, _, sequence, payload in messages(self._received()):
                if sequence != self._sequence:
                    continue
                if answered != NLMSG_ERROR:
                    return payload
                number = -_ERROR_NUMBER.unpack_from(payload)[0]
                if number in {errno.ENODEV, errno.ENOENT}:
                    return None
                raise KernelRefused(f"request of type {kind}", number, os.strerror(number))

    def _exchanged(self, packed: Callable[[], bytearray]) -> list[Refusal]:
        """Send one batch after the other, as `packed` numbers and returns them, until one is empty."""
        refusals: list[Refusal] = []
        start = self._sequence + 1
        while True:
            first_sequence = self._sequence + 1
            batch = packed()
            last_sequence = self._sequence
            if not batch:
                return refusals
            for sequence, number, text in self._answers(batch, last_sequence):
                if number and first_sequence <= sequence <= last_sequence:
                    refusals.append(Refusal(sequence - start, number, text))

    def _packed_series(self, series: Iterator[Series]) -> bytearray:
        """Return the next batch, which is empty when there are no more series."""
        batch, last_at, last = bytearray(), 0, b""
        for each in series:
            last = HEADER.pack(HEADER.size + len(each.body), each.kind, each.flags | NLM_F_REQUEST, 0, 0) + each.body
            batch += repeated(last, each, self._sequence + 1)
            self._sequence += each.request_count
            last_at = len(batch) - len(last)
            if len(batch) > _BATCH_BYTES // 2:
                break
        if batch:
            length, kind, flags, *_ = HEADER.unpack_from(last)
            HEADER.pack_into(batch, last_at, length, kind, flags | NLM_F_ACK, self._sequence, 0)
        return batch

    def _packed(self, requests: Iterator[tuple[int, int, bytes]]) -> bytearray:
        """Return the next batch, which is empty when there are no more requests."""
        size, chosen = 0, []
        for request in islice(requests, _BATCH_REQUESTS):
            chosen.append(request)
            size += HEADER.size + len(request[2])
            if size > _BATCH_BYTES:
                break
        if not chosen:
            return bytearray()
        kinds, flags, bodies = zip(*chosen, strict=True)
        lengths = [HEADER.size + len(body) for body in bodies]
        sequences = range(self._sequence + 1, self._sequence + 1 + len(chosen))
        self._sequence += len(chosen)
        heads = map(HEADER.pack, lengths, kinds, [each | NLM_F_REQUEST for each in flags], sequences, repeat(0))
        batch = bytearray().join(chain.from_iterable(zip(heads, bodies, strict=True)))
        # Every body is a multiple of four bytes long, so messages are aligned as they stand. The last one asks for an
        # acknowledgement: it ends the batch.
        last_flags = flags[-1] | NLM_F_REQUEST | NLM_F_ACK
        HEADER.pack_into(batch, size - lengths[-1], lengths[-1], kinds[-1], last_flags, self._sequence, 0)
        return batch

    def _answers(self, batch: bytearray, last_sequence: int) -> Iterator[tuple[int, int, str]]:
        self._send(batch)
        while True:
            for kind, flags, sequence, body in messages(self._received()):
                if kind != NLMSG_ERROR:
                    continue
                number = -_ERROR_NUMBER.unpack_from(body)[0]
                yield sequence, number, _text(number, flags, body) if number else ""
                if sequence == last_sequence:
                    return

    def _dumped(self, kind: int, body: bytes) -> Iterator[list[bytes] | None]:
        """Yield what each datagram holds; at last None if the table changed meanwhile, so that some may be missing."""
        self._sequence += 1
        self._send(HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0) + body)
        interrupted = False
        while True:
            datagram = self._received()
            alike = _alike(datagram, self._sequence)
            if alike is not None:
                yield alike
                continue
            bodies: list[bytes] = []
            for answered, flags, sequence, payload in messages(datagram):
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if answered not in {NLMSG_ERROR, NLMSG_DONE}:
                    bodies.append(payload)
                    continue
                number = -_ERROR_NUMBER.unpack_from(payload)[0]
                if number > 0 and number != errno.EINTR:
                    raise KernelRefused(f"dump of type {kind}", number, os.strerror(number))
                yield bodies
                if interrupted or number:
                    yield None
                return
            yield bodies

    def _send(self, datagram: bytes | bytearray) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            self._reopen()
            raise KernelUnavailable(f"netlink messages could not be sent: {error}; the socket was reopened") from error

    def _received(self) -> bytes:
        try:
            return self._socket.recv(DATAGRAM_BYTES)
        except BlockingIOError as error:
            self._reopen()
            raise KernelUnavailable(
                f"no answer to a netlink message within {self._timeout_seconds:g} s; the socket was reopened"
            ) from error
        except OSError as error:
            self._reopen()
            raise KernelUnavailable(f"a netlink answer was lost: {error}; the socket was reopened") from error

    def _reopen(self) -> None:
        self._socket.close()
        self._socket = self._opened(self.port_id)

    def _opened(self, port_id: int) -> socket.socket:
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._protocol)
        except OSError as error:
            raise _unopened(error) from error
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            opened.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            opened.bind((port_id, 0))
            # Not settimeout, which asks poll(2) before each call: the interpreter changes threads at every system call.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _packed_time(self._timeout_seconds))
        except OSError as error:
            opened.close()
            raise _unopened(error) from error
        return opened


def _unopened(error: OSError) -> TortieError:
    """Return what to raise when a socket cannot be opened: a lack of descriptors or memory passes, all else stays."""
    if error.errno in _SHORTAGES:
        return KernelUnavailable(f"a netlink socket could not be opened: {error}; asking again later is safe")
    return KernelRefused(
        "opening a netlink socket (it needs CAP_NET_ADMIN)", error.errno or 0, error.strerror or str(error)
    )


def _packed_time(seconds: float) -> bytes:
    """Return a struct timeval, which is two C longs (include/uapi/asm-generic/socket.h, SO_RCVTIMEO_OLD)."""
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))


def _alike(datagram: bytes, expected_sequence: int) -> list[bytes] | None:
    """Return the bodies of a datagram's messages if all have one header, as most of a dump have; None otherwise.

    It says the same as `messages` in a quarter of the time.
    """
    length, kind, flags, sequence, _ = HEADER.unpack_from(datagram)
    usual = kind > NLMSG_DONE and sequence == expected_sequence and not flags & NLM_F_DUMP_INTR
    if not usual or length <= HEADER.size or len(datagram) % length or length % 4:
        return None
    starts, bodies = zip(*struct.iter_unpack(f"={HEADER.size}s{length - HEADER.size}s", datagram), strict=True)
    return list(bodies) if starts.count(starts[0]) == len(starts) else None


def _text(number: int, flags: int, body: bytes) -> str:
    """Return the errno's text and, where the kernel gave one, its own explanation (NLMSGERR_ATTR_MSG)."""
    text = os.strerror(number)
    # The errno is followed by the header of the request, whose own body NETLINK_CAP_ACK leaves out.
    if flags & NLM_F_ACK_TLVS:
        for kind, payload in attributes(body, 4 + HEADER.size):
            if kind == NLMSGERR_ATTR_MSG:
                text += f": {payload.rstrip(bytes(1)).decode(errors='replace')}"
    return text

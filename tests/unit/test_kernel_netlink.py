"""Netlink messages as bytes, and what happens when the kernel's answers are not as hoped."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import KernelUnavailable
from controller.kernel.netlink import (
    HEADER,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NetlinkSocket,
    Request,
    attribute,
    attributes,
    messages,
)
from controller.kernel.route_messages import additions, parsed
from controller.ports import KernelRoute, NextHop, RouteKind

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def netlink() -> Iterator[NetlinkSocket]:
    """Open a socket; nothing below changes anything."""
    opened = NetlinkSocket(timeout_seconds=0.05)
    try:
        yield opened
    finally:
        opened.close()


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    """What is packed is read again, whatever its length."""
    data = b"".join(attribute(kind, payload) for kind, payload in pairs)
    assert len(data) % 4 == 0
    assert list(attributes(data, 0)) == pairs


@given(st.binary(max_size=200))
def test_rubbish_ends(data: bytes) -> None:
    """No bytes make reading attributes or messages endless."""
    list(attributes(data, 0))
    with suppress(KernelUnavailable):
        list(messages(data))


def test_a_cut_message_is_an_error() -> None:
    """Half a message is never taken for a whole one."""
    whole = HEADER.pack(24, 24, 0, 1, 0) + bytes(8)
    assert list(messages(whole)) == [(24, 0, 1, bytes(8))]
    with pytest.raises(KernelUnavailable, match="cut short"):
        list(messages(whole[:-1]))


@st.composite
def routes(draw: st.DrawFn) -> KernelRoute:
    """Draw a route of any form, of either family."""
    bits, base = draw(st.sampled_from([(32, "10.0.0.0"), (128, "fd00::")]))
    length = draw(st.integers(8, bits))
    prefix = ip_network((int(ip_address(base)), length))
    if draw(st.booleans()):
        return KernelRoute(prefix, RouteKind.BLACKHOLE)
    gateways = [ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("2001:db8::1")]
    if bits == 128:
        gateways = gateways[2:]
    hops = draw(st.lists(st.sampled_from([None, *gateways]), min_size=1, max_size=4))
    indexes = draw(st.lists(st.integers(1, 2**31 - 1), min_size=len(hops), max_size=len(hops)))
    made = [NextHop(gateway, index) for gateway, index in zip(hops, indexes, strict=True)]
    return KernelRoute(prefix, RouteKind.UNICAST, tuple(made))


@given(routes())
def test_routes_come_back(route: KernelRoute) -> None:
    """A packed route is read as the same route; only the order of its next hops is not kept."""
    read = parsed(additions([route])[0])
    assert read is not None
    assert (read.prefix, read.kind, len(read.next_hops)) == (route.prefix, route.kind, len(route.next_hops))
    assert set(read.next_hops) == set(route.next_hops)


def test_an_answer_that_does_not_come_is_an_error(netlink: NetlinkSocket) -> None:
    """The deadline is told, and the socket works again under the same number."""
    before = netlink.port_id
    with pytest.raises(KernelUnavailable, match=r"within 0\.05 s"):
        netlink._received()
    assert netlink.port_id == netlink._socket.getsockname()[0] == before
    # An unknown message type is refused, and that is an answer.
    (refusal,) = netlink.exchange([Request(0x7FF0, 0, bytes(16))])
    assert (refusal.position, refusal.error_number) == (0, errno.EOPNOTSUPP)


def test_a_late_answer_is_not_taken_for_another(netlink: NetlinkSocket) -> None:
    """What is left over from an earlier exchange is skipped."""
    kind, body = 0x7FF0, bytes(16)
    netlink._socket.send(HEADER.pack(16 + len(body), kind, 1, 999999, 0) + body)
    netlink._socket.send(HEADER.pack(16 + len(body), kind, 1, 0, 0) + body)
    refusals = netlink.exchange([Request(kind, 0, body), Request(kind, 0, body)])
    assert [refusal.position for refusal in refusals] == [0, 1]


def test_no_request_is_no_exchange(netlink: NetlinkSocket) -> None:
    """Nothing to do is done at once."""
    assert netlink.exchange([]) == []


class ScriptedKernel:
    """A socket whose answers are prepared; it is asked, and answers in order."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.asked: list[bytes] = []

    def send(self, datagram: bytes) -> None:
        """Note what was asked."""
        self.asked.append(bytes(datagram))

    def recv(self, _: int) -> bytes:
        """Answer, under the number of the last question."""
        sequence = HEADER.unpack_from(self.asked[-1])[3]
        length, kind, flags, _, port = HEADER.unpack_from(self.answers[0])
        return HEADER.pack(length, kind, flags, sequence, port) + self.answers.pop(0)[HEADER.size :]

    def close(self) -> None:
        """Have nothing to close."""


def answer(kind: int, flags: int, body: bytes) -> bytes:
    """Return one prepared message."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body


@pytest.mark.parametrize(
    "spoiled",
    [
        [answer(24, NLM_F_DUMP_INTR, b"old!"), answer(NLMSG_DONE, 0, bytes(4))],
        [answer(24, 0, b"old!"), answer(NLMSG_DONE, NLM_F_DUMP_INTR, bytes(4))],
        [answer(24, 0, b"old!"), answer(NLMSG_DONE, 0, struct.pack("=i", -errno.EINTR))],
    ],
)
def test_an_interrupted_dump_is_repeated(netlink: NetlinkSocket, spoiled: list[bytes]) -> None:
    """A dump during which the table changed may lack routes; nothing of it is used."""
    opened = netlink._socket
    script = ScriptedKernel([*spoiled, answer(24, 0, b"new!"), answer(NLMSG_DONE, 0, bytes(4))])
    netlink._socket = script  # type: ignore[assignment]  # a fake
    try:
        assert netlink.dump(26, bytes(12)) == [b"new!"]
        assert len(script.asked) == 2
    finally:
        netlink._socket = opened


def test_a_dump_that_never_holds_still_is_given_up(netlink: NetlinkSocket) -> None:
    """A table that always changes is an error to retry later, not an endless loop."""
    opened = netlink._socket
    netlink._socket = ScriptedKernel([answer(NLMSG_DONE, NLM_F_DUMP_INTR, bytes(4))] * 100)  # type: ignore[assignment]  # a fake
    try:
        with pytest.raises(KernelUnavailable, match="interrupted"):
            netlink.dump(26, bytes(12))
    finally:
        netlink._socket = opened

"""Connections of an address that moved are forgotten, and no others."""

from __future__ import annotations

import errno
import logging
import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.errors import KernelRefused
from controller.kernel.connections import KernelConnections
from controller.kernel.netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("host")

#: A rule that looks at connections makes the kernel keep them; one that translates makes the directions differ.
RULES = """
table inet test {
    chain out {
        type nat hook output priority -100
        ip daddr 198.51.100.7 dnat ip to 198.51.100.8
        ct state established accept
    }
}
"""

#: What the rule makes of an address.
TRANSLATED = {"198.51.100.7": "198.51.100.8"}


@pytest.fixture
def connections(ip: Callable[[str], str]) -> Iterator[KernelConnections]:
    """Open the table in a namespace whose kernel keeps connections, and with addresses to talk to on `lo`."""
    subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
    for address in ("198.51.100.8/32", "198.51.100.9/32", "2001:db8:1::8/128", "2001:db8:1::9/128"):
        ip(f"address add {address} dev lo")
    ip("route add 198.51.100.7 dev up0")
    opened = KernelConnections()
    try:
        yield opened
    finally:
        opened.close()


def talk_to(address: str, port: int = 9999) -> None:
    """Send one datagram, and see that it arrived: one on its way would make an entry anew that was forgotten."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((TRANSLATED.get(address, address), port))
        receiver.settimeout(10)
        sender.sendto(b"hello", (address, port))
        assert receiver.recv(16) == b"hello"


def kept() -> str:
    """Return the connections that the kernel of this namespace keeps."""
    return Path("/proc/thread-self/net/nf_conntrack").read_text()


def test_only_the_connections_of_the_address_are_forgotten(connections: KernelConnections) -> None:
    """Both families; those of other addresses stay."""
    for address in ("198.51.100.8", "198.51.100.9", "2001:db8:1::8", "2001:db8:1::9"):
        talk_to(address)
    assert connections.flush({ip_address("198.51.100.8"), ip_address("2001:db8:1::8")}) >= 2
    left = kept()
    assert "198.51.100.8" not in left
    assert "198.51.100.9" in left
    assert "2001:0db8:0001:0000:0000:0000:0000:0008" not in left
    assert "2001:0db8:0001:0000:0000:0000:0000:0009" in left


def test_a_translated_connection_is_found_by_either_address(connections: KernelConnections) -> None:
    """The address may be named in the answers alone: that is just what must not outlive its holder."""
    talk_to("198.51.100.7")
    assert "dst=198.51.100.7" in kept()
    assert connections.flush({ip_address("198.51.100.8")}) == 1
    assert "198.51.100.7" not in kept()


def test_of_what_is_sent_to_a_port_the_untranslated_is_forgotten(connections: KernelConnections) -> None:
    """Both families; what goes to other ports or addresses stays, and what is translated already."""
    for address in ("198.51.100.7", "198.51.100.9", "2001:db8:1::8", "2001:db8:1::9"):
        talk_to(address)
    talk_to("198.51.100.9", 9998)
    places = [(ip_address(each), 9999) for each in ("198.51.100.7", "198.51.100.9", "2001:db8:1::8")]
    assert connections.flush_datagrams(places) == 2
    left = kept()
    assert "dst=198.51.100.7" in left
    assert "2001:0db8:0001:0000:0000:0000:0000:0009" in left
    assert "dport=9998" in left
    assert connections.flush_datagrams(places) == 0


def test_without_connections_nothing_happens(connections: KernelConnections) -> None:
    """An address that nobody talked to, and no address at all."""
    assert connections.flush({ip_address("198.51.100.77")}) == 0
    assert connections.flush(()) == 0
    assert connections.flush_datagrams([(ip_address("198.51.100.77"), 9999)]) == 0
    assert connections.flush_datagrams(()) == 0


def test_a_kernel_without_the_table_is_said_once(
    connections: KernelConnections, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent does without; the operator learns it from one line."""
    opened = connections._socket
    assert opened is not None

    class Without(NetlinkSocket):
        """Answers as a kernel does that does not know the subsystem."""

        def dump_as(self, kind: int, body: bytes, convert: object) -> list[bytes]:  # type: ignore[override]  # a fake
            raise KernelRefused(f"dump of type {kind}, {len(body)} bytes, {convert}", 22, "Invalid argument")

    connections._socket = Without()
    opened.close()
    with caplog.at_level(logging.WARNING):
        assert connections.flush({ip_address("198.51.100.8")}) == 0
        assert connections.flush({ip_address("198.51.100.8")}) == 0
    assert [record.message for record in caplog.records] == ["this kernel has no table of connections; none is flushed"]


def test_a_refusal_that_passes_ends_nothing(connections: KernelConnections) -> None:
    """A kernel short of memory says no once; the table is there, and the next flush finds it."""
    whole = connections._socket
    assert whole is not None

    class Short(NetlinkSocket):
        """Answers as a kernel does that has no memory left."""

        def dump_as(self, kind: int, body: bytes, convert: object) -> list[bytes]:  # type: ignore[override]  # a fake
            raise KernelRefused(f"dump of type {kind}, {len(body)} bytes, {convert}", errno.ENOMEM, "no memory")

    talk_to("198.51.100.8")
    short = Short()
    connections._socket = short
    try:
        with pytest.raises(KernelRefused, match="no memory"):
            connections.flush({ip_address("198.51.100.8")})
        assert connections._socket is short
    finally:
        connections._socket = whole
        short.close()
    assert connections.flush({ip_address("198.51.100.8")}) >= 1

"""Our table in a real kernel: who is masqueraded, who cannot forge a source, and what becomes of other tables."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Protocol

import pytest

from controller.errors import PermanentError
from controller.kernel.nftables import NftablesTable
from controller.kernel.sysctls import guard_ipv6
from controller.reconcile.firewall import table_body
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Listening = Callable[["Place", int], socket.socket]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
#: The pool of the workloads, and another one without the way out.
POOLS = (
    Pool("web", ip_network("10.0.0.0/24"), 26, nat_outgoing=True),
    Pool("web6", ip_network("fd00:1::/112"), 122, nat_outgoing=True),
    Pool("other", ip_network("10.0.1.0/24"), 26),
    Pool("other6", ip_network("fd00:2::/112"), 122),
)
FAR, FAR_WORKLOAD = "far", "far workload"
ADDRESS = {
    ("w1", 4): "10.0.0.1",
    ("w1", 6): "fd00:1::1",
    ("w2", 4): "10.0.1.2",
    ("w2", 6): "fd00:2::2",
    ("host", 4): "198.51.100.1",
    ("host", 6): "2001:db8:1::1",
    (FAR, 4): "198.51.100.2",
    (FAR, 6): "2001:db8:1::2",
    # Behind the far host, as another host's workload would be.
    (FAR_WORKLOAD, 4): "10.0.1.200",
    (FAR_WORKLOAD, 6): "fd00:2::c8",
}


class Namespace(Protocol):
    """What the fixtures of namespaces give."""

    @property
    def name(self) -> str:
        """The name."""
        ...

    @property
    def descriptor(self) -> int:
        """An open descriptor of it."""
        ...

    def run(self, *command: str) -> str:
        """Run a command inside."""
        ...


@dataclass(frozen=True)
class Place:
    """A namespace and whose addresses are meant there."""

    name: str
    namespace: Namespace


@dataclass(frozen=True)
class World:
    """A host with two workloads, and a far host that has routes to everything."""

    host: Place
    w1: Place
    w2: Place
    far: Place
    far_workload: Place


@pytest.fixture
def world(host: Namespace, make_namespace: Callable[[], Namespace]) -> World:
    """Wire the workloads as the agent would, and the far host with an ordinary link."""
    w1, w2, far = make_namespace(), make_namespace(), make_namespace()
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for name, namespace in (("w1", w1), ("w2", w2)):
        ip(f"link add tor{name} type veth peer name eth0 netns {namespace.name}")
        host.run("sysctl", "-qw", *(f"net.ipv4.conf.tor{name}.{what}=1" for what in ("forwarding", "rp_filter")))
        guard_ipv6(f"tor{name}")
        ip(f"address add fe80::1/64 dev tor{name} nodad")
        ip(f"link set tor{name} up")
        lines = ["link set lo up", "link set eth0 up"]
        for version, gateway in ((4, "169.254.1.1"), (6, "fe80::1")):
            address = ADDRESS[name, version]
            ip(f"route add {address} dev tor{name}")
            lines.append(f"address add {address} dev eth0 {'nodad' if version == 6 else ''}")
            lines.append(f"-{version} route add default via {gateway} dev eth0 onlink")
        lines[2:2] = [f"neighbour add 169.254.1.1 lladdr {mac(f'tor{name}')} dev eth0 nud permanent"]
        for line in lines:
            ip(f"-n {namespace.name} {line}")
    ip(f"link add out0 type veth peer name eth0 netns {far.name}")
    ip("link set out0 up")
    for line in ("link set lo up", "link set eth0 up"):
        ip(f"-n {far.name} {line}")
    for version, length in ((4, 24), (6, 64)):
        nodad = "nodad" if version == 6 else ""
        ip(f"address add {ADDRESS['host', version]}/{length} dev out0 {nodad}")
        ip(f"-n {far.name} address add {ADDRESS[FAR, version]}/{length} dev eth0 {nodad}")
        ip(f"-n {far.name} address add {ADDRESS[FAR_WORKLOAD, version]} dev lo {nodad}")
        ip(f"-n {far.name} -{version} route add default via {ADDRESS['host', version]} dev eth0")
        ip(f"route add {ADDRESS[FAR_WORKLOAD, version]} via {ADDRESS[FAR, version]}")
    return World(Place("host", host), Place("w1", w1), Place("w2", w2), Place(FAR, far), Place(FAR_WORKLOAD, far))


def ip(arguments: str) -> None:
    """Run `ip` where the test runs."""
    subprocess.run(["ip", *arguments.split()], check=True)


def mac(link: str) -> str:
    """Return the MAC address of a link."""
    shown = subprocess.run(["ip", "-o", "link", "show", link], check=True, capture_output=True, text=True).stdout
    return shown.split("link/ether ")[1].split()[0]


@pytest.fixture
def open_socket() -> Iterator[Callable[..., socket.socket]]:
    """Return a function that opens a socket in a namespace; all are closed at the end."""
    opened: list[socket.socket] = []
    libc = ctypes.CDLL(None, use_errno=True)

    def make(place: Place, version: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        def inside() -> socket.socket:
            if libc.setns(place.namespace.descriptor, 0):
                raise OSError(ctypes.get_errno(), "setns")
            return socket.socket(FAMILY[version], kind)

        with ThreadPoolExecutor(1) as pool:
            opened.append(pool.submit(inside).result())
        opened[-1].settimeout(10)
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def listening(open_socket: Callable[..., socket.socket]) -> Listening:
    """Return a function that gives a datagram socket bound to a place's address."""

    def bind(place: Place, version: int) -> socket.socket:
        receiver = open_socket(place, version)
        receiver.bind((ADDRESS[place.name, version], 0))
        return receiver

    return bind


def seen_source(sender: socket.socket, receiver: socket.socket) -> str:
    """Send a datagram and return the source address the receiver sees."""
    sender.sendto(b"hello", receiver.getsockname()[:2])
    return str(receiver.recvfrom(100)[1][0])


def nft(*arguments: str) -> str:
    """Run nft where the test runs, which must succeed."""
    return subprocess.run(["nft", *arguments], check=True, capture_output=True, text=True).stdout


def handle() -> str:
    """Return the number that tells this table from one that is written anew."""
    return nft("-a", "list", "table", "inet", "tt-out").splitlines()[0]


def listed(table: str = "inet tt-out") -> str:
    """Return a table without counters; empty if there is none."""
    shown = subprocess.run(["nft", "-s", "list", "table", *table.split()], check=False, capture_output=True, text=True)
    return shown.stdout


@pytest.fixture
def table() -> NftablesTable:
    """Return a table of the test's own name."""
    return NftablesTable("tt-out")


@VERSIONS
async def test_what_leaves_all_pools_has_the_hosts_address(
    world: World, listening: Listening, table: NftablesTable, version: int
) -> None:
    """A server outside sees the uplink's address and can answer; without the table it saw the workload's own."""
    sender, receiver = listening(world.w1, version), listening(world.far, version)
    assert seen_source(sender, receiver) == ADDRESS["w1", version]
    await table.set(table_body(POOLS, "tor"))
    sender = listening(world.w1, version)
    sender.sendto(b"hello", receiver.getsockname()[:2])
    source = receiver.recvfrom(100)[1]
    assert source[0] == ADDRESS["host", version]
    receiver.sendto(b"answer", source)
    assert sender.recvfrom(100)[0] == b"answer"


@VERSIONS
async def test_within_the_pools_everybody_sees_the_real_address(
    world: World, listening: Listening, table: NftablesTable, version: int
) -> None:
    """Workloads of this host, of other hosts and of other pools; so do a workload and its host, both ways."""
    await table.set(table_body(POOLS, "tor"))
    for source, target in (
        (world.w1, world.w2),
        (world.w2, world.w1),
        (world.w1, world.far_workload),
        (world.far_workload, world.w1),
        (world.host, world.w1),
        (world.w1, world.host),
    ):
        seen = seen_source(listening(source, version), listening(target, version))
        assert seen == ADDRESS[source.name, version], f"{source.name} to {target.name}"


@VERSIONS
async def test_a_pool_without_the_way_out_and_a_caller_from_outside_keep_their_addresses(
    world: World, listening: Listening, table: NftablesTable, version: int
) -> None:
    """Only pools that ask for it are masqueraded, and an answer to a call from outside never is."""
    await table.set(table_body(POOLS, "tor"))
    assert seen_source(listening(world.w2, version), listening(world.far, version)) == ADDRESS["w2", version]
    caller, called = listening(world.far, version), listening(world.w1, version)
    assert seen_source(caller, called) == ADDRESS[FAR, version]
    assert seen_source(called, caller) == ADDRESS["w1", version]


@VERSIONS
async def test_a_connection_outlives_a_new_table(
    world: World, open_socket: Callable[..., socket.socket], table: NftablesTable, version: int
) -> None:
    """What is masqueraded goes on while the table is replaced, and when its pool stops asking for it."""
    await table.set(table_body(POOLS, "tor"))
    server, client = (open_socket(place, version, socket.SOCK_STREAM) for place in (world.far, world.w1))
    server.bind((ADDRESS[FAR, version], 0))
    server.listen()
    client.connect(server.getsockname()[:2])
    accepted, source = server.accept()
    with accepted:
        accepted.settimeout(10)
        assert source[0] == ADDRESS["host", version]
        for pools in (POOLS[:2], POOLS[2:]):
            await table.set(table_body(pools, "tor", await table.read()))
            client.sendall(b"hello")
            assert accepted.recv(100) == b"hello"
            accepted.sendall(b"answer")
            assert client.recv(100) == b"answer"


@VERSIONS
@pytest.mark.parametrize("forged", ["own pool", "neighbour", "outside"])
async def test_a_workload_cannot_send_from_what_it_does_not_hold(
    world: World, open_socket: Callable[..., socket.socket], table: NftablesTable, version: int, forged: str
) -> None:
    """Neither from a free address, nor from another workload's, nor from one of another network."""
    address = {
        "own pool": {4: "10.0.0.9", 6: "fd00:1::9"},
        "neighbour": {4: ADDRESS["w2", 4], 6: ADDRESS["w2", 6]},
        "outside": {4: "203.0.113.9", 6: "2001:db8:9::9"},
    }[forged][version]
    world.w1.namespace.run("ip", "address", "add", address, "dev", "lo")
    await table.set(table_body(POOLS, "tor"))
    receiver = open_socket(world.far, version)
    receiver.bind((ADDRESS[FAR, version], 0))
    for source, text in ((address, b"forged"), (ADDRESS["w1", version], b"honest")):
        sender = open_socket(world.w1, version)
        # An address on the loopback link is one's own as soon as duplicates have been looked for, which is at once.
        sender.setsockopt(*((socket.IPPROTO_IP, 15) if version == 4 else (socket.IPPROTO_IPV6, 78)), 1)
        sender.bind((source, 0))
        sender.sendto(text, receiver.getsockname()[:2])
    assert receiver.recvfrom(100)[0] == b"honest"


async def test_without_the_table_ipv6_could_be_forged(world: World, open_socket: Callable[..., socket.socket]) -> None:
    """The rule, and nothing else, stops a forged IPv6 source."""
    world.w1.namespace.run("ip", "address", "add", "fd00:1::9", "dev", "lo")
    sender, receiver = open_socket(world.w1, 6), open_socket(world.far, 6)
    sender.setsockopt(socket.IPPROTO_IPV6, 78, 1)
    sender.bind(("fd00:1::9", 0))
    receiver.bind((ADDRESS[FAR, 6], 0))
    assert seen_source(sender, receiver) == "fd00:1::9"


async def test_an_unchanged_table_is_not_written_again(host: Namespace, table: NftablesTable) -> None:
    """The second time nothing happens; pools that changed replace it."""
    assert host
    await table.set(table_body(POOLS, "tor"))
    first = handle()
    await table.set(table_body(POOLS, "tor"))
    assert handle() == first
    await table.set(table_body(POOLS[:1], "tor"))
    assert handle() != first
    assert "fd00:1::" not in listed()


@pytest.mark.parametrize(
    "tampering",
    [
        "delete table inet tt-out",
        "flush chain inet tt-out postrouting",
        "add rule inet tt-out prerouting drop",
        "delete element inet tt-out masqueraded4 { 10.0.0.0/24 }",
        "flush ruleset",
    ],
)
async def test_a_table_that_others_changed_is_repaired(host: Namespace, table: NftablesTable, tampering: str) -> None:
    """Whatever was taken or added, the next look makes it as it was."""
    assert host
    await table.set(table_body(POOLS, "tor"))
    before = listed()
    nft(*tampering.split())
    assert listed() != before
    await table.set(table_body(POOLS, "tor"))
    assert listed() == before


async def test_foreign_tables_are_left_alone(host: Namespace, table: NftablesTable) -> None:
    """Writing, repairing and removing our table changes no other one, and not even its number."""
    assert host
    nft("add table ip foreign")
    nft("add chain ip foreign out { type nat hook postrouting priority 100; }")
    nft("add rule ip foreign out oifname up0 masquerade")
    before = nft("-a", "list", "table", "ip", "foreign")
    await table.set(table_body(POOLS, "tor"))
    nft("delete table inet tt-out")
    await table.set(table_body(POOLS, "tor"))
    await table.set("")
    assert listed() == ""
    assert nft("-a", "list", "table", "ip", "foreign") == before


async def test_what_nft_refuses_changes_nothing(host: Namespace, table: NftablesTable) -> None:
    """A text with a mistake leaves the table as it was, and the reason is told."""
    assert host
    await table.set(table_body(POOLS, "tor"))
    before = handle()
    with pytest.raises(PermanentError, match=r"nft refuses the table inet tt-out: .*"):
        await table.set("    chain postrouting {\n        nonsense\n    }\n")
    assert handle() == before


async def test_an_earlier_agents_table_goes_when_no_pool_needs_it(host: Namespace) -> None:
    """The table outlives the agent that wrote it; the next one removes what it does not need."""
    assert host
    await NftablesTable("tt-out").set(table_body(POOLS[2:], "tor"))
    assert "fib" in listed()
    await NftablesTable("tt-out").set(table_body([], "tor", listed()))
    assert listed() == ""


async def test_a_host_without_nft_is_told_so_if_a_pool_needs_it(
    host: Namespace, table: NftablesTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is used as soon as it is there; pools that need nothing of it miss nothing."""
    assert host
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    await table.set("")
    with pytest.raises(PermanentError, match="install nftables"):
        await table.set(table_body(POOLS, "tor"))
    monkeypatch.setenv("PATH", path)
    await table.set(table_body(POOLS, "tor"))
    assert "masquerade" in listed()

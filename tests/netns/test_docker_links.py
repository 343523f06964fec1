"""Links lent to dockerd, and the packet filter beside its own, in a real kernel."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from controller.docker.firewall import Firewall
from controller.docker.ruleset import datagram_ports, ruleset
from controller.docker.values import Endpoint, Network, Protocol, Published
from controller.errors import PermanentError
from controller.kernel.lent_links import LentLinks
from controller.kernel.links import KernelLinks
from controller.kernel.namespaces import entered
from controller.kernel.neighbours import KernelEndpoints
from controller.ports import WorkloadLink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.netns.conftest import Namespace

ADDRESSES = (ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fd00::7"))
GATEWAYS = (ipaddress.ip_address("169.254.9.9"), ipaddress.ip_address("fe80::9"))
LINK = WorkloadLink("tor000000000007", "tdk000000000007", "02:00:00:00:00:07", ADDRESSES, 1400)


@pytest.fixture
def lent(host: Namespace) -> Iterator[LentLinks]:
    """Open the links of the test's namespace."""
    assert host
    links = LentLinks()
    yield links
    links.close()


def run(*command: str) -> str:
    """Run a command where the test runs, which must succeed, and return its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def take(container: Namespace, ip: Callable[[str], str]) -> None:
    """Do with the far end what dockerd does with it."""
    ip(f"link set {LINK.container_name} netns {container.name}")
    container.run("ip", "link", "set", LINK.container_name, "name", "eth0")
    container.run("ip", "link", "set", "eth0", "address", LINK.container_mac)
    container.run("ip", "link", "set", "eth0", "up")
    for address, gateway in zip(ADDRESSES, GATEWAYS, strict=True):
        length = address.max_prefixlen
        version = f"-{address.version}"
        flags = [] if address.version == 4 else ["nodad"]
        container.run("ip", version, "address", "add", f"{address}/{length}", "dev", "eth0", *flags)
        container.run("ip", version, "route", "add", f"{gateway}/{length}", "dev", "eth0")
        container.run("ip", version, "route", "add", "default", "via", str(gateway), "dev", "eth0")


def test_a_lent_link_works_as_soon_as_it_is_taken(
    lent: LentLinks, make_namespace: Callable[[], Namespace], ip: Callable[[str], str]
) -> None:
    """The host answers for both gateways, and the link counts as one with its addresses wired."""
    index = lent.lend(LINK, GATEWAYS)
    for address in ADDRESSES:
        ip(f"-{address.version} route add {address} dev {LINK.host_name}")
    container = make_namespace()
    take(container, ip)
    for target in ("192.0.2.1", "2001:db8::1"):
        container.run("ping", "-c", "1", "-W", "5", target)
    links, endpoints = KernelLinks(), KernelEndpoints()
    try:
        assert links.list() == {LINK.host_name: index}
        assert endpoints.read() == {LINK.host_name: ADDRESSES}
    finally:
        links.close()
        endpoints.close()
    # The gateway is never the source of what the host sends.
    assert "src 169.254" not in ip("route get 10.0.0.7")


def test_lent_again_it_stays_until_it_is_taken(
    lent: LentLinks, make_namespace: Callable[[], Namespace], ip: Callable[[str], str]
) -> None:
    """Then nobody else can have the old one's end, and a new one takes its place."""
    index = lent.lend(LINK, GATEWAYS)
    assert lent.lend(LINK, GATEWAYS) == index
    assert lent.untaken() == {LINK.container_name}
    take(make_namespace(), ip)
    assert lent.untaken() == frozenset()
    again = lent.lend(LINK, GATEWAYS)
    assert again != index
    assert LINK.container_name in ip("-br link")


def test_a_name_that_is_taken_gives_way_or_nothing_is_left(lent: LentLinks, ip: Callable[[str], str]) -> None:
    """What is left of an earlier one by half, too."""
    ip(f"link add {LINK.container_name} type bridge")
    lent.lend(LINK, GATEWAYS)
    assert f"{LINK.container_name}@{LINK.host_name}" in ip("-br link")


async def test_our_table_is_replaced_as_a_whole_beside_others(host: Namespace) -> None:
    """A real nft takes every rule there is; what it refuses changes nothing; in the end the table is gone."""
    assert host
    run("nft", "add table ip foreign { chain x { ip saddr 10.9.9.9 drop; } ; }")
    foreign = run("nft", "list table ip foreign")
    published = tuple(
        Published(protocol, 53, address, 5300 + number)
        for number, protocol in enumerate(Protocol)
        for address in (None, ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::"), *GATEWAYS)
    )
    endpoint = Endpoint("n", "e", ADDRESSES, "02:00:00:00:00:07", published)
    open_network = Network("n", (), internal=False, mtu_bytes=0, number=0)
    internal = Network("n", (ipaddress.ip_network("10.0.0.0/16"),), internal=True, mtu_bytes=0, number=0)
    firewall = Firewall()
    for network in (open_network, internal, open_network):
        await firewall.apply(ruleset([endpoint], {"n": network}))
    with pytest.raises(PermanentError):
        await firewall.apply("nonsense")
    assert run("nft", "list table inet tortie-docker").count("dnat ip to 10.0.0.7:53") == 2 * 3 * 3
    await firewall.apply(ruleset([], {}))
    assert run("nft", "list tables") == "table ip foreign\n"
    assert run("nft", "list table ip foreign") == foreign


@pytest.fixture
def neighbours(make_namespace: Callable[[], Namespace], ip: Callable[[str], str]) -> list[Namespace]:
    """Make a client and a container, each on a link of its own to the test's host, which forwards between them."""
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    made = [make_namespace(), make_namespace()]
    for number, namespace in enumerate(made):
        ip(f"link add v{number} type veth peer name eth0 netns {namespace.name}")
        ip(f"link set v{number} up")
        namespace.run("ip", "link", "set", "eth0", "up")
        for network, length in ((f"198.51.10{number}.", 24), (f"2001:db8:{number}::", 64)):
            nodad = ["nodad"] if length == 64 else []
            ip(f"address add {network}1/{length} dev v{number} {' '.join(nodad)}")
            namespace.run("ip", "address", "add", f"{network}2/{length}", "dev", "eth0", *nodad)
            namespace.run("ip", "route", "add", "default", "via", f"{network}1")
    return made


def datagram_socket(namespace: Namespace, address: str, port: int) -> socket.socket:
    """Return a bound socket in a namespace."""
    with entered(namespace.descriptor):
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(10)
    made.bind((address, port))
    return made


@pytest.mark.parametrize("own", ["198.51.100.1", "2001:db8:0::1"])
@pytest.mark.parametrize("at", [None, "own"])
async def test_who_sends_all_the_time_reaches_a_port_as_soon_as_it_is_published(
    host: Namespace, neighbours: list[Namespace], own: str, at: str | None
) -> None:
    """What is sent while nothing is published is the host's; then it is the container's, also for the same sender."""
    assert host
    addresses = (ipaddress.ip_address("198.51.101.2"), ipaddress.ip_address("2001:db8:1::2"))
    version = ipaddress.ip_address(own).version
    other = Endpoint("n", "f", ADDRESSES, LINK.container_mac, (Published(Protocol.TCP, 80, None, 8080),))
    published = Published(Protocol.UDP, 53, None if at is None else ipaddress.ip_address(own), 5300)
    endpoint = Endpoint("n", "e", addresses, LINK.container_mac, (published,))
    networks = {"n": Network("n", (), internal=False, mtu_bytes=0, number=0)}
    firewall = Firewall()
    with (
        datagram_socket(neighbours[0], own[:-1] + "2", 5555) as client,
        datagram_socket(neighbours[1], str(addresses[version == 6]), 53) as server,
    ):
        for endpoints in ([other], [other, endpoint]):
            await firewall.apply(ruleset(endpoints, networks), datagram_ports(endpoints))
            with suppress(ConnectionRefusedError):  # nobody listens at the host itself
                client.sendto(f"{len(endpoints)} endpoints".encode(), (own, 5300))
        assert server.recv(100) == b"2 endpoints"


async def test_dockerds_filter_lets_our_links_through_once(host: Namespace) -> None:
    """One jump, however often it is asked for, behind what is there; without dockerd's chain nothing is written."""
    assert host
    firewall = Firewall()
    await firewall.let_through(4)
    assert run("nft", "list ruleset") == ""
    for rule in ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP"):
        run("iptables", *rule.split())
    for _ in range(3):
        await firewall.let_through(4)
    assert run("iptables", "-S", "DOCKER-USER").splitlines()[1:] == [
        "-A DOCKER-USER -j TORTIE-FORWARD",
        "-A DOCKER-USER -j RETURN",
    ]

"""Links lent to dockerd, and the packet filter beside its own, in a real kernel."""

from __future__ import annotations

import ipaddress
import subprocess
from typing import TYPE_CHECKING

import pytest

from controller.docker.firewall import Firewall
from controller.docker.ruleset import ruleset
from controller.docker.values import Endpoint, Network, Protocol, Published
from controller.errors import PermanentError
from controller.kernel.lent_links import LentLinks
from controller.kernel.links import KernelLinks
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


async def test_dockerds_filter_lets_our_links_through_once(host: Namespace) -> None:
    """Two rules, however often it is asked for, before what is there; without dockerd's chain nothing is written."""
    assert host
    firewall = Firewall()
    await firewall.let_through(4)
    assert run("nft", "list ruleset") == ""
    for rule in ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP"):
        run("iptables", *rule.split())
    for _ in range(3):
        await firewall.let_through(4)
    assert run("iptables", "-S", "DOCKER-USER").splitlines()[1:] == [
        "-A DOCKER-USER -o tor+ -j ACCEPT",
        "-A DOCKER-USER -i tor+ -j ACCEPT",
        "-A DOCKER-USER -j RETURN",
    ]

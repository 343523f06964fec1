"""A container of several networks answers by every address, whichever has the default route, and forges none."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from controller.docker.filtering import Filtering
from controller.docker.firewall import Firewall
from controller.docker.state import DriverState
from controller.docker.values import Endpoint
from controller.errors import PermanentError
from controller.kernel.lent_links import LentLinks
from controller.kernel.namespaces import entered
from controller.kernel.nftables import NftablesTable
from controller.kernel.sysctls import enable_forwarding
from controller.ports import WorkloadLink
from controller.reconcile.firewall import table_body
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ipam.address import IPAddress
    from tests.netns.conftest import Namespace

HOST: Final = {4: ipaddress.ip_address("192.0.2.1"), 6: ipaddress.ip_address("2001:db8::1")}
POOL6: Final = Pool("ipv6", ipaddress.ip_network("fd00:9::/64"), 122)
#: For experiments (RFC 3692): nothing but a test's own socket takes it.
PROTOCOL: Final = 253
LAST: Final = b"this is the last one"
VERSIONS = pytest.mark.parametrize("version", [4, 6])
LIMIT_SECONDS: Final = 10


def endpoint(number: int, sandbox: str = "s") -> Endpoint:
    """Return a container's attachment to the network of this number."""
    addresses = ipaddress.ip_address(f"10.9.0.{number}"), ipaddress.ip_address(f"fd00:9::{number}")
    return Endpoint(f"n{number}", f"e{number}", addresses, f"02:00:00:00:00:0{number}", sandbox=sandbox)


def gateway(number: int, version: int) -> IPAddress:
    """Return the gateway of a network."""
    return ipaddress.ip_address(f"169.254.9.{number}" if version == 4 else f"fe80::{number}")


@dataclass
class World:
    """A host, a container on it, and what the agent knows of the two."""

    container: Namespace
    lent: LentLinks
    state: DriverState
    filtering: Filtering

    async def attach(self, number: int, *versions: int) -> None:
        """Attach the container to a network by both or these IP versions, as a Join does and dockerd after it."""
        this = endpoint(number)
        this = replace(this, addresses=tuple(each for each in this.addresses if each.version in (versions or (4, 6))))
        await self.state.keep_endpoint(this)
        await self.filtering.refresh()
        gateways = tuple(gateway(number, address.version) for address in this.addresses)
        link = WorkloadLink(this.host_name, this.lent_name, this.mac, this.addresses, 1400)
        self.lent.lend(link, gateways)
        await self.filtering.refresh(new_link=True)
        ip(f"link set {this.lent_name} netns {self.container.name}")
        for command in (f"link set {this.lent_name} name eth{number}", f"link set eth{number} up"):
            self.container.run("ip", *command.split())
        for address, via in zip(this.addresses, gateways, strict=True):
            version, length = f"-{address.version}", address.max_prefixlen
            ip(f"{version} route add {address} dev {this.host_name}")
            nodad = ["nodad"] if address.version == 6 else []
            self.container.run("ip", version, "address", "add", f"{address}/{length}", "dev", f"eth{number}", *nodad)
            self.container.run("ip", version, "route", "add", f"{via}/{length}", "dev", f"eth{number}")

    async def detach(self, number: int) -> None:
        """End the attachment."""
        ip(f"link delete {endpoint(number).host_name}")
        await self.state.keep_endpoint(replace(endpoint(number), sandbox=""))
        await self.filtering.refresh()

    def lead_out_by(self, number: int) -> None:
        """Have the default routes by the link to this network."""
        for version in (4, 6):
            via = str(gateway(number, version))
            self.container.run("ip", f"-{version}", "route", "replace", "default", "via", via, "dev", f"eth{number}")

    def answers(self, address: IPAddress, *, within_seconds: int = LIMIT_SECONDS) -> bool:
        """Tell whether the container answers the host's uplink address; a new link has to find its neighbour first."""
        once = ["-n", "-c", "1", "-w", str(within_seconds), "-i", "0.2"]
        ping = ["ping", *once, "-I", str(HOST[address.version]), str(address)]
        return subprocess.run(ping, check=False, capture_output=True).returncode == 0

    def arrive(self, sent: list[tuple[int, IPAddress]], last: tuple[int, IPAddress]) -> list[str]:
        """Send a packet from each address by the link to each network, and return the sources of those that came.

        It is over when the last packet has come.
        """
        version = last[1].version
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_RAW, PROTOCOL) as receiver:
            receiver.settimeout(LIMIT_SECONDS)
            receiver.bind((str(HOST[version]), 0))
            for number, source in sent:
                self._send(number, packet(source, HOST[version], b"sent"))
            self._send(last[0], packet(last[1], HOST[version], LAST))
            came = iter(lambda: receiver.recvfrom(1000), None)
            return [source for content, (source, *_) in itertools.takewhile(lambda each: LAST not in each[0], came)]

    def _send(self, number: int, content: bytes) -> None:
        with entered(self.container.descriptor):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sender:
            sender.bind((f"eth{number}", 0))
            kind = b"\x08\x00" if content[0] >> 4 == 4 else b"\x86\xdd"
            sender.send(b"\xee" * 6 + bytes.fromhex(f"02000000000{number}") + kind + content)


def ip(arguments: str) -> str:
    """Run `ip` where the test runs."""
    return run(f"ip {arguments}")


def run(command: str) -> str:
    """Run a command where the test runs, which must succeed."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


def packet(source: IPAddress, destination: IPAddress, content: bytes) -> bytes:
    """Return a packet (RFC 791, RFC 8200)."""
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(content), PROTOCOL, 64)
        return head + source.packed + destination.packed + content
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 0, 0, 64, PROTOCOL, 0)
    head += source.packed + destination.packed
    total = sum(struct.unpack("!10H", head))
    checksum = 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))
    return head[:10] + struct.pack("!H", checksum) + head[12:] + content


@pytest.fixture
async def world(host: Namespace, make_namespace: Callable[[], Namespace], tmp_path: Path) -> AsyncIterator[World]:
    """Give a host that forwards and checks IPv6 sources, and a container of one network."""
    assert host
    enable_forwarding()
    # A loose check takes every source that there is some route to.
    ip("route add default via 192.0.2.254")
    await NftablesTable("tortie").set(table_body([POOL6], "tor"))
    state, lent = DriverState(tmp_path / "docker.json"), LentLinks()
    made = World(make_namespace(), lent, state, Filtering(packet_filter=Firewall(), lending=lent, state=state))
    await made.attach(1)
    made.lead_out_by(1)
    yield made
    lent.close()


def mode(number: int) -> tuple[str, str]:
    """Return the reverse path check of a link and its group."""
    name = endpoint(number).host_name
    group = ip(f"link show {name}").partition("group ")[2].split()[0]
    return Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").read_text().strip(), group


@VERSIONS
async def test_every_address_answers_by_whichever_link(world: World, version: int) -> None:
    """Those of each network while the default route is one's or the other's, and those of three."""
    for networks in ((1, 2), (1, 2, 3)):
        await world.attach(networks[-1])
        for way_out in networks:
            world.lead_out_by(way_out)
            for number in networks:
                [address] = [each for each in endpoint(number).addresses if each.version == version]
                assert world.answers(address), (way_out, address)


@VERSIONS
async def test_a_container_of_several_networks_forges_nothing(world: World, version: int) -> None:
    """By no link of it comes what is another's: of the pool, of a container beside it, or of elsewhere."""
    await world.attach(2)
    other = replace(endpoint(3), sandbox="other")
    await world.state.keep_endpoint(other)
    await world.filtering.refresh()
    forged = {4: ("10.9.0.3", "10.9.0.77", "203.0.113.9"), 6: ("fd00:9::3", "fd00:9::77", "2001:db8:9::9")}[version]
    own = [each for number in (1, 2) for each in endpoint(number).addresses if each.version == version]
    links = (1, 2)
    assert world.arrive(list(itertools.product(links, map(ipaddress.ip_address, forged))), (1, own[0])) == []
    assert world.arrive(list(itertools.product(links, own[1:])), (1, own[0])) == [str(own[1])] * 2


async def test_a_container_forges_no_ipv6_although_no_pool_has_it(world: World) -> None:
    """The address of a pool that was deleted by force stays in use, and its container checked."""
    run("nft delete table inet tortie")
    own, forged = endpoint(1).addresses[1], endpoint(3).addresses[1]
    assert world.arrive([(1, forged)], (1, own)) == []


async def test_a_link_without_an_ipv6_address_carries_no_ipv6(world: World) -> None:
    """Neither forged nor, for a container that has IPv6 by another link, its own."""
    await world.attach(2, 4)
    own = endpoint(1).addresses[1]
    assert world.arrive([(2, endpoint(3).addresses[1]), (2, own)], (1, own)) == []


@VERSIONS
async def test_with_the_second_network_its_addresses_go(world: World, version: int) -> None:
    """The kernel checks the first link by itself again, and what was the second's comes by neither."""
    assert mode(1) == ("1", "default")
    await world.attach(2)
    assert (mode(1), mode(2)) == (("2", "116"), ("2", "116"))
    await world.detach(2)
    assert mode(1) == ("1", "default")
    own, lost = (each for number in (1, 2) for each in endpoint(number).addresses if each.version == version)
    assert world.arrive([(1, lost)], (1, own)) == []
    assert "set sources" not in run("nft list ruleset")


@VERSIONS
async def test_what_others_took_away_is_put_back(world: World, version: int) -> None:
    """Whatever became of the rules and of the links' settings, an agent that starts anew makes it right."""
    await world.attach(2)
    for tampering in ("nft flush ruleset", f"sysctl -qw net.ipv4.conf.{endpoint(2).host_name}.rp_filter=1"):
        run(tampering)
    again = Filtering(packet_filter=Firewall(), lending=world.lent, state=world.state)
    await again.repair()
    own = [each for number in (1, 2) for each in endpoint(number).addresses if each.version == version]
    assert all(map(world.answers, own))
    assert world.arrive([(1, endpoint(3).addresses[version == 6])], (1, own[0])) == []


async def test_an_agent_that_starts_anew_finds_what_an_earlier_one_shared(world: World) -> None:
    """A link whose container left the other network meanwhile is strict with the first change there is."""
    await world.attach(2)
    again = Filtering(packet_filter=Firewall(), lending=world.lent, state=world.state)
    world.filtering = again
    await world.detach(2)
    assert mode(1) == ("1", "default")


async def test_without_rules_nothing_is_shared(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host whose nft went away goes back to the kernel's own check, and says why; the first address goes on."""
    await world.attach(2)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermanentError, match="install nftables"):
        await world.filtering.repair()
    monkeypatch.undo()
    assert (mode(1), mode(2)) == (("1", "default"), ("1", "default"))
    assert world.answers(endpoint(1).addresses[0])
    assert not world.answers(endpoint(2).addresses[0], within_seconds=1)

"""A container of several networks against the real kernel: every address answers, whichever attachments come and go."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from controller.kernel.link_inspection import inspect_link
from controller.kernel.link_names import HOST_LINK_PREFIX, container_mac, host_link_name
from controller.kernel.links import KernelLinks
from controller.kernel.nftables import NftablesTable
from controller.kernel.sysctls import enable_forwarding
from controller.kernel.wiring_process import WiringProcess
from controller.ports import SHARED_LINK_GROUP, WorkloadLink
from controller.reconcile.firewall import table_body
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Protocol

    class Namespace(Protocol):
        """What the fixtures make."""

        name: str
        descriptor: int

        def run(self, *command: str) -> str:
            """Run a command inside."""
            ...


DEADLINE_SECONDS = 30
#: Where Debian has the standard plugins.
_STANDARD = Path("/usr/lib/cni")
POOLS = (Pool("four", ip_network("10.9.0.0/24"), 26), Pool("six", ip_network("fd09::/112"), 122))
FIRST, SECOND = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")


def workload(interface: str, *addresses: str) -> WorkloadLink:
    """Return the link of one of the container's interfaces."""
    return WorkloadLink(
        host_name=host_link_name("c1", interface),
        container_name=interface,
        container_mac=container_mac("c1", interface),
        addresses=tuple(map(ip_address, addresses)),
        mtu_bytes=1440,
    )


@dataclass(frozen=True)
class Place:
    """The host that the test runs in, a container on it, and another host that has routes to everything."""

    host: Namespace
    container: Namespace
    outside: Namespace
    links: KernelLinks
    process: WiringProcess | None
    state: Path

    async def join(self, interface: str, *addresses: str) -> WorkloadLink:
        """Attach the container to one more network of ours, as an ADD does."""
        link = workload(interface, *addresses)
        await self._wired(link)
        for address in addresses:
            self.host.run("ip", "route", "replace", address, "dev", link.host_name, "proto", "116")
        return link

    async def _wired(self, link: WorkloadLink) -> int:
        if self.process is None:
            return await asyncio.to_thread(self.links.wire, self.container.descriptor, link)
        self.process.start()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (begun := self.process.wire(self.container.descriptor, link)) is None:  # noqa: ASYNC110  no event
                await asyncio.sleep(0.005)
            index = await begun
        assert index is not None
        return index

    def leave(self, interface: str) -> None:
        """Detach the container from a network of ours, without its namespace."""
        self.links.unwire(host_link_name("c1", interface))

    def bridge(self, command: str) -> tuple[str, ...]:
        """Attach the container to a bridge that brings a default route, or detach it; return its addresses there."""
        configuration = {
            "cniVersion": "1.0.0",
            "name": "other",
            "type": "bridge",
            "bridge": "br0",
            "isDefaultGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]],
                "dataDir": str(self.state),
            },
        }
        done = subprocess.run(
            [_STANDARD / "bridge"],
            check=True,
            capture_output=True,
            input=json.dumps(configuration),
            text=True,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": "c1",
                "CNI_IFNAME": "eth9",
                "CNI_NETNS": f"/run/netns/{self.container.name}",
                "CNI_PATH": str(_STANDARD),
                "PATH": os.environ["PATH"],
            },
        )
        result: dict[str, Any] = json.loads(done.stdout or '{"ips": []}')
        return tuple(entry["address"].partition("/")[0] for entry in result["ips"])

    def answer(self, *addresses: str) -> None:
        """Check that these addresses answer the other host, and that the container reaches it."""
        for address in addresses:
            until_answered(self.outside, address)
        for address in ("192.0.2.2", "2001:db8::2"):
            until_answered(self.container, address)

    def rules(self) -> set[str]:
        """Return the rules that are there besides the kernel's own, of both IP versions."""
        shown = self.container.run("ip", "rule") + self.container.run("ip", "-6", "rule")
        return {" ".join(line.split()[1:4]) for line in shown.splitlines() if "proto kernel" not in line} - {
            "from all lookup"
        }

    def shown(self) -> list[str]:
        """Return what the container has of routes, neighbours and rules, as the kernel prints it."""
        commands = ("addr", "route show table all", "-6 route show table all", "rule", "-6 rule", "neigh", "-6 neigh")
        return [self.container.run("ip", *command.split()) for command in commands]

    def ways(self, link: WorkloadLink) -> list[bool]:
        """Tell of each address of a link whether what leaves from it takes that link."""
        found = inspect_link(self.container.descriptor, link.host_name, link.container_name, link.addresses).container
        assert found.end is not None
        own = frozenset({found.end.index})
        return [(way := found.way_from[address]) is not None and way.link_indexes == own for address in link.addresses]


def until_answered(where: Namespace, address: str) -> None:
    """Wait until an address answers: one of another plugin's is looked for on its link before it is used."""
    command = ("nsenter", f"--net=/run/netns/{where.name}", "ping", "-c1", "-W1", address)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while subprocess.run(command, check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline, f"{address} answers"


def ping_from(where: Namespace, address: str) -> None:
    """Send three echo requests from an address to the other host, answered or not."""
    command = ("ping", "-c", "3", "-i", "0.01", "-w", "2", "-I", address, "2001:db8::2")
    subprocess.run(("nsenter", f"--net=/run/netns/{where.name}", *command), check=False, capture_output=True)


@pytest.fixture(params=["agent", "process"])
async def place(
    request: pytest.FixtureRequest,
    host: Namespace,
    make_namespace: Callable[[], Namespace],
    tmp_path: Path,
) -> AsyncIterator[Place]:
    """Make the place; links are wired in a thread of the agent's, or in its other process."""
    outside = make_namespace()
    host.run("ip", "link", "set", "far0", "netns", outside.name)
    for command in (
        "address add 192.0.2.2/24 dev far0",
        "address add 2001:db8::2/64 dev far0 nodad",
        "link set far0 up",
        "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1",
    ):
        outside.run("ip", *command.split())
    enable_forwarding()
    await NftablesTable("tortie").set(table_body(POOLS, HOST_LINK_PREFIX))
    process = WiringProcess() if request.param == "process" else None
    with closing(KernelLinks()) as links:
        try:
            yield Place(host, make_namespace(), outside, links, process, tmp_path / "host-local")
        finally:
            if process is not None:
                process.close()


async def test_every_address_of_two_networks_answers(place: Place) -> None:
    """To another host, in both IP versions; what is repeated is there already and changes nothing."""
    first = await place.join("eth0", *FIRST)
    before = place.shown()
    await place.join("eth0", *FIRST)
    assert place.shown() == before
    assert place.rules() == set()
    second = await place.join("eth1", *SECOND)
    place.answer(*FIRST, *SECOND)
    assert place.ways(first) == place.ways(second) == [True, True]
    before = place.shown()
    for interface, addresses in (("eth0", FIRST), ("eth1", SECOND)):
        await place.join(interface, *addresses)
        assert place.shown() == before


async def test_sources_are_checked_by_the_second_link_too(place: Place) -> None:
    """The guard exempts links that Docker containers share, and no link is taken for one of those."""
    await place.join("eth0", *FIRST)
    second = await place.join("eth1", *SECOND)
    [shown] = json.loads(place.host.run("ip", "-json", "-details", "link", "show", second.host_name))
    assert shown["group"] not in {str(SHARED_LINK_GROUP), "default"}
    forged = "fd09::bad"
    place.container.run("ip", "address", "add", f"{forged}/128", "dev", "eth1", "nodad")
    place.container.run("ip", "-6", "rule", "add", "from", forged, "lookup", "99")
    gateway = ("via", "fe80::ecee:eeff:feee:eeee", "dev", "eth1")
    place.container.run("ip", "-6", "route", "add", "default", *gateway, "table", "99")
    place.outside.run("nft", "add table ip6 test")
    place.outside.run("nft", "add chain ip6 test in { type filter hook input priority 0; }")
    seen = {}
    for address in (forged, SECOND[1]):
        place.outside.run("nft", f"add rule ip6 test in ip6 saddr {address} counter")
        ping_from(place.container, address)
        listed = place.outside.run("nft", "list chain ip6 test in").splitlines()
        seen[address] = next(line.split("packets ")[1].split()[0] for line in listed if address in line)
    assert seen == {forged: "0", SECOND[1]: "3"}


@pytest.mark.parametrize(("leaves", "gone", "stays"), [("eth0", FIRST, SECOND), ("eth1", SECOND, FIRST)])
async def test_a_container_that_leaves_one_network_keeps_the_other(
    place: Place, leaves: str, gone: tuple[str, ...], stays: tuple[str, ...]
) -> None:
    """Whichever came first; it may come back, and leave again, and no rule is left of what was before."""
    await place.join("eth0", *FIRST)
    await place.join("eth1", *SECOND)
    for last in (7, 8):
        place.leave(leaves)
        place.answer(*stays)
        gone = tuple(f"{address[:-1]}{last}" for address in gone)
        await place.join(leaves, *gone)
        place.answer(*stays, *gone)
    others = set(SECOND if leaves == "eth0" else ())
    assert place.rules() <= {f"from {address} lookup" for address in (*others, *gone)}


@pytest.mark.parametrize(
    ("first", "second"),
    [(FIRST[:1], SECOND), (FIRST[1:], SECOND), (FIRST, SECOND[:1]), (FIRST, SECOND[1:]), (FIRST[1:], SECOND[1:])],
)
async def test_networks_of_different_ip_versions_go_together(
    place: Place, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """Each version is looked at by itself."""
    links = [await place.join("eth0", *first), await place.join("eth1", *second)]
    for address in (*first, *second):
        until_answered(place.outside, address)
    assert all(all(place.ways(link)) for link in links)


async def test_a_new_address_takes_the_place_of_the_old_ones_rule(place: Place) -> None:
    """Of an attachment that is wired anew with another address nothing old is left."""
    await place.join("eth0", *FIRST)
    await place.join("eth1", *SECOND)
    await place.join("eth1", "10.9.0.3", SECOND[1])
    place.answer(*FIRST, "10.9.0.3", SECOND[1])
    assert place.rules() == {"from 10.9.0.3 lookup", f"from {SECOND[1]} lookup"}


async def test_the_rules_go_with_the_link(
    place: Place, make_namespace: Callable[[], Namespace], host: Namespace
) -> None:
    """Given the namespace, DEL leaves nothing there; another one, or what is none, is no error and not touched."""
    for interface, addresses in (("eth0", FIRST), ("eth1", SECOND)):
        await place.join(interface, *addresses)
    place.container.run("ip", "rule", "add", "from", "10.1.1.1", "lookup", "main", "priority", "100")
    other = make_namespace()
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for descriptor in (other.descriptor, nothing, host.descriptor, 999_999):
            place.links.unwire(host_link_name("c1", "eth1"), descriptor)
            assert f"from {SECOND[0]} lookup" in place.rules()
            await place.join("eth1", *SECOND)
    finally:
        os.close(nothing)
    place.links.unwire(host_link_name("c1", "eth1"), place.container.descriptor)
    assert place.rules() == {"from 10.1.1.1 lookup"}
    place.links.unwire(host_link_name("c1", "eth1"), place.container.descriptor)
    place.answer(*FIRST)


async def test_a_bridge_that_was_there_first_keeps_its_default_route(place: Place) -> None:
    """Its address and ours answer, and when ours is gone the container is as it was."""
    theirs = place.bridge("ADD")
    before = place.container.run("ip", "route"), place.container.run("ip", "-6", "route")
    for _ in range(2):
        link = await place.join("eth0", *FIRST)
        place.answer(*theirs, *FIRST)
        assert place.ways(link) == [True, True]
        place.leave("eth0")
        place.answer(*theirs)
        assert (place.container.run("ip", "route"), place.container.run("ip", "-6", "route")) == before
    await place.join("eth0", *FIRST)
    place.bridge("DEL")
    place.answer(*FIRST)


async def test_a_bridge_that_comes_later_may_take_the_default_route(place: Place) -> None:
    """Both addresses answer; wired again, ours has its own way, and has the default route when the bridge is gone."""
    link = await place.join("eth0", *FIRST)
    theirs = place.bridge("ADD")
    place.answer(*theirs, *FIRST)
    assert place.ways(link) == [False, False]
    await place.join("eth0", *FIRST)
    place.answer(*theirs, *FIRST)
    assert place.ways(link) == [True, True]
    place.bridge("DEL")
    place.answer(*FIRST)
    assert place.ways(link) == [True, True]


async def test_a_default_route_that_drops_everything_is_no_obstacle(place: Place) -> None:
    """Others may have shut a container in before it gets our network: its address there works."""
    for command in ("route add blackhole default", "-6 route add unreachable default metric 5"):
        place.container.run("ip", *command.split())
    link = await place.join("eth0", *FIRST)
    for address in FIRST:
        until_answered(place.outside, address)
    assert place.ways(link) == [True, True]

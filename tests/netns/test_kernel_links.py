"""Wiring against the real kernel: the test's namespace is the host, others are containers."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.errors import KernelRefused, RefusedError
from controller.kernel.link_names import container_mac, host_link_name
from controller.kernel.links import KernelLinks
from controller.kernel.monitor import KernelChange, KernelMonitor
from controller.kernel.namespaces import entered
from controller.kernel.routes import KernelFib
from controller.kernel.sysctls import enable_forwarding
from controller.ports import KernelRoute, NextHop, RouteKind, WorkloadLink
from controller.reconcile.links import WorkloadLinks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Namespace(Protocol):
        """What the fixtures make."""

        descriptor: int

        def run(self, *command: str) -> str:
            """Run a command inside."""
            ...


V4 = ip_address("10.9.0.1")
V6 = ip_address("fd09::1")


@pytest.fixture
def links(host: object) -> Iterator[KernelLinks]:
    """Open the links of the test's namespace."""
    assert host
    opened = KernelLinks()
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def container(make_namespace: Callable[[], Namespace]) -> Namespace:
    """Return a container's namespace."""
    return make_namespace()


def workload(container_id: str = "c1", *addresses: str) -> WorkloadLink:
    """Return a dual-stack workload's link, or one with these addresses."""
    return WorkloadLink(
        host_name=host_link_name(container_id, "eth0"),
        container_name="eth0",
        container_mac=container_mac(container_id, "eth0"),
        addresses=tuple(map(ip_address, addresses)) or (V4, V6),
        mtu_bytes=1440,
    )


def route_to(link: WorkloadLink, index: int) -> None:
    """Program the workload's host routes, as the agent does after wiring."""
    fib = KernelFib()
    try:
        hop = NextHop(None, index)
        routes = [KernelRoute(ip_network(address), RouteKind.UNICAST, (hop,)) for address in link.addresses]
        assert fib.apply(routes, []) == []
    finally:
        fib.close()


def state(container: Namespace, ip: Callable[[str], str], name: str) -> list[str]:
    """Return everything wiring is about, as the kernel prints it, without counters."""
    shown = [container.run("ip", *words.split()) for words in ("addr", "route", "-6 route", "neigh", "-6 neigh")]
    return [" ".join(part.split()) for part in (*shown, ip(f"link show {name}"), ip(f"neigh show dev {name}"))]


def test_a_workload_reaches_its_host_and_is_reached(
    links: KernelLinks, container: Namespace, ip: Callable[[str], str]
) -> None:
    """Both families work both ways at once, and nobody had to ask for a neighbour."""
    enable_forwarding()
    link = workload()
    route_to(link, links.wire(container.descriptor, link))
    for host_address in ("192.0.2.1", "2001:db8::1"):
        assert "1 received" in container.run("ping", "-c1", "-W5", host_address)
    for address in link.addresses:
        assert (
            "1 received"
            in subprocess.run(["ping", "-c1", "-W5", str(address)], check=True, capture_output=True, text=True).stdout
        )
    entries = ip(f"neigh show dev {link.host_name}").splitlines()
    assert sorted(entries) == [f"{address} lladdr {link.container_mac} PERMANENT" for address in (V4, V6)]


def test_the_container_looks_as_documented(links: KernelLinks, container: Namespace) -> None:
    """Name, MAC, MTU, addresses, routes and neighbours are exactly these."""
    link = workload()
    links.wire(container.descriptor, link)
    shown = container.run("ip", "addr", "show", "eth0")
    assert "mtu 1440" in shown
    assert f"link/ether {link.container_mac}" in shown
    assert "inet 10.9.0.1/32 scope global" in shown
    assert "inet6 fd09::1/128 scope global nodad" in shown
    routes = [" ".join(line.split()) for line in container.run("ip", "route").splitlines()]
    assert routes == ["default via 169.254.1.1 dev eth0 proto 116 metric 1025 onlink"]
    routes = container.run("ip", "-6", "route").splitlines()
    assert "default via fe80::ecee:eeff:feee:eeee dev eth0 proto 116 metric 1025 pref medium" in routes
    for version in ("-4", "-6"):
        assert "proto 116" not in container.run("ip", version, "rule")
    neighbours = container.run("ip", "-4", "neigh").split()
    assert neighbours == ["169.254.1.1", "dev", "eth0", "lladdr", "ee:ee:ee:ee:ee:ee", "PERMANENT"]
    neighbours = container.run("ip", "-6", "neigh", "show", "fe80::ecee:eeff:feee:eeee").split()
    assert neighbours[-3:] == ["ee:ee:ee:ee:ee:ee", "router", "PERMANENT"] or neighbours[-2:] == [
        "ee:ee:ee:ee:ee:ee",
        "PERMANENT",
    ]
    assert "LOOPBACK,UP" in container.run("ip", "link", "show", "lo")


def test_the_host_link_is_guarded(
    links: KernelLinks, container: Namespace, sysctl: Callable[[str], str], ip: Callable[[str], str]
) -> None:
    """The host forwards for the link, checks the reverse path strictly and takes no router's word from it."""
    link = workload()
    links.wire(container.descriptor, link)
    assert "ee:ee:ee:ee:ee:ee" in ip(f"link show {link.host_name}")
    assert "mtu 1440" in ip(f"link show {link.host_name}")
    settings = ("ipv4", "forwarding", "1"), ("ipv4", "rp_filter", "1"), ("ipv6", "forwarding", "1")
    for version, name, value in (*settings, ("ipv6", "accept_ra", "0"), ("ipv6", "accept_dad", "0")):
        assert sysctl(f"{version}/conf/{link.host_name}/{name}") == value, (version, name)


def test_a_container_without_ipv6_address_has_no_ipv6(links: KernelLinks, container: Namespace) -> None:
    """A link-local address that nobody assigned would be a way in that nobody knows of."""
    links.wire(container.descriptor, workload("c1", "10.9.0.1"))
    assert "inet6" not in container.run("ip", "addr", "show", "eth0")


def test_the_host_end_has_ipv6_only_for_a_workload_with_it(
    links: KernelLinks, container: Namespace, ip: Callable[[str], str]
) -> None:
    """Nobody behind the link speaks IPv6 to the host without an address; given one, the gateway is there."""
    links.wire(container.descriptor, workload("c1", "10.9.0.1"))
    assert "inet6" not in ip(f"addr show {workload().host_name}")
    links.wire(container.descriptor, workload())
    assert "inet6 fe80::ecee:eeff:feee:eeee/64" in ip(f"addr show {workload().host_name}")
    links.wire(container.descriptor, workload("c1", "10.9.0.1"))
    assert "inet6" not in ip(f"addr show {workload().host_name}")


def test_ipv6_is_turned_on_where_it_was_off(links: KernelLinks, container: Namespace) -> None:
    """A runtime that turns IPv6 off in every namespace does not take the address away."""
    container.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    links.wire(container.descriptor, workload())
    assert "inet6 fd09::1/128" in container.run("ip", "addr", "show", "eth0")


async def test_nobody_is_told_of_a_new_link(links: KernelLinks, container: Namespace, ip: Callable[[str], str]) -> None:
    """A container that comes gives no reason to read all links, addresses and routes anew; one that came back does."""
    seen: list[KernelChange] = []
    monitor = KernelMonitor(0, seen.append, lambda _told: None)
    monitor.start(asyncio.get_running_loop())
    try:
        links.wire(container.descriptor, workload())
        ip("address add 192.0.2.77/24 dev up0")
        await _until(lambda: KernelChange.ADDRESSES in seen)
        assert KernelChange.LINKS not in seen
        ip(f"link set {workload().host_name} down")
        links.wire(container.descriptor, workload())
        await _until(lambda: KernelChange.LINKS in seen)
    finally:
        monitor.close()


async def test_a_link_that_is_gone_is_told_by_its_index(
    links: KernelLinks, make_namespace: Callable[[], Namespace], ip: Callable[[str], str]
) -> None:
    """Whoever waits for a removal need not wait for the kernel's answer; links that are no workload's are not told."""
    gone: list[int] = []
    monitor = KernelMonitor(0, lambda _change: None, lambda _told: None, gone.extend)
    monitor.start(asyncio.get_running_loop())
    try:
        ours = [workload(f"c{number}", f"10.9.0.{number}") for number in range(2)]
        indexes = [links.wire(make_namespace().descriptor, link) for link in ours]
        ip("link delete up0")
        links.unwire(ours[0].host_name)
        ip(f"link delete {ours[1].host_name}")
        await _until(lambda: len(gone) == 2)
    finally:
        monitor.close()
    assert gone == indexes


async def test_a_link_that_dies_with_its_container_is_forgotten(
    links: KernelLinks, make_namespace: Callable[[], Namespace], ip: Callable[[str], str]
) -> None:
    """Without a DEL, and before the next listing; a container of that name that comes back is a new one."""
    workloads = WorkloadLinks(links)
    monitor = KernelMonitor(0, lambda _change: None, lambda _told: None, workloads.learn_gone)
    monitor.start(asyncio.get_running_loop())
    try:
        for container_id in ("c1", "c2"):
            await workloads.wire(make_namespace().descriptor, workload(container_id))
        container = make_namespace()
        await workloads.wire(container.descriptor, workload("c3"))
        container.run("ip", "link", "delete", "eth0")
        ip(f"link delete {workload('c1').host_name}")
        await _until(lambda: list(workloads.index_of) == [workload("c2").host_name])
    finally:
        monitor.close()
        await asyncio.to_thread(workloads.close)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  the kernel sets no event
            await asyncio.sleep(0.01)


def test_wiring_again_changes_nothing(links: KernelLinks, container: Namespace, ip: Callable[[str], str]) -> None:
    """A repeated request finds the same link, the same index, and everything as it was."""
    link = workload()
    index = links.wire(container.descriptor, link)
    before = state(container, ip, link.host_name)
    assert links.wire(container.descriptor, link) == index
    assert state(container, ip, link.host_name) == before


def test_wiring_again_repairs(links: KernelLinks, container: Namespace, ip: Callable[[str], str]) -> None:
    """Whatever was taken away or changed is back, and what another assignment left is gone."""
    link = workload()
    links.wire(container.descriptor, link)
    before = state(container, ip, link.host_name)
    for damage in (
        "link set eth0 down",
        "link set eth0 address 02:00:00:00:00:01",
        "address flush dev eth0",
        "address add 10.9.0.77/32 dev eth0",
        "link set eth0 mtu 1300",
        "link set eth0 up",
    ):
        container.run("ip", *damage.split())
    ip(f"link set {link.host_name} down")
    links.wire(container.descriptor, link)
    after = state(container, ip, link.host_name)
    # The IPv6 link-local address may be there a moment later than the rest, and nothing of ours depends on it.
    assert after[1:] == before[1:]
    assert "10.9.0.77" not in after[0]
    assert "mtu 1440" in after[0]


def test_new_addresses_replace_old_ones(links: KernelLinks, container: Namespace, ip: Callable[[str], str]) -> None:
    """The addresses given are all there are."""
    links.wire(container.descriptor, workload("c1", "10.9.0.1"))
    links.wire(container.descriptor, workload("c1", "10.9.0.2"))
    shown = container.run("ip", "-4", "addr", "show", "eth0")
    assert "10.9.0.2/32" in shown
    assert "10.9.0.1/32" not in shown
    assert "10.9.0.2" in ip(f"neigh show dev {workload().host_name}")


def test_a_foreign_interface_of_that_name_is_refused(
    links: KernelLinks, container: Namespace, ip: Callable[[str], str]
) -> None:
    """The other interface stays, and nothing of ours is left."""
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    with pytest.raises(RefusedError, match="eth0 exists"):
        links.wire(container.descriptor, workload())
    assert links.list() == {}
    assert "eth0" in container.run("ip", "link")
    assert "tor" not in ip("-brief link")


def test_a_stale_link_of_a_dead_namespace_gives_way(
    links: KernelLinks, make_namespace: Callable[[], Namespace]
) -> None:
    """The same container in a new namespace gets a link that leads there."""
    old, new = make_namespace(), make_namespace()
    links.wire(old.descriptor, workload())
    index = links.wire(new.descriptor, workload())
    assert links.list() == {workload().host_name: index}
    assert "10.9.0.1" in new.run("ip", "addr")
    assert "eth0" not in old.run("ip", "link")


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/ns/mnt", "/proc/thread-self/ns/net"])
def test_no_other_namespace_is_refused(links: KernelLinks, path: str) -> None:
    """A file, another kind of namespace and the host's own namespace are refused by name, before anything is made."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(RefusedError, match="namespace"):
            links.wire(descriptor, workload())
    finally:
        os.close(descriptor)
    assert links.list() == {}


def test_a_closed_descriptor_is_refused(links: KernelLinks) -> None:
    """A descriptor that is none is refused too."""
    with pytest.raises(RefusedError, match="no network namespace"):
        links.wire(999999, workload())


@pytest.mark.parametrize(
    "wrong",
    [
        replace(workload(), mtu_bytes=10),
        replace(workload(), container_name="no/name"),
        replace(workload(), addresses=(ip_address("224.0.0.1"), ip_address("ff02::1"))),
    ],
)
def test_nothing_is_left_of_a_failure(
    links: KernelLinks, container: Namespace, ip: Callable[[str], str], wrong: WorkloadLink
) -> None:
    """Whatever the kernel refuses, early or late, the host is as before and the thread is back in its namespace."""
    with pytest.raises(KernelRefused):
        links.wire(container.descriptor, wrong)
    assert links.list() == {}
    assert container.run("ip", "-brief", "link").split()[:1] == ["lo"]
    assert "up0" in ip("link")


def test_unwiring_twice(links: KernelLinks, container: Namespace) -> None:
    """Both ends go; a link that is gone is no error."""
    link = workload()
    links.wire(container.descriptor, link)
    links.unwire(link.host_name)
    links.unwire(link.host_name)
    assert links.list() == {}
    assert "eth0" not in container.run("ip", "link")


def test_many_are_removed_at_once(links: KernelLinks, make_namespace: Callable[[], Namespace]) -> None:
    """More removals than wait together: each link is gone when its own call returns, also where two name the same."""
    names = []
    for number in range(4):
        link = workload(f"c{number}", f"10.9.0.{number}")
        links.wire(make_namespace().descriptor, link)
        names.append(link.host_name)

    def remove(name: str) -> bool:
        links.unwire(name)
        return name not in links.list()

    with ThreadPoolExecutor(80) as pool:
        assert all(pool.map(remove, names * 20))


def test_only_our_links_are_removed(links: KernelLinks, ip: Callable[[str], str]) -> None:
    """A name that is not ours is refused: no caller's mistake takes the host's uplink away."""
    with pytest.raises(RefusedError, match="up0"):
        links.unwire("up0")
    assert "up0" in ip("link")


def test_only_our_links_are_listed(links: KernelLinks, container: Namespace, ip: Callable[[str], str]) -> None:
    """Ours are veths with our prefix; the uplink and a bridge that borrows the prefix are not."""
    ip("link add torbridge type bridge")
    index = links.wire(container.descriptor, workload())
    assert links.list() == {workload().host_name: index}
    assert socket.if_nametoindex(workload().host_name) == index


def test_several_threads_wire_at_once(links: KernelLinks, make_namespace: Callable[[], Namespace]) -> None:
    """Calls take turns; each container gets its own link, and every thread is back where it was."""
    containers = [make_namespace() for _ in range(8)]

    def one(number: int) -> tuple[int, bool]:
        before = Path("/proc/thread-self/ns/net").readlink()
        index = links.wire(containers[number].descriptor, workload(f"c{number}", f"10.9.0.{number}"))
        return index, Path("/proc/thread-self/ns/net").readlink() == before

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(one, range(8)))
    assert all(back for _, back in done)
    assert sorted(links.list().values()) == sorted(index for index, _ in done)


def test_a_workload_cannot_spoof(links: KernelLinks, container: Namespace) -> None:
    """What a workload sends from its own address arrives; what it sends from another never does."""
    enable_forwarding()
    link = workload("c1", "10.9.0.1")
    route_to(link, links.wire(container.descriptor, link))
    container.run("ip", "address", "add", "10.9.0.66/32", "dev", "eth0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("192.0.2.1", 0))
        receiver.settimeout(10)
        with entered(container.descriptor):
            senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        try:
            for sender, address in zip(senders, ("10.9.0.66", "10.9.0.1"), strict=True):
                sender.bind((address, 0))
                # One path, in order: had the first passed, it would be received first.
                sender.sendto(address.encode(), receiver.getsockname())
            assert receiver.recv(100) == b"10.9.0.1"
        finally:
            for sender in senders:
                sender.close()

"""What is wired on a host, read from the real kernel."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from controller.kernel.link_names import container_mac, host_link_name
from controller.kernel.links import KernelLinks
from controller.kernel.neighbours import KernelEndpoints
from controller.ports import WorkloadLink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Namespace(Protocol):
        """What the fixtures make."""

        descriptor: int


V4 = ip_address("10.9.0.1")
V6 = ip_address("fd09::1")


@pytest.fixture
def endpoints(host: object) -> Iterator[KernelEndpoints]:
    """Open a reader in the test's namespace."""
    assert host
    opened = KernelEndpoints()
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def wire(host: object, make_namespace: Callable[[], Namespace]) -> Iterator[Callable[..., str]]:
    """Return a function that wires a workload with these addresses, and returns its link's name."""
    assert host
    links = KernelLinks()

    def wired(container_id: str, *addresses: str) -> str:
        name = host_link_name(container_id, "eth0")
        mac = container_mac(container_id, "eth0")
        links.wire(
            make_namespace().descriptor, WorkloadLink(name, "eth0", mac, tuple(map(ip_address, addresses)), 1500)
        )
        return name

    try:
        yield wired
    finally:
        links.close()


def test_every_workload_is_found_with_its_addresses(endpoints: KernelEndpoints, wire: Callable[..., str]) -> None:
    """Both families, each on its own link, IPv4 first."""
    both, single = wire("c1", "fd09::1", "10.9.0.1"), wire("c2", "10.9.0.2")
    assert endpoints.read() == {both: (V4, V6), single: (ip_address("10.9.0.2"),)}


def test_a_host_without_workloads_has_no_endpoints(endpoints: KernelEndpoints, ip: Callable[[str], str]) -> None:
    """What others have wired is none of ours, whatever neighbours it has."""
    ip("link add mine0 type veth peer name mine1")
    for link in ("up0", "mine0"):
        ip(f"neigh replace 10.9.0.1 lladdr 02:00:00:00:00:01 dev {link} nud permanent")
    assert endpoints.read() == {}


def test_only_permanent_neighbours_are_wired(
    endpoints: KernelEndpoints, wire: Callable[..., str], ip: Callable[[str], str]
) -> None:
    """Multicast entries of the kernel, what was learned and what is answered for others do not count."""
    name = wire("c1", "10.9.0.1", "fd09::1")
    ip(f"neigh add 10.9.0.7 lladdr 02:00:00:00:00:07 dev {name} nud reachable")
    ip(f"neigh add proxy 10.9.0.8 dev {name}")
    assert endpoints.read() == {name: (V4, V6)}
    ip(f"neigh del 10.9.0.1 dev {name}")
    assert endpoints.read() == {name: (V6,)}


def test_a_link_that_was_deleted_is_gone_with_its_addresses(
    endpoints: KernelEndpoints, wire: Callable[..., str], ip: Callable[[str], str]
) -> None:
    """Whoever did it; a link that lost every address is still there."""
    gone, bare = wire("c1", "10.9.0.1"), wire("c2", "10.9.0.2")
    ip(f"link del {gone}")
    ip(f"neigh flush dev {bare} nud permanent")
    assert endpoints.read() == {bare: ()}

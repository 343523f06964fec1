"""What a report reads from the real kernel: routes of ours and of others, workload links, forwarding."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Protocol

from controller.kernel.inspection import WorkloadEnd, inspect_kernel
from controller.kernel.link_names import container_mac, host_link_name
from controller.kernel.links import KernelLinks
from controller.ports import KernelRoute, NextHop, RouteKind, WorkloadLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.kernel.routes import KernelFib

    class Namespace(Protocol):
        """What the fixtures make."""

        descriptor: int


POOLS = (ip_network("10.9.0.0/16"), ip_network("fd09::/64"))


def test_an_empty_namespace_has_nothing(host: object) -> None:
    """Its own subnets lie in no pool."""
    assert host
    found = inspect_kernel(POOLS)
    assert (found.routes, found.others, found.ends) == ((), (), {})
    assert "up0" in found.device_names.values()


def test_our_routes_are_as_they_were_written(fib: KernelFib) -> None:
    """Blackholes, one next hop, several, and both IP versions."""
    link = next(index for index, name in inspect_kernel(()).device_names.items() if name == "up0")
    one, other = (NextHop(ip_address(f"192.0.2.{last}"), link) for last in (2, 3))
    routes = {
        KernelRoute(ip_network("10.9.0.0/26"), RouteKind.BLACKHOLE),
        KernelRoute(ip_network("10.9.1.0/26"), RouteKind.UNICAST, (one,)),
        KernelRoute(ip_network("10.9.2.0/26"), RouteKind.UNICAST, (one, other)),
        KernelRoute(ip_network("fd09::/122"), RouteKind.BLACKHOLE),
        KernelRoute(ip_network("fd09::1:0/122"), RouteKind.UNICAST, (NextHop(ip_address("2001:db8::2"), link),)),
    }
    assert fib.apply(routes, ()) == []
    found = inspect_kernel(POOLS)
    assert set(found.routes) == routes
    assert found.others == ()


def test_routes_of_others_are_told_where_they_matter(host: object, ip: Callable[[str], str]) -> None:
    """Inside the pools, by whomever they were made; a default route and other subnets are not."""
    assert host
    for route in (
        "add 10.9.3.0/26 via 192.0.2.7 metric 50",
        "add 10.9.4.0/27 dev up0 proto bird",
        "add blackhole 10.9.5.5/32",
        "add default via 192.0.2.9",
        "add 198.51.100.0/24 via 192.0.2.9",
    ):
        ip(f"route {route}")
    ip("-6 route add fd09::7/128 via 2001:db8::7")
    found = {str(each.prefix): each for each in inspect_kernel(POOLS).others}
    assert found.keys() == {"10.9.3.0/26", "10.9.4.0/27", "10.9.5.5/32", "fd09::7/128"}
    assert (found["10.9.3.0/26"].protocol, found["10.9.3.0/26"].metric) == (3, 50)
    assert [hop.gateway for hop in found["10.9.3.0/26"].next_hops] == [ip_address("192.0.2.7")]
    assert (found["10.9.4.0/27"].protocol, found["10.9.4.0/27"].metric) == (12, 0)
    assert found["fd09::7/128"].metric == 1024


def test_a_workloads_link_is_told_with_its_state(
    host: object, make_namespace: Callable[[], Namespace], ip: Callable[[str], str]
) -> None:
    """Its neighbours while it is up; the kernel forgets them with the link."""
    assert host
    name, mac = host_link_name("c1", "eth0"), container_mac("c1", "eth0")
    addresses = (ip_address("10.9.0.1"), ip_address("fd09::1"))
    links = KernelLinks()
    try:
        links.wire(make_namespace().descriptor, WorkloadLink(name, "eth0", mac, addresses, 1500))
        assert inspect_kernel(POOLS).ends == {name: WorkloadEnd(up=True, wired=addresses)}
        ip(f"link set {name} down")
        assert inspect_kernel(POOLS).ends == {name: WorkloadEnd(up=False, wired=())}
    finally:
        links.close()


def test_forwarding_is_told_for_each_ip_version(host: object, set_sysctl: Callable[[str, str], None]) -> None:
    """As the kernel has it at that moment."""
    assert host
    for v4, v6 in (("1", "0"), ("0", "1")):
        set_sysctl("ipv4/ip_forward", v4)
        set_sysctl("ipv6/conf/all/forwarding", v6)
        assert inspect_kernel(()).forwarding == {4: v4 == "1", 6: v6 == "1"}

"""Which routes a node wants, from what it holds and what it learned."""

from __future__ import annotations

import ipaddress

from bgp.route import LearnedRoute
from controller.ports import InterfaceAddress, KernelRoute, NextHop, RouteKind
from controller.reconcile.desired import Unresolved, block_routes, device_of, learned_routes, workload_routes

V4 = ipaddress.ip_address("10.0.0.1")
V6 = ipaddress.ip_address("fd00::1")
NODE = ipaddress.ip_address("192.0.2.2")
OTHER = ipaddress.ip_address("192.0.2.3")


def interface(index: int, cidr: str) -> InterfaceAddress:
    """Return an interface address on the link with this index."""
    parsed = ipaddress.ip_interface(cidr)
    return InterfaceAddress(f"eth{index}", index, parsed.ip, parsed.network, scope_global=True)


def test_each_wired_workload_has_a_host_route_out_of_its_link() -> None:
    """Both families; an address whose link is missing has no route."""
    missing = ipaddress.ip_address("10.0.0.2")
    routes = workload_routes({V4: "tor1", V6: "tor1", missing: "tor2"}, {"tor1": 7})
    hops = (NextHop(None, 7),)
    assert set(routes.values()) == {
        KernelRoute(ipaddress.ip_network("10.0.0.1/32"), RouteKind.UNICAST, hops),
        KernelRoute(ipaddress.ip_network("fd00::1/128"), RouteKind.UNICAST, hops),
    }


def test_own_blocks_are_blackholes_but_for_single_addresses() -> None:
    """A /32 or /128 block would shadow its only workload."""
    blocks = [ipaddress.ip_network(text) for text in ("10.0.0.0/26", "10.1.0.0/32", "fd00::/122", "fd00:1::/128")]
    routes = block_routes(blocks)
    assert set(routes) == {blocks[0], blocks[2]}
    assert all(route.kind is RouteKind.BLACKHOLE and not route.next_hops for route in routes.values())


def test_a_learned_block_goes_through_the_device_of_its_next_hops_subnet() -> None:
    """Equal paths become one route with sorted next hops."""
    prefix = ipaddress.ip_network("10.2.0.0/26")
    paths = tuple(LearnedRoute(prefix, hop, peer=hop) for hop in (OTHER, NODE))
    routes, unresolved = learned_routes({prefix: paths}, [interface(2, "192.0.2.1/24"), interface(3, "10.9.0.1/16")])
    assert routes == {prefix: KernelRoute(prefix, RouteKind.UNICAST, (NextHop(NODE, 2), NextHop(OTHER, 2)))}
    assert unresolved == ()


def test_a_next_hop_outside_every_subnet_is_reported() -> None:
    """Nothing is guessed: there is no route, and the reason is known."""
    prefix = ipaddress.ip_network("10.2.0.0/26")
    routes, unresolved = learned_routes(
        {prefix: (LearnedRoute(prefix, NODE, peer=NODE),)}, [interface(1, "10.9.0.1/16")]
    )
    assert routes == {}
    assert unresolved == (Unresolved(prefix, NODE),)


def test_the_longest_subnet_wins() -> None:
    """As in the kernel's own lookup."""
    assert device_of(NODE, [interface(1, "192.0.2.1/16"), interface(2, "192.0.2.1/24")]) == 2

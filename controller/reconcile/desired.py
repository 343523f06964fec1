"""Which routes this node's kernel should have, as a function of what the node holds and what it learned."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from controller.ports import KernelRoute, NextHop, RouteKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bgp.route import LearnedRoute
    from controller.ports import InterfaceAddress
    from ipam.address import IPAddress, IPNetwork

#: Each decision asks for the routes of all workloads, and making them anew took most of its time.
_KEPT_WORKLOADS: Final = 8192


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A learned prefix that cannot be routed: no interface of this node has the next hop in its subnet."""

    prefix: IPNetwork
    next_hop: IPAddress


def workload_routes(link_of: Mapping[IPAddress, str], index_of: Mapping[str, int]) -> dict[IPNetwork, KernelRoute]:
    """Return a host route for each address whose link exists; a workload without a link has nothing to be routed to."""
    routes = {}
    for address, link in link_of.items():
        index = index_of.get(link)
        if index is not None:
            route = workload_route(address, index)
            routes[route.prefix] = route
    return routes


@functools.lru_cache(maxsize=_KEPT_WORKLOADS)
def workload_route(address: IPAddress, link_index: int) -> KernelRoute:
    """Return the route to a workload of this node: its /32 or /128, directly out of its link."""
    return KernelRoute(host_prefix(address), RouteKind.UNICAST, (NextHop(None, link_index),))


@functools.lru_cache(maxsize=_KEPT_WORKLOADS)
def host_prefix(address: IPAddress) -> IPNetwork:
    """Return the /32 or /128 of an address."""
    return ipaddress.ip_network(address)


def block_routes(blocks: Iterable[IPNetwork]) -> dict[IPNetwork, KernelRoute]:
    """Return a blackhole for each own block, so that an unassigned address dies here and never loops.

    A block of one address has none: it would stand in the way of the workload's own route.
    """
    return {block: KernelRoute(block, RouteKind.BLACKHOLE) for block in blocks if block.prefixlen < block.max_prefixlen}


def learned_routes(
    best_of: Mapping[IPNetwork, tuple[LearnedRoute, ...]], interfaces: Iterable[InterfaceAddress]
) -> tuple[dict[IPNetwork, KernelRoute], tuple[Unresolved, ...]]:
    """Return a route through the next hops of each prefix's best paths, and what could not be resolved.

    The device is that of the subnet the next hop lies in; several equal paths become one ECMP route.
    """
    subnets = tuple(interfaces)
    hops_of: dict[IPAddress, tuple[NextHop, ...]] = {}
    routes: dict[IPNetwork, KernelRoute] = {}
    unresolved: list[Unresolved] = []
    gateway_before: IPAddress | None = None
    hops_before: tuple[NextHop, ...] = ()
    unicast = RouteKind.UNICAST
    for prefix, paths in best_of.items():
        if len(paths) == 1 and paths[0].next_hop is gateway_before:  # as for nearly every prefix: they came together
            routes[prefix] = tuple.__new__(KernelRoute, (prefix, unicast, hops_before))  # as the constructor does
            continue
        hops: tuple[NextHop, ...] = ()
        for gateway in [paths[0].next_hop] if len(paths) == 1 else dict.fromkeys(path.next_hop for path in paths):
            found = hops_of.get(gateway)
            if found is None:
                index = device_of(gateway, subnets)
                found = hops_of[gateway] = () if index is None else (NextHop(gateway, index),)
            if not found:
                unresolved.append(Unresolved(prefix, gateway))
            hops = hops + found if hops else found  # routes of one next hop share it
        if len(hops) > 1:
            hops = tuple(sorted(hops, key=lambda hop: (int(hop.gateway or 0), hop.link_index)))
        gateway_before, hops_before = (paths[0].next_hop, hops) if len(paths) == 1 and hops else (None, ())
        if hops:
            routes[prefix] = KernelRoute(prefix, unicast, hops)
    return routes, tuple(unresolved)


def device_of(gateway: IPAddress, interfaces: Iterable[InterfaceAddress]) -> int | None:
    """Return the index of the link in whose subnet the gateway lies, longest subnet first; None if there is none."""
    matches = [
        interface
        for interface in interfaces
        if interface.network.version == gateway.version
        and interface.network.prefixlen < interface.network.max_prefixlen
        and gateway in interface.network
    ]
    return max(matches, key=lambda interface: interface.network.prefixlen).link_index if matches else None

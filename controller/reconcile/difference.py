"""The difference between the routes there should be and those there are; pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ipam.address import shared_offsets

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from controller.ports import KernelRoute
    from ipam.address import IPNetwork


class Sweep(Enum):
    """Which of our routes may be removed when they are not desired.

    What is not known yet must not be taken for unwanted: before the store is in sync nothing is removed, before BGP is
    in sync only LOCAL routes are, those without a gateway.
    """

    NOTHING = "nothing"
    LOCAL = "local"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class DesiredRoutes:
    """Every route there should be, by its prefix, and what may be removed besides: nothing in `spared` networks."""

    routes: Mapping[IPNetwork, KernelRoute]
    sweep: Sweep
    spared: tuple[IPNetwork, ...] = ()


def to_write(desired: Iterable[KernelRoute], actual: Mapping[IPNetwork, KernelRoute]) -> list[KernelRoute]:
    """Return those desired routes that are not there, or not as they should be."""
    return [
        route
        for route in desired
        # Identity first: what a resync finds unchanged are mostly the very same objects.
        if (there := actual.get(route.prefix)) is not route and (there is None or not is_same(route, there))
    ]


def to_remove(
    actual: Iterable[KernelRoute], desired: DesiredRoutes, dropped: Container[IPNetwork] = ()
) -> list[KernelRoute]:
    """Return those actual routes that are to go: the dropped ones, others as far as the sweep allows.

    `dropped` has the prefixes that were desired before; that one is not desired any more is a decision, not ignorance.
    """
    return [
        route
        for route in actual
        if route.prefix not in desired.routes and (route.prefix in dropped or _may_go(route, desired))
    ]


def is_same(desired: KernelRoute, actual: KernelRoute | None) -> bool:
    """Whether two routes lead the same way; the order of next hops means nothing to the kernel."""
    if desired == actual:
        return True
    return (
        actual is not None
        and desired.prefix == actual.prefix
        and desired.kind is actual.kind
        and len(desired.next_hops) == len(actual.next_hops)
        and frozenset(desired.next_hops) == frozenset(actual.next_hops)
    )


def _may_go(route: KernelRoute, desired: DesiredRoutes) -> bool:
    if any(shared_offsets(network, route.prefix) for network in desired.spared):
        return False
    if desired.sweep is Sweep.LOCAL:
        return all(hop.gateway is None for hop in route.next_hops)
    return desired.sweep is Sweep.EVERYTHING

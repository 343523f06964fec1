"""Looks for routes of others on the links of many workloads."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, cast

from controller.ports import Fib, ForeignRoute, KernelRoute, NextHop, RouteKind
from controller.reconcile.difference import DesiredRoutes, Sweep
from controller.reconcile.foreign import ForeignRoutes

if TYPE_CHECKING:
    from collections.abc import Collection

ON_FIVE = ForeignRoute(ip_network("10.9.0.0/24"), 5, 12)


class SlowKernel:
    """A kernel that takes 10 ms for the routes of each link; link 5 has one of a daemon's."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked: list[int] = []
        self.there = [ON_FIVE]

    def foreign(self, _link_indexes: Collection[int]) -> list[ForeignRoute]:
        """Return nothing that was made by hand."""
        return []

    def foreign_on(self, link_index: int) -> list[ForeignRoute]:
        """Return what else there is, after a while."""
        self.seconds += 0.01
        self.asked.append(link_index)
        return [route for route in self.there if route.link_index == link_index]


def workloads(*links: int) -> DesiredRoutes:
    """Return the routes of a workload on each of these links."""
    prefixes = {link: ip_network(f"10.0.0.{link}/32") for link in links}
    return DesiredRoutes(
        {prefix: KernelRoute(prefix, RouteKind.UNICAST, (NextHop(None, link),)) for link, prefix in prefixes.items()},
        Sweep.EVERYTHING,
    )


def test_every_link_gets_its_turn() -> None:
    """A look ends in time and the next goes on where it ended; what was found stays known until it is seen to be gone.

    Links that are new come first, and what went with its link is forgotten at once.
    """
    kernel = SlowKernel()
    foreign = ForeignRoutes(cast("Fib", kernel), clock=lambda: kernel.seconds)
    known = []
    for _ in range(3):
        foreign.look(workloads(1, 2, 3, 4, 5, 6, 7))
        known.append(foreign.routes)
    assert (kernel.asked, known) == ([1, 2, 3, 4, 5, 6, 7, 1, 2], [(), (ON_FIVE,), (ON_FIVE,)])
    foreign.look(workloads(3, 5, 8, 9))
    assert (kernel.asked[9:], foreign.routes) == ([8, 9, 3], (ON_FIVE,))
    kernel.there = []
    foreign.look(workloads(3, 5, 8, 9))
    assert (kernel.asked[12:], foreign.routes) == ([5, 8, 9], ())
    kernel.there = [ON_FIVE]
    foreign.look(workloads(5))
    foreign.look(workloads(9))
    assert foreign.routes == ()

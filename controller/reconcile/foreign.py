"""Routes that somebody else put on workloads' links: looked for, reported, and left alone.

Those that people and network managers make are found for all links at once. A routing daemon's or a DHCP client's are
not, for its other routes may be of any number: each link is asked about by itself. That goes through the kernel's whole
table each time, so a look asks about few links of a host that has many, and the next one about others.
"""

from __future__ import annotations

import logging
import time
from itertools import count
from typing import TYPE_CHECKING, Final

from controller.ports import RouteKind
from controller.reconcile.failures import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.ports import Fib, ForeignRoute, KernelRoute
    from controller.reconcile.difference import DesiredRoutes
    from ipam.address import IPNetwork

log = logging.getLogger(__name__)

#: How long a look goes on asking about single links: eight links in a table of 100,000 routes, all in a usual one.
_LOOK_SECONDS: Final = 0.025


class ForeignRoutes:
    """What was found so far; `routes` may be read at any time. By the `clock`, in seconds, a look ends in time."""

    def __init__(self, fib: Fib, clock: Callable[[], float] = time.monotonic) -> None:
        self._fib = fib
        self._clock = clock
        # The workloads' links, and the desired routes that say so.
        self._links: set[int] = set()
        self._linked: Mapping[IPNetwork, KernelRoute] | None = None
        # What each link was found to have by itself, and the number of the question.
        self._found_on: dict[int, list[ForeignRoute]] = {}
        self._asked: dict[int, int] = {}
        self._numbers = count(1)
        self.routes: tuple[ForeignRoute, ...] = ()

    def look(self, desired: DesiredRoutes) -> None:
        """Look at the links of these routes; what is new is logged."""
        self._learn_links(desired)
        hand_made = self._fib.foreign(self._links) if self._links else []
        self._ask()
        found = (*hand_made, *(route for routes in self._found_on.values() for route in routes))
        self._tell(set(found).difference(self.routes))
        self.routes = found

    def _learn_links(self, desired: DesiredRoutes) -> None:
        if desired.routes is self._linked:
            return
        self._linked = desired.routes
        self._links = {route.next_hops[0].link_index for route in desired.routes.values() if _is_workloads(route)}
        self._found_on = {link: routes for link, routes in self._found_on.items() if link in self._links}
        self._asked = {link: number for link, number in self._asked.items() if link in self._links}

    def _ask(self) -> None:
        """Ask about single links, those first that were not asked about for longest, until the time is over."""
        until = self._clock() + _LOOK_SECONDS
        for link in sorted(self._links, key=lambda link: self._asked.get(link, 0)):
            self._asked[link] = next(self._numbers)  # before it is asked about: one that fails must not keep its place
            self._found_on[link] = self._fib.foreign_on(link)
            if self._clock() >= until:
                return

    def _tell(self, new: set[ForeignRoute]) -> None:
        by_origin: dict[tuple[int, int], list[str]] = {}
        for route in new:
            by_origin.setdefault((route.link_index, route.protocol), []).append(str(route.prefix))
        for (link_index, protocol), prefixes in sorted(by_origin.items()):
            fields = {"link_index": link_index, "protocol": protocol, "count": len(prefixes)}
            log.warning(
                "a workload's link has routes of somebody else; they are left alone",
                extra={**fields, "examples": sorted(prefixes)[:EXAMPLES]},
            )


def _is_workloads(route: KernelRoute) -> bool:
    return route.kind is RouteKind.UNICAST and bool(route.next_hops) and route.next_hops[0].gateway is None

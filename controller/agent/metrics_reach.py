"""How long a new address takes until it can be reached, as far as one node can know.

The time begins when the store has committed the address (an `assign` returns) and ends when two things are so: this
node's kernel has the workload's route, and every established BGP session of this node has been given the announcement
that covers the address, which for an address of a block that is announced already is so from the start. When the other
nodes' kernels have the route is theirs to know; it follows by the time that BGP takes between two hosts.

An address that is not announced by decision (its pool is not exported, the node is drained) is not measured; one that
waits for a speaker that is away is measured when that is back, and counted as waiting until then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bgp.prefixes import PrefixSet
from controller.reconcile.desired import host_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from controller.agent.decision import Decision
    from controller.cni.workload_ports import Addresses, RouteWork
    from controller.ports import KernelRoute
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Holder
    from ipam.request import Assignment, AssignRequest


class Reach:
    """The addresses on their way; `observe` is told how many seconds each took.

    `announced` gives the prefixes that every session has been given, `decision` what was decided last.
    """

    def __init__(
        self,
        observe: Callable[[float], None],
        *,
        announced: Callable[[], frozenset[IPNetwork]],
        decision: Callable[[], Decision | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observe = observe
        self._announced = announced
        self._decision = decision
        self._clock = clock
        self._committed_at: dict[IPAddress, float] = {}
        self._routed: set[IPAddress] = set()
        self._known: tuple[frozenset[IPNetwork], PrefixSet] = (frozenset(), PrefixSet(()))
        self._examined_after: Decision | None = None

    def waiting_count(self, held: Collection[IPAddress]) -> int:
        """Return how many addresses have their route here and wait for their announcement; `held` are all there are."""
        self.forget([address for address in self._committed_at if address not in held])
        self.examine()
        return len(self._routed)

    def committed(self, addresses: Collection[IPAddress]) -> None:
        """Take note that a workload was given these addresses just now."""
        self._committed_at |= dict.fromkeys(addresses, self._clock())

    def routed(self, routes: Collection[KernelRoute]) -> None:
        """Take note that the kernel has these routes."""
        arrived = {route.prefix.network_address for route in routes} & self._committed_at.keys()
        self._routed |= arrived
        if self._decision() is self._examined_after:
            # For those that wait already nothing has changed, and they may be as many as containers come at once.
            self._settle(arrived)
        else:
            self.examine()

    def forget(self, addresses: Collection[IPAddress]) -> None:
        """Take note that these addresses are nobody's any more."""
        for address in addresses:
            self._committed_at.pop(address, None)
            self._routed.discard(address)

    def examine(self) -> None:
        """Tell of the addresses that are announced by now, and give up those that will not be."""
        self._examined_after = self._decision()
        self._settle(self._routed)

    def _settle(self, addresses: Collection[IPAddress]) -> None:
        if not addresses:
            return
        announced = self._announced()
        if announced is not self._known[0]:
            self._known = announced, PrefixSet(announced)
        done = {address for address in addresses if self._known[1].covers(host_prefix(address))}
        now = self._clock()
        for address in done:
            self._observe(now - self._committed_at[address])
        self.forget(done | self._unwanted([address for address in addresses if address not in done]))

    def _unwanted(self, addresses: Collection[IPAddress]) -> set[IPAddress]:
        """Return those of the addresses that were known when it was decided not to announce them."""
        decision = self._decision()
        if decision is None or not addresses:
            return set()
        wanted = PrefixSet(announcement.prefix for announcement in decision.announcements)
        known = {address: host_prefix(address) for address in addresses}
        return {
            address
            for address, prefix in known.items()
            if prefix in decision.routes.routes and not wanted.covers(prefix)
        }


class WatchedAddresses:
    """`Addresses` over others, of which `Reach` hears."""

    def __init__(self, addresses: Addresses, reach: Reach) -> None:
        self._addresses = addresses
        self._reach = reach

    async def assign(self, request: AssignRequest) -> Assignment:
        """Do as `Addresses.assign`."""
        assignment = await self._addresses.assign(request)
        self._reach.committed(assignment.addresses)
        return assignment

    async def release(self, handle: str) -> tuple[IPAddress, ...]:
        """Do as `Addresses.release`."""
        released = await self._addresses.release(handle)
        self._reach.forget(released)
        return released

    async def probe(self, request: AssignRequest) -> None:
        """Do as `Addresses.probe`."""
        await self._addresses.probe(request)

    def holders(self) -> Mapping[IPAddress, Holder]:
        """Do as `Addresses.holders`."""
        return self._addresses.holders()


class WatchedRoutes:
    """`RouteWork` over another one, of which `Reach` hears."""

    def __init__(self, routes: RouteWork, reach: Reach) -> None:
        self._routes = routes
        self._reach = reach

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Do as `RouteWork.program`."""
        await self._routes.program(routes)
        self._reach.routed(routes)

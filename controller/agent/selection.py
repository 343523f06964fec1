"""Which learned routes are used, remembered from one decision to the next.

Nearly every decision finds nearly every prefix with the routes it had before, and judged by the same. Of those only the
outcome is looked up: with 100,000 routes that takes a tenth of the time, and one new route does not wait for all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias

from bgp.decision import best
from bgp.policy import Rejection, policy_context, rejections
from controller.reconcile.desired import device_of, learned_routes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from bgp.limits import Overfull
    from bgp.peer import Peer
    from bgp.route import LearnedRoute
    from controller.ports import InterfaceAddress, KernelRoute
    from controller.reconcile.desired import Unresolved
    from ipam.address import IPAddress, IPNetwork

Learned: TypeAlias = "Mapping[IPNetwork, tuple[LearnedRoute, ...]]"


@dataclass(frozen=True, slots=True)
class Grounds:
    """What routes are judged by, besides the prefixes of local workloads.

    `next_hops` are the other nodes' addresses, `block_length_of` the prefix lengths of the pools' blocks, `overfull`
    says who announces more than it may, if anybody does.
    """

    as_number: int
    own_addresses: tuple[IPAddress, ...]
    own_blocks: tuple[IPNetwork, ...]
    interfaces: tuple[InterfaceAddress, ...]
    next_hops: frozenset[IPAddress]
    block_length_of: Mapping[IPNetwork, int]
    peers: tuple[Peer, ...]
    overfull: Overfull | None


class Selection:
    """The outcome for every prefix, as of the last `update`."""

    def __init__(self) -> None:
        self._grounds: Grounds | None = None
        self._held: frozenset[IPNetwork] = frozenset()
        self._seen: dict[IPNetwork, tuple[LearnedRoute, ...]] = {}
        self._routes: dict[IPNetwork, KernelRoute] = {}
        self._refused: dict[IPNetwork, list[tuple[IPAddress, Rejection]]] = {}
        self._unresolved: dict[IPNetwork, list[Unresolved]] = {}

    def update(
        self,
        grounds: Grounds,
        held: frozenset[IPNetwork],
        learned: Learned,
        touched: Collection[IPNetwork] | None = None,
    ) -> None:
        """Judge what is not known yet: all, when the grounds have changed; `held` are local workloads' prefixes.

        `touched` are the prefixes whose routes may be others than at the update before; None may be any.
        """
        if grounds != self._grounds:
            self._grounds = grounds
            self._forget(list(self._seen))
            touched = None
        unheld = self._held ^ held  # a route for exactly what is held, or was, is judged anew
        self._forget(unheld)
        self._held = held
        seen = self._seen
        if touched is None:
            new = {prefix: routes for prefix, routes in learned.items() if seen.get(prefix) != routes}
            gone = [prefix for prefix in seen if prefix not in learned] if len(seen) + len(new) > len(learned) else []
        else:
            looked_at = [(prefix, learned.get(prefix)) for prefix in (*touched, *unheld)]
            new = {prefix: routes for prefix, routes in looked_at if routes and seen.get(prefix) != routes}
            gone = [prefix for prefix, routes in looked_at if not routes]
        if len(seen) + len(new) > len(learned):  # else each of them is seen for the first time
            self._forget(new)
        self._forget(gone)
        seen.update(new)
        if new:
            self._judge(grounds, new)

    def routes(self) -> dict[IPNetwork, KernelRoute]:
        """Return the kernel's route for every prefix that has one; it is the caller's own."""
        return self._routes.copy()

    def refused(self) -> Iterator[tuple[IPNetwork, IPAddress, Rejection]]:
        """Yield each prefix with each peer whose route for it was refused, and why."""
        return ((prefix, peer, reason) for prefix, found in self._refused.items() for peer, reason in found)

    def unresolved(self) -> tuple[Unresolved, ...]:
        """Return what would be used if its next hop could be reached."""
        return tuple(each for found in self._unresolved.values() for each in found)

    def _forget(self, prefixes: Iterable[IPNetwork]) -> None:
        for outcomes in (self._seen, self._routes, self._refused, self._unresolved):
            if outcomes:
                for prefix in prefixes:
                    outcomes.pop(prefix, None)

    def _judge(self, grounds: Grounds, learned: Learned) -> None:
        accepted = self._accepted(grounds, learned)
        routes, unresolved = learned_routes(accepted, grounds.interfaces)
        self._routes.update(routes)
        for each in unresolved:
            self._unresolved.setdefault(each.prefix, []).append(each)

    def _accepted(self, grounds: Grounds, learned: Learned) -> Learned:
        """Return the best of the accepted routes for each prefix, and note those refused."""
        external = {peer.address: peer.peer_as for peer in grounds.peers if peer.peer_as != peer.local_as}
        context = policy_context(
            local_as=grounds.as_number,
            pools=grounds.block_length_of,
            own_blocks=grounds.own_blocks,
            own_addresses=grounds.own_addresses,
            next_hops=grounds.next_hops,
            held=self._held,
            subnets=(interface.network for interface in grounds.interfaces if interface.scope_global),
            rules_by_peer={peer.address: peer.import_rules for peer in grounds.peers if peer.import_rules},
            local_as_by_peer={
                peer.address: peer.local_as for peer in grounds.peers if peer.local_as != grounds.as_number
            },
            as_by_external_peer=external,
            block_length_of=grounds.block_length_of,
        )
        reachable = functools.cache(lambda next_hop: device_of(next_hop, grounds.interfaces) is not None)
        every = list(chain.from_iterable(learned.values()))
        reasons = list(rejections(every, context))
        if grounds.overfull is not None:
            for position, route in enumerate(every):
                if grounds.overfull.includes(route):
                    reasons[position] = Rejection.TOO_MANY_PREFIXES
        if len(every) == len(learned) and not any(reasons):  # nothing to choose from, as nearly always
            return learned
        accepted: dict[IPNetwork, tuple[LearnedRoute, ...]] = {}
        judged = zip(every, reasons, strict=True)
        for prefix, routes in learned.items():
            good = []
            for route, reason in islice(judged, len(routes)):
                if reason is None:
                    good.append(route)
                else:
                    self._refused.setdefault(prefix, []).append((route.peer, reason))
            if good:
                accepted[prefix] = best(good, external=external, reachable=reachable)
        return accepted

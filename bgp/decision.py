"""The best of several routes for one prefix, step by step (RFC 4271, section 9.1.2; RFC 4456, section 9).

The steps down to "learned from outside" decide. What is equal after them is used together (ECMP), one route for each
next hop: the further steps only break ties, and how far a next hop is in the fabric is not known to a host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bgp.advertisement import GRACEFUL_SHUTDOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from bgp.address import IPAddress
    from bgp.route import LearnedRoute

_ORIGIN_RANK = {"igp": 0, "egp": 1, "incomplete": 2}
_DEFAULT_PREFERENCE: Final = 100


def best(
    routes: Iterable[LearnedRoute],
    *,
    external: Container[IPAddress] = (),
    reachable: Callable[[IPAddress], bool] = lambda _: True,
) -> tuple[LearnedRoute, ...]:
    """Return the routes to use, all for one prefix: none if there were none, ordered by next hop.

    `external` are the peers of other ASes; `reachable` says whether a next hop can be routed to. The result does not
    depend on the order of the routes given. If no next hop is reachable it is as if all were.
    """
    candidates = list(routes)
    if len(candidates) < 2:  # noqa: PLR2004 - nothing to choose from, as for nearly every prefix
        return tuple(candidates)
    candidates = _reachable_next_hop(candidates, reachable)
    candidates = _highest_preference(candidates, external)
    for step in (_shortest_path, _lowest_origin, _lowest_med):
        candidates = step(candidates)
    return _one_per_next_hop(_from_outside(candidates, external))


def preference(route: LearnedRoute, *, external: bool = False) -> int:
    """Return the local preference, which is zero for a route its sender is about to withdraw (RFC 8326, section 3).

    What a peer of another AS says of it is ignored (RFC 4271, section 5.1.5).
    """
    if GRACEFUL_SHUTDOWN in route.communities:
        return 0
    return _DEFAULT_PREFERENCE if external else route.local_preference


def _reachable_next_hop(routes: list[LearnedRoute], reachable: Callable[[IPAddress], bool]) -> list[LearnedRoute]:
    """Keep what can be used: a better route that leads nowhere must not hide one that does (section 9.1.2.1)."""
    return [route for route in routes if reachable(route.next_hop)] or routes


def _highest_preference(routes: list[LearnedRoute], external: Container[IPAddress]) -> list[LearnedRoute]:
    preferences = [preference(route, external=route.peer in external) for route in routes]
    highest = max(preferences)
    return [route for route, found in zip(routes, preferences, strict=True) if found == highest]


def _shortest_path(routes: list[LearnedRoute]) -> list[LearnedRoute]:
    shortest = min(len(route.as_path) for route in routes)
    return [route for route in routes if len(route.as_path) == shortest]


def _lowest_origin(routes: list[LearnedRoute]) -> list[LearnedRoute]:
    lowest = min(_origin_rank(route) for route in routes)
    return [route for route in routes if _origin_rank(route) == lowest]


def _lowest_med(routes: list[LearnedRoute]) -> list[LearnedRoute]:
    """Keep the lowest MED of each neighbouring AS: MEDs of different ASes mean nothing to each other."""
    lowest: dict[int, int] = {}
    for route in routes:
        neighbour = _neighbour_as(route)
        lowest[neighbour] = min(route.med, lowest.get(neighbour, route.med))
    return [route for route in routes if route.med == lowest[_neighbour_as(route)]]


def _from_outside(routes: list[LearnedRoute], external: Container[IPAddress]) -> list[LearnedRoute]:
    """Keep what peers of other ASes announced, if any of it is that (section 9.1.2.2, d)."""
    return [route for route in routes if route.peer in external] or routes


def _one_per_next_hop(routes: list[LearnedRoute]) -> tuple[LearnedRoute, ...]:
    """Keep for each next hop the route with the shortest cluster list, then from the lowest peer address."""
    ordered = sorted(
        routes,
        key=lambda route: (
            route.next_hop.version,
            int(route.next_hop),
            len(route.cluster_list),
            route.peer.version,
            int(route.peer),
        ),
    )
    chosen: dict[IPAddress, LearnedRoute] = {}
    for route in ordered:
        chosen.setdefault(route.next_hop, route)
    return tuple(chosen.values())


def _origin_rank(route: LearnedRoute) -> int:
    return _ORIGIN_RANK.get(route.origin, len(_ORIGIN_RANK))


def _neighbour_as(route: LearnedRoute) -> int:
    return route.as_path[0] if route.as_path else 0

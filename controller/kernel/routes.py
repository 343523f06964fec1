"""Our routes in the kernel's main table."""

from __future__ import annotations

import errno
from threading import Lock
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused
from controller.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkSocket, Request
from controller.kernel.route_messages import (
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    addition,
    dump_request,
    parsed,
    removal,
)
from controller.ports import ROUTE_METRIC, KernelRoute, RouteFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ipam.address import IPNetwork

_CREATE_ONLY: Final = NLM_F_CREATE | NLM_F_EXCL
_CREATE_OR_REPLACE: Final = NLM_F_CREATE | NLM_F_REPLACE


class KernelFib:
    """The port `Fib` over one socket of the namespace it was opened in; calls from several threads take turns.

    Replacing takes any route of the same prefix and metric, whoever made it. So a prefix is replaced only if the last
    dump or an own write says that the route there is ours; any other is created exclusively, and where that fails with
    EEXIST a fresh dump decides. A foreign route that takes the place of ours is noticed by the next dump, not before.
    """

    def __init__(self, *, timeout_seconds: float = 5.0) -> None:
        self._socket = NetlinkSocket(timeout_seconds=timeout_seconds)
        self._lock = Lock()
        self._ours: set[IPNetwork] = set()
        # What a body was read as, so that a route that did not change costs one look-up and no new objects.
        self._route_by_body: dict[bytes, KernelRoute | None] = {}

    @property
    def port_id(self) -> int:
        """The number that marks the events which our own writes cause."""
        return self._socket.port_id

    def close(self) -> None:
        """Close the socket; the routes stay."""
        with self._lock:
            self._socket.close()

    def dump(self) -> dict[IPNetwork, KernelRoute]:
        """Return every route of ours, both families, by prefix; a route that did not change is the same object."""
        with self._lock:
            return self._dump()

    def apply(self, upserts: Iterable[KernelRoute], removals: Iterable[KernelRoute]) -> list[RouteFailure]:
        """Add or replace the first, then remove the second; return what failed. Removing what is gone is success."""
        with self._lock:
            return self._upsert(upserts) + self._remove([route.prefix for route in removals])

    def _dump(self) -> dict[IPNetwork, KernelRoute]:
        known = self._route_by_body
        seen: dict[bytes, KernelRoute | None] = {}
        for version in (4, 6):
            for body in self._bodies(version):
                seen[body] = known[body] if body in known else parsed(body)
        self._route_by_body = seen
        routes = {route.prefix: route for route in seen.values() if route is not None}
        self._ours = set(routes)
        return routes

    def _bodies(self, version: int) -> list[bytes]:
        try:
            return self._socket.dump(RTM_GETROUTE, dump_request(version))
        except KernelRefused as error:
            if error.error_number == errno.ENOENT:  # the main table is made with its first route
                return []
            raise

    def _upsert(self, routes: Iterable[KernelRoute]) -> list[RouteFailure]:
        ours: list[KernelRoute] = []
        others: list[KernelRoute] = []
        for route in routes:
            (ours if route.prefix in self._ours else others).append(route)
        failures = self._write(ours, _CREATE_OR_REPLACE)
        taken: list[RouteFailure] = []
        for failure in self._write(others, _CREATE_ONLY):
            (taken if failure.error_number == errno.EEXIST else failures).append(failure)
        if taken:
            self._dump()
            route_by_prefix = {route.prefix: route for route in others}
            back = [route_by_prefix[failure.prefix] for failure in taken if failure.prefix in self._ours]
            failures += self._write(back, _CREATE_OR_REPLACE)
            failures += [_in_the_way(failure.prefix) for failure in taken if failure.prefix not in self._ours]
        return failures

    def _write(self, routes: Sequence[KernelRoute], flags: int) -> list[RouteFailure]:
        requests = [Request(RTM_NEWROUTE, flags, addition(route)) for route in routes]
        refusals = self._socket.exchange(requests)
        failures = [
            RouteFailure(routes[refusal.position].prefix, refusal.error_number, refusal.text) for refusal in refusals
        ]
        # Where a dump shows just these bytes, it need not be read, and gives back the caller's own object.
        self._route_by_body.update(zip((request.body for request in requests), routes, strict=True))
        self._ours.update(route.prefix for route in routes)
        self._ours.difference_update(failure.prefix for failure in failures)
        return failures

    def _remove(self, prefixes: Sequence[IPNetwork]) -> list[RouteFailure]:
        refusals = self._socket.exchange([Request(RTM_DELROUTE, 0, removal(prefix)) for prefix in prefixes])
        failures = [
            RouteFailure(prefixes[refusal.position], refusal.error_number, refusal.text)
            for refusal in refusals
            if refusal.error_number != errno.ESRCH
        ]
        self._ours.difference_update(prefixes)
        return failures


def _in_the_way(prefix: IPNetwork) -> RouteFailure:
    return RouteFailure(
        prefix,
        errno.EEXIST,
        f"a route of somebody else to {prefix} with metric {ROUTE_METRIC} is in the way; "
        f"remove it or give it another metric",
    )

"""Our routes in the kernel's main table.

Two sockets: one that writes, and one that dumps, so that a write of one route never waits until a hundred thousand have
been read. A dump is taken as bytes: a body that was seen or written before, or that was announced by `expect`, stands
for the route object it was then, and only what is left is read. Which bodies those are is worked out when a dump comes,
for writing is what somebody waits for.
"""

from __future__ import annotations

import errno
import itertools
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from controller.errors import KernelRefused
from controller.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkSocket
from controller.kernel.route_messages import (
    RTM_GETROUTE,
    addition_series,
    additions,
    dump_request,
    likely_dumps,
    link_dump_request,
    links_of,
    main_route,
    parsed,
    removal_series,
)
from controller.ports import ROUTE_METRIC, ROUTE_PROTOCOL, ForeignRoute, KernelRoute, RouteFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Iterator

    from ipam.address import IPNetwork

_T = TypeVar("_T")

_CREATE_ONLY: Final = NLM_F_CREATE | NLM_F_EXCL
_CREATE_OR_REPLACE: Final = NLM_F_CREATE | NLM_F_REPLACE
#: How many routes are packed, written and noted before the next are: what lives shortly is cheap.
_ROUTES_AT_ONCE: Final = 2000
#: More than this many are looked at before a dump asks for them, so that they do not pile up.
_MOST_UNNOTED: Final = 200_000
#: RTPROT_BOOT and RTPROT_STATIC: what `ip route add` and network managers write. A routing daemon's table may be of any
#: size.
_HAND_MADE: Final = (3, 4)
#: RTPROT_KERNEL: what comes with a link and its addresses is expected on every link.
_THE_KERNELS: Final = 2
#: More on one link are not worth the time that reading them takes.
_FOREIGN_ON_A_LINK: Final = 1000


class KernelFib:
    """The port `Fib` in the namespace it was opened in; calls of one kind from several threads take turns."""

    def __init__(self, *, timeout_seconds: float = 5.0) -> None:
        self._writer = NetlinkSocket(timeout_seconds=timeout_seconds)
        self._reader = NetlinkSocket(timeout_seconds=timeout_seconds)
        self._writing = Lock()
        self._reading = Lock()
        #: What a body means; whoever dumps has it.
        self._route_by_body: dict[bytes, KernelRoute] = {}
        #: What was written or is expected, and is not among that yet. Any thread appends, readers take.
        self._unnoted: deque[tuple[KernelRoute, ...]] = deque()
        self._unnoted_count = 0

    @property
    def port_id(self) -> int:
        """The number that marks the events which our own writes cause."""
        return self._writer.port_id

    def close(self) -> None:
        """Close the sockets; the routes stay."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def expect(self, routes: Iterable[KernelRoute]) -> None:
        """Take note of what `read` will probably find: what it does find of that costs next to nothing."""
        self._note_later(tuple(routes))

    def read(self) -> list[KernelRoute]:
        """Return every route of ours, both families; one that did not change is the same object as before.

        What is written meanwhile may be among them or not.
        """
        with self._reading:
            self._note()
            known = self._route_by_body
            # What is written from here on is noted in the new mapping, beside what the dump shows.
            self._route_by_body = {}
            try:
                return [route for version in (4, 6) for route in self._dumped(version, known)]
            except BaseException:
                self._route_by_body = {**known, **self._route_by_body}
                raise

    def dump(self) -> dict[IPNetwork, KernelRoute]:
        """Return every route of ours by prefix."""
        return {route.prefix: route for route in self.read()}

    def foreign(self, link_indexes: Collection[int]) -> list[ForeignRoute]:
        """Return the routes on these links that people and network managers made, both families."""
        found = []
        with self._reading:
            for version, protocol in itertools.product((4, 6), _HAND_MADE):
                for body in self._read(dump_request(version, protocol), list):
                    prefix, links = links_of(body)
                    found += [ForeignRoute(prefix, link, protocol) for link in links.intersection(link_indexes)]
        return found

    def foreign_on(self, link_index: int) -> list[ForeignRoute]:
        """Return the routes on this link that neither they made nor we or the kernel itself; none if it is gone.

        Of very many only the first are returned.
        """
        bodies = []
        with self._reading:
            for version in (4, 6):
                try:
                    bodies += self._read(link_dump_request(version, link_index), _others)
                except KernelRefused as error:
                    if error.error_number == errno.ENODEV:
                        return []
                    raise
        found = map(main_route, bodies[:_FOREIGN_ON_A_LINK])
        return [ForeignRoute(route.prefix, link_index, route.protocol) for route in found]

    def apply(
        self,
        upserts: Iterable[KernelRoute],
        removals: Iterable[KernelRoute],
        *,
        replaceable: Container[IPNetwork] = (),
    ) -> list[RouteFailure]:
        """Add or replace the first, then remove the second; return what failed. Removing what is gone is success.

        Only a prefix in `replaceable`, whose route is known to be ours, is replaced: the kernel's own replacing would
        take any route of the same prefix and metric, whoever made it. Any other prefix that has such a route fails with
        EEXIST and is left as it is.
        """
        failures: list[RouteFailure] = []
        with self._writing:
            for routes in _portions(upserts):
                failures += self._write(routes, replaceable)
            for routes in _portions(removals):
                failures += self._remove(routes)
        return failures

    def _dumped(self, version: int, known: dict[bytes, KernelRoute]) -> list[KernelRoute]:
        seen = self._route_by_body

        def routes_of(bodies: list[bytes]) -> list[KernelRoute]:
            try:
                routes = [known[body] for body in bodies]
            except KeyError:
                self._note()
                read = ((body, known.get(body) or seen.get(body) or parsed(body)) for body in bodies)
                route_by_body = {body: route for body, route in read if route is not None}
                seen.update(route_by_body)
                return list(route_by_body.values())
            seen.update(zip(bodies, routes, strict=True))
            return routes

        return self._read(dump_request(version), routes_of)

    def _read(self, request: bytes, convert: Callable[[list[bytes]], list[_T]]) -> list[_T]:
        try:
            return self._reader.dump_as(RTM_GETROUTE, request, convert)
        except KernelRefused as error:
            if error.error_number == errno.ENOENT:  # the main table is made with its first route
                return []
            raise

    def _write(self, routes: tuple[KernelRoute, ...], replaceable: Container[IPNetwork]) -> list[RouteFailure]:
        flags = [_CREATE_OR_REPLACE if route.prefix in replaceable else _CREATE_ONLY for route in routes]
        refusals = self._writer.exchange_series(addition_series(routes, flags))
        self._note_later(routes)
        return [_failure(routes[position].prefix, number, text) for position, number, text in refusals]

    def _note_later(self, routes: tuple[KernelRoute, ...]) -> None:
        self._unnoted.append(routes)
        self._unnoted_count += len(routes)
        if self._unnoted_count > _MOST_UNNOTED and self._reading.acquire(blocking=False):
            try:
                self._note()
            finally:
                self._reading.release()

    def _note(self) -> None:
        # Where a dump shows just these bytes, it gives back the caller's own object.
        self._unnoted_count = 0
        while self._unnoted:
            routes = self._unnoted.popleft()
            self._route_by_body.update(zip(likely_dumps(routes, additions(routes)), routes, strict=True))

    def _remove(self, routes: tuple[KernelRoute, ...]) -> list[RouteFailure]:
        refusals = self._writer.exchange_series(removal_series(route.prefix for route in routes))
        return [
            _failure(routes[position].prefix, number, text)
            for position, number, text in refusals
            if number != errno.ESRCH
        ]


def _others(bodies: list[bytes]) -> list[bytes]:
    """Return the routes that neither we nor people nor the kernel itself made, by the protocol in their rtmsg."""
    known = (ROUTE_PROTOCOL, _THE_KERNELS, *_HAND_MADE)
    return [body for body in bodies if body[5] not in known]


def _portions(routes: Iterable[KernelRoute]) -> Iterator[tuple[KernelRoute, ...]]:
    rest = iter(routes)
    while portion := tuple(itertools.islice(rest, _ROUTES_AT_ONCE)):
        yield portion


def _failure(prefix: IPNetwork, number: int, text: str) -> RouteFailure:
    if number == errno.EEXIST:
        text = (
            f"a route of somebody else to the same prefix with metric {ROUTE_METRIC} is in the way; "
            f"remove it or give it another metric"
        )
    return RouteFailure(prefix, number, text)

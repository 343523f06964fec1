"""What the kernel is known to have of our routes, and the passes that make it what is desired.

Two threads work here. One makes the passes over all routes, which take their time; the other adds single routes, for
which a container waits. They share the map of actual routes under these rules, so that no change is lost:

* A lock is held while routes are written *and* noted, never longer than one portion takes. What the map says of a
  prefix is therefore what was written last.
* A dump is taken without the lock. What is written meanwhile is noted twice, for the dump may show it or not: of those
  prefixes the map is right and the dump is not.
* A pass leaves alone what was added since it was told what is desired: it cannot know whether that is wanted.
* While an addition is under way a pass sleeps for a moment between two portions. Without that the interpreter changes
  threads every half a millisecond only, and adding a route needs it four times. Otherwise it takes larger portions and
  gives nothing away: to have the interpreter back it would wait as long.
"""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import replace
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from controller.reconcile.difference import is_same, to_remove, to_write
from controller.reconcile.failures import by_error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from controller.ports import Fib, KernelRoute, RouteFailure
    from controller.reconcile.difference import DesiredRoutes
    from ipam.address import IPAddress, IPNetwork

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Half a millisecond of work.
_READ_AT_ONCE: Final = 2048
#: Seven milliseconds with the lock held, five of them the kernel's; or two, while somebody waits for the lock.
_WRITTEN_AT_ONCE: Final = 2000
_WRITTEN_AT_ONCE_WHILE_WAITED_FOR: Final = 512
_PAUSE_SECONDS: Final = 0.00005


class RouteTable:
    """The actual routes and their counters; others may read the attributes at any time.

    `programmed_count` and `removed_count` count routes written, `repaired_count` those of them that somebody had
    changed behind our back, `resync_count` the dumps, and `resync_seconds` is how long the last one took.
    """

    def __init__(self, fib: Fib) -> None:
        self._fib = fib
        self._lock = Lock()
        self._actual: dict[IPNetwork, KernelRoute] | None = None
        self._wanted: set[IPNetwork] = set()
        # Prefixes written while a dump is taken (None while none is), and added since the current pass was told what is
        # desired.
        self._written: set[IPNetwork] | None = None
        self._added: set[IPNetwork] = set()
        self._moved: set[IPAddress] = set()
        # Whether the map was read anew for a conflict: what was lost by then is missing there, and no dump tells of it.
        self._reread = False
        #: How many additions are under way; who asks for them counts them.
        self.addition_count = 0
        self.failure_by_prefix: Mapping[IPNetwork, RouteFailure] = {}
        self.programmed_count = 0
        self.removed_count = 0
        self.repaired_count = 0
        self.resync_count = 0
        self.resync_seconds = 0.0

    @property
    def route_count(self) -> int:
        """How many routes of ours the kernel has, as far as is known."""
        return len(self._actual or ())

    @property
    def has_moved(self) -> bool:
        """Whether `take_moved` has something to return."""
        return bool(self._moved)

    def take_moved(self) -> set[IPAddress]:
        """Return the addresses whose own routes were led elsewhere or taken away since this was last asked."""
        with self._lock:
            moved, self._moved = self._moved, set()
        return moved

    def return_moved(self, addresses: set[IPAddress]) -> None:
        """Have `take_moved` return these once more."""
        with self._lock:
            self._moved |= addresses

    def add(self, routes: Collection[KernelRoute]) -> list[RouteFailure]:
        """Write these routes now, without looking at anything else, and return what failed."""
        prefixes = {route.prefix for route in routes}
        with self._lock:
            self._added.update(prefixes)  # not |=, which could put back the set that `begin_pass` replaced
            self._wanted |= prefixes
            failures = self._write(routes, {})
            self._report(prefixes, failures)
        return failures

    def begin_pass(self) -> None:
        """Take note that what is desired is now put together for the next pass.

        What is added from here on may be missing there. No lock: an addition that still notes itself in the set of the
        pass before was asked for earlier, and is among what is desired.
        """
        self._added = set()

    def reconcile(
        self,
        desired: DesiredRoutes,
        programmed: Mapping[IPNetwork, KernelRoute],
        *,
        changed: bool = True,
        resync: bool = False,
    ) -> None:
        """Make the kernel's routes those of `desired` with those of `programmed` on top; dump first on a resync.

        Without `changed` nothing but the kernel can differ from what it was after the last pass.
        """
        if programmed:
            desired = replace(desired, routes={**desired.routes, **programmed})
        before: dict[IPNetwork, KernelRoute] = {}
        first = self._actual is None
        if first:
            for portion in self._portions(desired.routes.values()):
                self._fib.expect(portion)
        if first or resync:
            drifted = self._resync(before)
            # What the kernel refused it may take now: a link that came back shows no routes of ours, as expected.
            if not drifted and not changed and not self._reread and not self.failure_by_prefix:
                return
        with self._lock:
            self._reread = False
            self._wanted.update(desired.routes)
            dropped = self._wanted.difference(desired.routes) - self._added
        actual = self._actual or {}
        upserts: list[KernelRoute] = []
        # Most are the very objects that are there; telling that takes a tenth of the time of looking each up.
        there = self._identities(actual.values())
        for portion in self._portions(desired.routes.values()):
            upserts += to_write([route for route in portion if id(route) not in there], actual)
        failures = self._write_all(upserts, before)
        # Added before removed, for a route may stand in for one that goes.
        removals: list[KernelRoute] = []
        actual = self._actual or {}
        # Every desired route is there now but for those that failed or were left to the other thread.
        # Otherwise, if there are not more, everything there is desired.
        if self._reread or len(actual) + len(failures) + len(self._added) > len(desired.routes):
            wanted = self._identities(desired.routes.values())
            for portion in self._portions(list(actual.values())):
                removals += to_remove([route for route in portion if id(route) not in wanted], desired, dropped)
        failures += self._remove_all(removals)
        with self._lock:
            dropped -= self._added
            self._wanted -= dropped  # not before: what could not be removed for want of an answer stays dropped
            self._moved |= _hosts(dropped)
            self._report(self.failure_by_prefix.keys() - self._added, failures)

    def repair(
        self,
        desired: DesiredRoutes,
        programmed: Mapping[IPNetwork, KernelRoute],
        told: Mapping[IPNetwork, KernelRoute | None],
    ) -> None:
        """Put right what others are said to have changed: `told` has our route of each prefix now, None if it is gone.

        What was told may be older than our last write. Then a route is written once more, or found to be in the way of
        itself, which a dump decides.
        """
        wanted = {
            prefix: route
            for prefix in told
            if (route := programmed.get(prefix) or desired.routes.get(prefix)) is not None
        }
        with self._lock:
            actual = self._actual if self._actual is not None else {}
            before = {prefix: actual[prefix] for prefix in told if prefix in actual}
            for prefix, route in told.items():
                if route is None:
                    actual.pop(prefix, None)
                else:
                    actual[prefix] = route
            there = [route for route in told.values() if route is not None]
        upserts = to_write(wanted.values(), actual)
        removals = to_remove(there, replace(desired, routes=wanted), self._wanted)
        failures = self._write_all(upserts, before) + self._remove_all(removals)
        with self._lock:
            self._report(told.keys() - self._added, failures)

    def _resync(self, before: dict[IPNetwork, KernelRoute]) -> bool:
        """Read the kernel's routes and return whether they were not as expected; `before` gets those lost or changed.

        Routes are told apart by identity: an unchanged one is the same object, and hashing a prefix takes long.
        """
        with self._lock:
            self._written = set()
        try:
            return self._merge(self._read(), before)
        finally:
            with self._lock:
                self._written = None

    def _merge(self, found: list[KernelRoute], before: dict[IPNetwork, KernelRoute]) -> bool:
        with self._lock:
            if self._actual is None:
                self._actual = {route.prefix: route for route in found}
                return True
            expected = list(self._actual.values())
        known = set(map(id, expected))
        if len(found) == len(expected) and known.issuperset(map(id, found)):
            return False
        seen = set(map(id, found))
        gone = [route for portion in self._portions(expected) for route in portion if id(route) not in seen]
        new = [route for portion in self._portions(found) for route in portion if id(route) not in known]
        drifted = False
        with self._lock:
            written = self._written or set()
            for route in gone:
                if route.prefix not in written and self._actual.pop(route.prefix, None) is not None:
                    before[route.prefix] = route
                    drifted = True
            for route in new:
                if route.prefix not in written:
                    self._actual[route.prefix] = route
                    drifted = True
        return drifted

    def _read(self) -> list[KernelRoute]:
        started = time.monotonic()
        found = self._fib.read()
        self.resync_seconds = time.monotonic() - started
        self.resync_count += 1
        return found

    def _write_all(self, upserts: Iterable[KernelRoute], before: Mapping[IPNetwork, KernelRoute]) -> list[RouteFailure]:
        """Write what was not added meanwhile, a portion at a time."""
        failures: list[RouteFailure] = []
        for portion in self._portions(upserts, writing=True):
            with self._lock:
                failures += self._write(self._not_added(portion), before)
        return failures

    def _remove_all(self, removals: Iterable[KernelRoute]) -> list[RouteFailure]:
        """Remove what was not added meanwhile, a portion at a time."""
        failures: list[RouteFailure] = []
        for portion in self._portions(removals, writing=True):
            with self._lock:
                failures += self._remove(self._not_added(portion))
        return failures

    def _not_added(self, routes: tuple[KernelRoute, ...]) -> Collection[KernelRoute]:
        return [route for route in routes if route.prefix not in self._added] if self._added else routes

    def _write(self, routes: Collection[KernelRoute], before: Mapping[IPNetwork, KernelRoute]) -> list[RouteFailure]:
        """Write and note; `before` has those routes as we left them that somebody else changed since."""
        written = {route.prefix: route for route in routes}
        actual = self._actual or {}
        there = {prefix for prefix in written if prefix in actual}  # mostly none, and then nobody asks for a member
        failures = self._fib.apply(routes, (), replaceable=there or ())
        taken = {
            failure.prefix
            for failure in failures
            if failure.error_number == errno.EEXIST and self.failure_by_prefix.get(failure.prefix) != failure
        }
        if taken:  # ours after all? What is known to be in the way of a route is not looked at each time.
            self._actual = actual = {route.prefix: route for route in self._read()}
            self._reread = True
            back = [route for route in routes if route.prefix in taken and route.prefix in actual]
            again = self._fib.apply(back, (), replaceable=actual)
            settled = {route.prefix for route in back}
            failures = [failure for failure in failures if failure.prefix not in settled] + again
            there |= settled
        for failure in failures:
            written.pop(failure.prefix, None)
        self._note(written, before, there)
        return failures

    def _note(
        self,
        written: dict[IPNetwork, KernelRoute],
        before: Mapping[IPNetwork, KernelRoute],
        there: Collection[IPNetwork],
    ) -> None:
        self.programmed_count += len(written)
        actual = self._actual
        if before:
            self.repaired_count += sum(is_same(route, before.get(prefix)) for prefix, route in written.items())
        looked_at = [prefix for prefix in written if prefix in there or prefix in before] if there or before else ()
        for prefix in looked_at:
            if prefix.prefixlen == prefix.max_prefixlen:
                route = written[prefix]
                old = before.get(prefix) or (actual or {}).get(prefix, route)
                if not is_same(route, old):
                    self._moved.add(prefix.network_address)
        if self._written is not None:
            self._written.update(written)
        if actual is not None:
            actual.update(written)

    def _remove(self, routes: Collection[KernelRoute]) -> list[RouteFailure]:
        failures = self._fib.apply((), routes)
        failed = {failure.prefix for failure in failures}
        gone = [route.prefix for route in routes if route.prefix not in failed]
        self.removed_count += len(gone)
        self._moved |= _hosts(gone)
        if self._written is not None:
            self._written.update(gone)
        if self._actual is not None:
            for prefix in gone:
                self._actual.pop(prefix, None)
        return failures

    def _portions(self, items: Iterable[_T], *, writing: bool = False) -> Iterator[tuple[_T, ...]]:
        rest = iter(items)
        while portion := tuple(islice(rest, self._size(writing=writing))):
            yield portion
            if self.addition_count:
                time.sleep(_PAUSE_SECONDS)

    def _size(self, *, writing: bool) -> int:
        if not writing:
            return _READ_AT_ONCE
        return _WRITTEN_AT_ONCE_WHILE_WAITED_FOR if self.addition_count else _WRITTEN_AT_ONCE

    def _identities(self, routes: Collection[KernelRoute]) -> set[int]:
        """Return the identities of routes that somebody keeps."""
        found: set[int] = set()
        for portion in self._portions(list(routes)):
            found.update(map(id, portion))
        return found

    def _report(self, settled: Collection[IPNetwork], failures: Collection[RouteFailure]) -> None:
        """Replace what is known of these prefixes; log each failure once, when new, however often it is tried again."""
        known = self.failure_by_prefix
        now = {prefix: failure for prefix, failure in known.items() if prefix not in settled}
        now |= {failure.prefix: failure for failure in failures}
        self.failure_by_prefix = now
        for refused in by_error(failure for failure in failures if known.get(failure.prefix) != failure):
            # A link that just went takes its route along before it is known to be gone.
            level = logging.DEBUG if refused.error_number == errno.ENODEV else logging.WARNING
            examples = [str(prefix) for prefix in refused.examples]
            fields = {"reason": refused.reason, "count": refused.count, "examples": examples}
            log.log(level, "the kernel refused routes", extra=fields)


def _hosts(prefixes: Iterable[IPNetwork]) -> set[IPAddress]:
    return {prefix.network_address for prefix in prefixes if prefix.prefixlen == prefix.max_prefixlen}

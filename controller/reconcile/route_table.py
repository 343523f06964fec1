"""What the kernel is known to have of our routes, and one pass that makes it what is desired."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from controller.reconcile.difference import DesiredRoutes, difference, is_same

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from controller.ports import Fib, KernelRoute, RouteFailure
    from ipam.address import IPNetwork

log = logging.getLogger(__name__)


class RouteTable:
    """The actual routes and their counters. One thread at a time calls it; others may read the attributes.

    `programmed_count` and `removed_count` count routes written, `repaired_count` those of them that somebody had
    changed behind our back, `resync_count` the dumps, and `resync_seconds` is how long the last one took.
    """

    def __init__(self, fib: Fib) -> None:
        self._fib = fib
        self._actual: dict[IPNetwork, KernelRoute] | None = None
        self._wanted: set[IPNetwork] = set()
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

    def add(self, routes: Collection[KernelRoute]) -> list[RouteFailure]:
        """Write these routes now, without looking at anything else, and return what failed."""
        failures = self._fib.apply(routes, ())
        self._wanted.update(route.prefix for route in routes)
        self._record(routes, (), failures)
        refused = {failure.prefix: failure for failure in failures}
        settled = {route.prefix for route in routes}
        others = {prefix: failure for prefix, failure in self.failure_by_prefix.items() if prefix not in settled}
        self._report({**others, **refused})
        return failures

    def reconcile(self, desired: DesiredRoutes, programmed: Mapping[IPNetwork, KernelRoute], *, resync: bool) -> None:
        """Make the kernel's routes those of `desired` with those of `programmed` on top; dump first on a resync."""
        if programmed:
            desired = DesiredRoutes({**desired.routes, **programmed}, desired.sweep)
        before = self._actual
        actual = self._dumped() if resync or before is None else before
        wanted = set(desired.routes)
        found = difference(desired, actual, self._wanted - wanted)
        failures: list[RouteFailure] = []
        if found.upserts or found.removals:
            # Added before removed: a more specific route may stand in for one that goes.
            failures = self._fib.apply(found.upserts, found.removals)
        self._wanted = wanted  # not before: what could not be removed for want of an answer stays dropped
        self._record(found.upserts, found.removals, failures)
        if before is not None and actual is not before:
            refused = {failure.prefix for failure in failures}
            self.repaired_count += sum(
                route.prefix not in refused and is_same(route, before.get(route.prefix)) for route in found.upserts
            )
        self._report({failure.prefix: failure for failure in failures})

    def _dumped(self) -> dict[IPNetwork, KernelRoute]:
        started = time.monotonic()
        self._actual = self._fib.dump()
        self.resync_seconds = time.monotonic() - started
        self.resync_count += 1
        return self._actual

    def _record(
        self,
        upserts: Collection[KernelRoute],
        removals: Collection[KernelRoute],
        failures: Collection[RouteFailure],
    ) -> None:
        failed = {failure.prefix for failure in failures}
        written = {route.prefix: route for route in upserts if route.prefix not in failed}
        gone = [route.prefix for route in removals if route.prefix not in failed]
        self.programmed_count += len(written)
        self.removed_count += len(gone)
        if self._actual is None:
            return
        self._actual.update(written)
        for prefix in gone:
            self._actual.pop(prefix, None)

    def _report(self, failure_by_prefix: dict[IPNetwork, RouteFailure]) -> None:
        """Log each failure once, when it is new, however often it is tried again."""
        known = self.failure_by_prefix
        for prefix, failure in failure_by_prefix.items():
            if known.get(prefix) != failure:
                log.warning("the kernel refused a route", extra={"prefix": str(prefix), "reason": failure.reason})
        self.failure_by_prefix = failure_by_prefix

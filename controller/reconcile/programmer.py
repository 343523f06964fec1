"""The one owner of the kernel's routes: what is desired is programmed, and stays so.

    set(), program() ──► desired ─┐
    routes_changed() ──► told ────┼─► run() ──► one thread: dump if need be, difference, apply ──► failures, counters
    kernel_changed() ──► resync ──┤
    every 90 s, retries ──────────┘
    program() ──────────────────────► another thread: these routes only, and the answer

Events only wake the loop, and applying twice changes nothing the second time. What the kernel has is remembered from
its last dump, our own writes and what events told since, so an ordinary change and an ordinary repair cost no dump. How
the two threads share that memory is told in `route_table`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused, TortieError
from controller.reconcile.difference import DesiredRoutes, Sweep
from controller.reconcile.foreign import ForeignRoutes
from controller.reconcile.route_table import RouteTable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from controller.ports import Connections, Fib, ForeignRoute, KernelRoute, RouteFailure
    from ipam.address import IPNetwork

__all__ = ["DesiredRoutes", "RouteProgrammer", "Sweep"]

log = logging.getLogger(__name__)

_RESYNC_SECONDS: Final = 90.0
_FIRST_RETRY_SECONDS: Final = 1.0
_LAST_RETRY_SECONDS: Final = 60.0
#: The loop rests as long as it worked, within these bounds: hints that come in a flood cost half of one CPU at most.
#: Newly desired routes do not wait for that: who decides on them rests too.
_SHORTEST_REST_SECONDS: Final = 0.001
_LONGEST_REST_SECONDS: Final = 2.0


#: Flushing connections reads all there are, and is followed by a rest so many times as long, within a bound.
_FLUSHING_RESTS: Final = 20
_LONGEST_FLUSHING_REST_SECONDS: Final = 0.25
#: One that failed is followed by a longer one: the next pass asks for it again, and passes may be many.
_FAILED_FLUSH_REST_SECONDS: Final = 5.0


class RouteProgrammer:
    """Keeps the kernel's routes as desired. All methods are for the event loop; netlink has threads of its own.

    With `connections` those of an address are flushed when its route is led elsewhere or taken away. By the `clock`, in
    seconds, it is told when a resync or a retry is due.
    """

    def __init__(
        self,
        fib: Fib,
        *,
        connections: Connections | None = None,
        resync_seconds: float = _RESYNC_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        #: What the kernel is known to have; its attributes are the counters. Its methods are for this class alone.
        self.table: Final = RouteTable(fib)
        self._foreign = ForeignRoutes(fib)
        self._connections = connections
        self._passing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fib-pass")
        self._adding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fib-add")
        self._flushing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flush")
        self._flush_is_due = False
        self._closing = threading.Event()
        self._resync_seconds = resync_seconds
        self._clock = clock
        self._desired: DesiredRoutes | None = None
        self._programmed: dict[IPNetwork, KernelRoute] = {}
        self._wake = asyncio.Event()
        self._set = asyncio.Event()
        self._told: dict[IPNetwork, KernelRoute | None] = {}
        self._changed = True
        self._resync = True
        self._retries = 0
        self._resync_at = 0.0
        self._retry_at: float | None = None
        #: Set while every desired route has been tried against what the kernel is known to have; see `failures`.
        self.in_sync = asyncio.Event()
        self.error_count = 0

    @property
    def failures(self) -> Mapping[IPNetwork, RouteFailure]:
        """The routes that the kernel did not take or give up when last tried."""
        return self.table.failure_by_prefix

    @property
    def foreign(self) -> tuple[ForeignRoute, ...]:
        """The routes that somebody else had on a workload's link when last looked at; they are left alone."""
        return self._foreign.routes

    def set(self, desired: DesiredRoutes) -> None:
        """Make these the whole desired state, to be programmed soon; the mapping must not be changed afterwards.

        It replaces what `program` added before, so it has to contain what of that is still wanted.
        """
        self._desired = desired
        self._programmed = {}
        self._changed = True
        self.in_sync.clear()
        self._wake.set()
        self._set.set()

    def kernel_changed(self) -> None:
        """Take note that the kernel's routes may not be what they were: they are read again soon.

        What it refused it may take now, so that is tried again then, and before long once more.
        """
        self._retries = 0
        self._retry_at = None
        self._resync = True
        self.in_sync.clear()
        self._wake.set()

    def routes_changed(self, told: Mapping[IPNetwork, KernelRoute | None]) -> None:
        """Take note of what somebody else made of routes of ours, None for one that is gone: it is repaired soon."""
        self._told.update(told)
        self.in_sync.clear()
        self._wake.set()

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Add routes to the desired ones; on return the kernel has them. Raises `KernelRefused` if it refused one.

        A refused route stays desired, and is tried again until a `set` leaves it out.
        """
        self._programmed.update({route.prefix: route for route in routes})
        work = functools.partial(self.table.add, tuple(routes))
        self.table.addition_count += 1
        try:
            failures = await asyncio.get_running_loop().run_in_executor(self._adding, work)
        except TortieError:
            self._resync = True  # what was written is not known
            self._look_again()
            raise
        finally:
            self.table.addition_count -= 1
        self._flush_moved()
        if failures or any(self._programmed.get(route.prefix) is not route for route in routes):
            # Refused, or overtaken by a `set` that may want another route there, or none.
            self._look_again()
        for failure in failures:
            raise KernelRefused(f"route to {failure.prefix}", failure.error_number, failure.reason)

    async def run(self) -> None:
        """Keep the kernel as desired until cancelled; what the kernel has stays as it is then."""
        while True:
            await self._until_due()
            started = time.monotonic()
            await self._guarded_iteration()
            worked_seconds = time.monotonic() - started
            await self._rest(min(max(worked_seconds, _SHORTEST_REST_SECONDS), _LONGEST_REST_SECONDS))

    async def iterate(self) -> None:
        """Bring the kernel to what is desired now, once; without anything desired yet nothing is done."""
        self._wake.clear()
        self._set.clear()
        if self._desired is None:
            return
        work = self._next_pass(self._desired)
        try:
            await asyncio.get_running_loop().run_in_executor(self._passing, work)
        except BaseException:
            self._changed = self._resync = True  # what was written is not known
            raise
        self._flush_moved()
        self._plan_retry(failed=bool(self.failures))
        if not self._wake.is_set():
            self.in_sync.set()

    def _next_pass(self, desired: DesiredRoutes) -> Callable[[], None]:
        """Return the least work that makes the kernel right again; what was told is no news to a dump."""
        now = self._clock()
        told, self._told = self._told, {}
        resync = self._resync or now >= self._resync_at
        retry = self._retry_at is not None and now >= self._retry_at
        changed = self._changed or retry
        self._resync = self._changed = False
        if retry:
            self._retry_at = None
        self.table.begin_pass()
        programmed = dict(self._programmed)
        if resync:
            self._resync_at = now + self._resync_seconds * random.uniform(0.9, 1.1)  # noqa: S311  jitter
            told = {}

        def work() -> None:
            if told:
                self.table.repair(desired, programmed, told)
            if changed or resync:
                self.table.reconcile(desired, programmed, changed=changed, resync=resync)
            if resync:
                self._look_for_foreign(desired)

        return work

    def _look_for_foreign(self, desired: DesiredRoutes) -> None:
        try:
            self._foreign.look(desired)
        except TortieError as error:  # no reason to program anything anew
            log.warning("routes of others could not be looked for", extra={"reason": str(error)})

    def close(self) -> None:
        """End the threads once what they do is done; the routes stay."""
        self._closing.set()
        for executor in (self._passing, self._adding, self._flushing):
            executor.shutdown()

    def _look_again(self) -> None:
        self._changed = True
        self.in_sync.clear()
        self._wake.set()

    def _flush_moved(self) -> None:
        """Have the connections of addresses that moved flushed; the routes are right already, so nothing waits."""
        if self._connections is not None and self.table.has_moved and not self._flush_is_due:
            self._flush_is_due = True
            self._flushing.submit(self._flush, self._connections)

    def _flush(self, connections: Connections) -> None:
        self._flush_is_due = False
        moved = self.table.take_moved()
        if not moved:
            return
        started = time.monotonic()
        try:
            count = connections.flush(moved)
        except TortieError as error:
            self.table.return_moved(moved)  # for the next flush: their connections are still there
            log.warning("connections could not be flushed", extra={"addresses": len(moved), "reason": str(error)})
            self._closing.wait(_FAILED_FLUSH_REST_SECONDS)
            return
        log.debug("connections flushed", extra={"addresses": len(moved), "connections": count})
        rest_seconds = _FLUSHING_RESTS * (time.monotonic() - started)
        self._closing.wait(min(rest_seconds, _LONGEST_FLUSHING_REST_SECONDS))

    async def _rest(self, seconds: float) -> None:
        if self._set.is_set():  # decided while this pass ran; decisions rest themselves
            return
        await asyncio.sleep(_SHORTEST_REST_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - _SHORTEST_REST_SECONDS):
                await self._set.wait()

    async def _until_due(self) -> None:
        if self._desired is None:
            await self._wake.wait()
            return
        due = self._resync_at if self._retry_at is None else min(self._resync_at, self._retry_at)
        try:
            async with asyncio.timeout(max(0.0, due - self._clock())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _guarded_iteration(self) -> None:
        try:
            await self.iterate()
        except TortieError as error:
            log.warning("routes could not be programmed", extra={"reason": str(error)})
            self._failed()
        except Exception:
            log.exception("programming routes failed")
            self._failed()

    def _failed(self) -> None:
        self.error_count += 1
        self._plan_retry(failed=True)

    def _plan_retry(self, *, failed: bool) -> None:
        """Let the next retry be due after a pause that grows; one that is planned already stays where it is."""
        if not failed:
            self._retries = 0
            self._retry_at = None
        elif self._retry_at is None:
            pause_seconds = min(_FIRST_RETRY_SECONDS * 2**self._retries, _LAST_RETRY_SECONDS)
            self._retries = min(self._retries + 1, 10)
            self._retry_at = self._clock() + pause_seconds * random.uniform(0.75, 1.25)  # noqa: S311  jitter

"""For how long the kernel's routes have not been what they should be; an ordinary change is done before it counts."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.ports import RouteFailure
    from ipam.address import IPNetwork

#: How long routes may be wrong before it is told to those who would send workloads elsewhere, and how often is looked.
HOLD_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 1.0


class RouteSync:
    """Remembers when the routes were last right.

    `in_sync` is set while every desired route has been tried, and may be cleared and set many times a second;
    `failures` gives the routes that the kernel did not take.
    """

    def __init__(
        self,
        in_sync: asyncio.Event,
        failures: Callable[[], Mapping[IPNetwork, RouteFailure]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._in_sync = in_sync
        self._failures = failures
        self._clock = clock
        self._right_at = clock()

    async def run(self) -> None:
        """Look now and then until cancelled; between changes that follow one another closely, too."""
        while True:
            await self._in_sync.wait()
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Take note of routes that have just been brought in line."""
        if not self._failures():
            self._right_at = self._clock()

    def limitation(self) -> str | None:
        """Return why existing workloads may not all be reached, None if that is not so, or not for long."""
        failures = self._failures()
        wrong_seconds = self._clock() - self._right_at
        if wrong_seconds < HOLD_SECONDS or (self._in_sync.is_set() and not failures):
            return None
        for failure in failures.values():
            return f"for {wrong_seconds:.0f} s the kernel has not taken the route to {failure.prefix}: {failure.reason}"
        return f"for {wrong_seconds:.0f} s the kernel's routes could not be brought in line; the agent's log says why"

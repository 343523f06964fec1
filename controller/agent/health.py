"""Whether the agent lives, and whether it is ready: two questions, for whoever would restart it or send it work.

`/livez` is 200 while the event loop turns, for otherwise nobody answers, and every task that the agent cannot do
without runs. An agent whose store, speaker or kernel is away lives: it keeps what is there, and a restart would mend
nothing. `/readyz` is 200 while a new workload would be wired, and reached from other hosts.

Whoever reaches `/readyz` may ask as often as he likes, and the event loop is not his: an answer is good for a second.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

#: The tasks without which the agent does not do its work, by their names.
ESSENTIAL_TASKS: Final = (
    "registration",
    "assignment",
    "cluster",
    "kernel",
    "speaker",
    "routing",
    "programmer",
    "cni",
    "endpoints",
    "collection",
    "way out",
)


#: How long an answer about readiness is given again, in seconds.
_FRESH_SECONDS: Final = 1.0


class Health:
    """The pages of probes; `hindrances` are the reasons why the agent is not ready now, none if it is."""

    def __init__(self, hindrances: Callable[[], tuple[str, ...]], clock: Callable[[], float] = time.monotonic) -> None:
        self._hindrances = hindrances
        self._clock = clock
        self._reasons: tuple[str, ...] = ()
        self._fresh_until = -math.inf
        self.pages = {"/livez": self.livez, "/readyz": self.readyz}

    async def livez(self, _request: web.Request) -> web.Response:
        """Answer 200, or 503 with the tasks that have ended."""
        running = {task.get_name() for task in asyncio.all_tasks()}
        ended = [name for name in ESSENTIAL_TASKS if name not in running]
        if ended:
            return web.Response(status=503, text="".join(f"task {name!r} has ended\n" for name in ended))
        return web.Response(text="alive\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer 200, or 503 with the reasons, one a line."""
        if self._clock() >= self._fresh_until:
            self._reasons = self._hindrances()
            self._fresh_until = self._clock() + _FRESH_SECONDS
        if self._reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in self._reasons))
        return web.Response(text="ready\n")

"""Whether the agent lives, and whether it is ready: two questions, for whoever would restart it or send it work.

`/livez` is 200 while the event loop turns, for otherwise nobody answers, and every task that the agent cannot do
without runs. An agent whose store, speaker or kernel is away lives: it keeps what is there, and a restart would mend
nothing. `/readyz` is 200 while a new workload would be wired and routed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.agent.api import Status

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


class Health:
    """The pages of probes; `status` is the agent's as of now."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
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
        status = self._status()
        if not status.ready:
            return web.Response(status=503, text="".join(f"{problem}\n" for problem in status.problems))
        return web.Response(text="ready\n")

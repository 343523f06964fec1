"""HTTP over TCP: pages that are read by other machines and by people's browsers, and never change anything.

Where the address is taken or not there yet, the agent goes on and tries again: nobody's container waits for a page.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from aiohttp import web

from controller.errors import TortieError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.agent.complaints import Complaints
    from controller.settings import ListenAddress
    from ipam.address import IPAddress

log = logging.getLogger(__name__)

Page: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: How long a taken address is left alone before it is tried again, in seconds.
_RETRY_SECONDS: Final = 5.0
#: How long an answer under way may take when the agent stops, in seconds.
_STOP_SECONDS: Final = 0.5


class AddressTaken(TortieError):
    """The address could not be listened on; the text names it and says why."""


class WebServer:
    """Serves pages on one address until cancelled; a page is an aiohttp handler of GET."""

    def __init__(self, what: str, listen: ListenAddress, pages: Mapping[str, Page], complaints: Complaints) -> None:
        self._complaint = f"{what} not served"
        self._listen = listen
        self._pages = pages
        self._complaints = complaints

    async def run(self) -> None:
        """Serve until cancelled; what keeps it from listening is told and tried again."""
        application = web.Application()
        for path, page in self._pages.items():
            application.router.add_get(path, page)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        try:
            await self._start(runner)
            await asyncio.get_running_loop().create_future()
        finally:
            await runner.cleanup()

    async def _start(self, runner: web.AppRunner) -> None:
        while True:
            try:
                await web.TCPSite(runner, self._listen.host or None, self._listen.port).start()
            except OSError as error:
                reason = f"{self._listen} cannot be listened on: {error.strerror or error}; free it or set another"
                self._complaints.tell(self._complaint, AddressTaken(reason))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._complaints.settle(self._complaint)
                log.info("serving", extra={"address": str(self._listen), "pages": sorted(self._pages)})
                return


def for_nodes_only(page: Page, is_node: Callable[[IPAddress], bool]) -> Page:
    """Return the page for this host and the cluster's nodes alone; everybody else, a workload say, is refused.

    A workload cannot pretend: packets with a source that is not its own address do not leave its link.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        visitor = _visitor(request)
        if visitor is None or not (visitor.is_loopback or is_node(visitor)):
            raise web.HTTPForbidden(text="this page is for nodes of the cluster; ask from one of them\n")
        return await page(request)

    return answer


def _visitor(request: web.Request) -> IPAddress | None:
    if not request.remote:
        return None
    address = ipaddress.ip_address(request.remote.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address

"""HTTP over TCP: pages that are read by other machines and by people's browsers, and never change anything.

Containers reach them, too, and every open connection is a file of the agent's, of which it has so many: so one address
has a few connections, and none that is idle for long. This host's own programs are not counted. What is no HTTP is
answered and not logged.

Where the address is taken or not there yet, the agent goes on and tries again: nobody's container waits for a page.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

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
#: How many connections one address may have at a time; those beyond are closed at once.
_MOST_CONNECTIONS: Final = 16
#: How long a connection may be without a whole request, in seconds; scrapes every minute keep theirs.
_IDLE_SECONDS: Final = 75.0


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
        runner = web.AppRunner(application, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        listener: asyncio.Server | None = None
        try:
            listener = await self._start(runner)
            await asyncio.get_running_loop().create_future()
        finally:
            if listener is not None:
                listener.close()
            await runner.cleanup()

    async def _start(self, runner: web.AppRunner) -> asyncio.Server:
        loop, server, open_counts = asyncio.get_running_loop(), runner.server, Counter[str]()
        if server is None:
            raise AssertionError("a runner that was set up has a server")

        def visit() -> _Visit:
            return _Visit(server, open_counts)

        while True:
            try:
                listener = await loop.create_server(visit, self._listen.host or None, self._listen.port)
            except OSError as error:
                reason = f"{self._listen} cannot be listened on: {error.strerror or error}; free it or set another"
                self._complaints.tell(self._complaint, AddressTaken(reason))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._complaints.settle(self._complaint)
                log.info("serving", extra={"address": str(self._listen), "pages": sorted(self._pages)})
                return listener


class _Visit(web.RequestHandler):
    """One connection; `open_counts` has how many each address has."""

    __slots__ = ("_open_counts", "_visitor")

    def __init__(self, server: web.Server, open_counts: Counter[str]) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None, for no log, is what aiohttp's own runners pass
            keepalive_timeout=_IDLE_SECONDS,
        )
        self._open_counts = open_counts
        self._visitor = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and close it if its address has too many."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._visitor = str(peer[0]) if peer else ""
        self._open_counts[self._visitor] += 1
        if self._open_counts[self._visitor] > _MOST_CONNECTIONS and not _is_here(self._visitor):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection no more."""
        super().connection_lost(exc)
        self._open_counts[self._visitor] -= 1
        if not self._open_counts[self._visitor]:
            del self._open_counts[self._visitor]

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ANN401  the base class's signature
        """Log a fault of a page with its traceback; a malformed request is the visitor's fault."""
        if not isinstance(kw.get("exc_info"), HttpProcessingError):
            super().log_exception(*args, **kw)


def _is_here(visitor: str) -> bool:
    address = _address(visitor)
    return address is not None and address.is_loopback


def for_nodes_only(page: Page, is_node: Callable[[IPAddress], bool]) -> Page:
    """Return the page for this host and the cluster's nodes alone; everybody else, a workload say, is refused.

    A workload cannot pretend by itself: packets with a source that is not its own address do not leave its link. But
    whom a host masquerades (a pool's `natOutgoing`, a bridge of dockerd's) is to all other hosts that host.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        visitor = _address(request.remote)
        if visitor is None or not (visitor.is_loopback or is_node(visitor)):
            raise web.HTTPForbidden(text="this page is for nodes of the cluster; ask from one of them\n")
        return await page(request)

    return answer


def _address(visitor: str | None) -> IPAddress | None:
    if not visitor:
        return None
    address = ipaddress.ip_address(visitor.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address

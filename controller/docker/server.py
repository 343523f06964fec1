"""The plugin socket: JSON over HTTP (Docker's "Docker Plugin API"), one method a path.

Whatever is wrong with a request, the answer is an object with `Err`, which dockerd hands on to its user.

Work that has begun is never cancelled half-way: a caller whose deadline passes is told to try again, the work runs on
to its end, and a repeated call waits for it behind the lock of its endpoint.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from controller.docker.requests import ADDRESS_SPACES, Fields
from controller.errors import TortieError
from ipam.errors import IpamError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

log = logging.getLogger(__name__)

_CONTENT_TYPE: Final = "application/vnd.docker.plugins.v1.1+json"
_ANSWER_SECONDS: Final = 50.0
_STOP_SECONDS: Final = 10.0
#: Answers that are always the same.
_CONSTANT: Final[dict[str, dict[str, object]]] = {
    "/Plugin.Activate": {"Implements": ["NetworkDriver", "IpamDriver"]},
    # What another host's dockerd knows is none of this one's business: BGP and the store connect hosts.
    "/NetworkDriver.GetCapabilities": {"Scope": "local", "ConnectivityScope": "global"},
    "/NetworkDriver.DiscoverNew": {},
    "/NetworkDriver.DiscoverDelete": {},
    "/IpamDriver.GetCapabilities": {"RequiresMACAddress": False, "RequiresRequestReplay": False},
    "/IpamDriver.GetDefaultAddressSpaces": {
        "LocalDefaultAddressSpace": ADDRESS_SPACES[0],
        "GlobalDefaultAddressSpace": ADDRESS_SPACES[1],
    },
    # A pool id holds no state.
    "/IpamDriver.ReleasePool": {},
}


class PluginServer:
    """Serves the methods, by path; whatever goes wrong is an answer with `Err`, and logged here."""

    def __init__(self, methods: Mapping[str, Callable[[Fields], Awaitable[dict[str, object]]]]) -> None:
        self._methods = methods
        self._works: set[asyncio.Task[tuple[int, dict[str, object]]]] = set()
        self._runner: web.ServerRunner | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve callers of the socket from now on."""
        self._runner = web.ServerRunner(_Server(self._answer), shutdown_timeout=_STOP_SECONDS)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Take no more calls, let those under way end, within a deadline, and close every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
        late = [work for work in self._works if work.cancel()]
        if late:
            log.warning("docker calls are abandoned, the agent stops", extra={"calls": len(late)})
        await asyncio.gather(*late, return_exceptions=True)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method != "POST":
            return _response(405, {"Err": f"{request.method} is no way to call a plugin; use POST"})
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            return _response(413, {"Err": f"the request is too long: {error.text}"})
        work = asyncio.create_task(self._work(request.path, body), name="docker call")
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        await asyncio.wait({work}, timeout=_ANSWER_SECONDS)
        if not work.done():
            return _response(500, {"Err": f"not done within {_ANSWER_SECONDS:g} seconds; it goes on, try again"})
        if work.cancelled():
            return _response(500, {"Err": "the tortie agent stops; try again when it is back"})
        return _response(*work.result())

    async def _work(self, path: str, body: bytes) -> tuple[int, dict[str, object]]:
        """Return status and answer of a call."""
        if path in _CONSTANT:
            return 200, _CONSTANT[path]
        method = self._methods.get(path)
        if method is None:
            # dockerd takes 404 for a method that a plugin need not have.
            return 404, {"Err": f"there is no method {path[1:]}"}
        try:
            return 200, await method(Fields.of(body))
        except (TortieError, IpamError) as error:
            log.warning("docker call failed", extra={"method": path[1:], "reason": str(error)})
            return 500, {"Err": str(error)}
        except Exception as error:
            # The outermost guard of a call: every caller gets an answer.
            log.exception("docker call met a defect", extra={"method": path[1:]})
            return 500, {"Err": f"defect in the tortie agent: {type(error).__name__}: {error}; its log has more"}


class _Server(web.Server):
    """A server of the plugin protocol."""

    def __call__(self) -> web.RequestHandler:
        """Return what answers on one connection."""
        return _Connection(self, loop=asyncio.get_running_loop())


class _Connection(web.RequestHandler):
    """Answers in the protocol's form also what is no request at all."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that cannot be read, or whose handling met a defect; the last one here."""
        plain = super().handle_error(request, status, exc, message)
        answer = _response(plain.status, {"Err": f"the request cannot be read: {message or exc}"})
        answer.force_close()
        return answer


def _response(status: int, answer: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=json.dumps(answer).encode(), content_type=_CONTENT_TYPE)

"""The agent's HTTP API on its unix socket, for root on this host: `curl --unix-socket /run/tortie/agent.sock http://agent/v1/status`.

GET /v1/status    everything `tortiectl node status` shows, as JSON
GET /v1/health    200 when the agent is ready, 503 with the reasons when it is not
GET /v1/report    what it wants and what the kernel has, as other nodes may ask at `http_listen`, if there is one
GET /metrics      as Prometheus reads it there
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from controller.private_socket import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from controller.agent.web import Page

#: How long an answer under way may take when the agent stops, in seconds.
_STOP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Whether the agent sees its store; `reason` says why not."""

    kind: str
    connected: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RouteProblem:
    """How many routes the kernel refused with one errno, why, and the first prefixes of them."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoutesStatus:
    """The kernel routes of ours: whether they are as desired, how many there are, and what failed."""

    in_sync: bool
    count: int
    failures: tuple[RouteProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A configured peer and its observed session; `since` is in seconds since the epoch, 0 when unknown."""

    address: str
    name: str
    origin: str
    state: str
    since: float
    info: str


@dataclass(frozen=True, slots=True)
class PeerProblem:
    """A defined peer that makes no session, by the name of its definition, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RejectedStatus:
    """How many routes of a peer one rule refused, and the first prefixes of them."""

    peer: str
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BgpStatus:
    """Whether the speaker answers, its sessions, and what was learned and refused.

    `rejected_counts` are counted by reason, `rejected` by peer and reason; `problems` are of peers without a session.
    """

    connected: bool
    peers: tuple[PeerStatus, ...] = ()
    learned_count: int = 0
    rejected_counts: dict[str, int] = field(default_factory=dict)
    rejected: tuple[RejectedStatus, ...] = ()
    problems: tuple[PeerProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """A workload endpoint of this node and its addresses."""

    handle: str
    workload: str
    namespace: str
    interface: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The agent as of one moment.

    `problems` are sentences for the operator; `ready` is true when a new workload would be wired. `drain` is
    empty, `draining` while the node asks to be routed around, or `drained` when it announces nothing any more.
    """

    node: str
    version: str
    ready: bool
    problems: tuple[str, ...]
    addresses: tuple[str, ...]
    store: StoreStatus
    routes: RoutesStatus
    bgp: BgpStatus
    workloads: tuple[WorkloadStatus, ...]
    drain: str = ""


class ApiServer:
    """Serves the API until stopped; the socket is only for the user the agent runs as.

    `pages` are served besides status and health.
    """

    def __init__(self, path: Path, status: Callable[[], Status], pages: Mapping[str, Page]) -> None:
        self._path = path
        self._status = status
        self._pages = pages
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; raises `RefusedError` naming the path when the socket cannot be made or another agent has it."""
        listener = bind(self._path)
        application = web.Application()
        application.router.add_get("/v1/status", self._get_status)
        application.router.add_get("/v1/health", self._get_health)
        for path, page in self._pages.items():
            application.router.add_get(path, page)
        self._runner = web.AppRunner(application, shutdown_timeout=_STOP_SECONDS)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Remove the socket and close every connection; one that never listened has nothing to stop."""
        if self._runner is None:
            return
        self._path.unlink(missing_ok=True)  # before cleanup closes it: while we listen nobody replaces it
        await self._runner.cleanup()

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.json_response(asdict(self._status()))

    async def _get_health(self, _request: web.Request) -> web.Response:
        status = self._status()
        body: dict[str, Any] = {"ready": status.ready, "problems": status.problems}
        return web.json_response(body, status=200 if status.ready else 503)

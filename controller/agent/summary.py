"""A node in few words: what its agent tells every other node that asks, `GET /v1/summary` on `http_listen`.

Small, so that one node can look at all of them every second: established sessions are addresses and nothing else, and
an answer that would be the same as last time is HTTP status 304 without a body.

    {"node": "h1", "version": "0.1.0", "ready": true, "drain": "", "problems": [TEXT], "problem_count": 0,
     "routes": 12, "workloads": 3, "established": [ADDRESS],
     "others": [{"address": ADDRESS, "name": "h2", "state": "idle", "since": SECONDS, "info": TEXT}]}
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from bgp.events import SessionState
from controller.diagnosis.document import read_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.agent.api import PeerStatus, Status
    from controller.agent.web import Page

#: Where every agent serves its summary.
PATH: Final = "/v1/summary"
#: How many problems are told in words; the others are counted.
_MOST_PROBLEMS: Final = 20
#: The longest text that is believed, in characters; what another machine sends is cut to it.
_LONGEST_TEXT: Final = 500
_STATE_UNKNOWN: Final = "unknown"
_NOT_MODIFIED: Final = 304


class UnreadableSummary(ValueError):
    """What came is no summary; the text says why."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A peer whose session is not established, in this node's words; `state` is `unknown` while nobody observes it."""

    address: str
    name: str
    state: str
    since: float
    info: str

    @property
    def observed(self) -> bool:
        """Whether the node knows that it is down, not merely does not know that it is up."""
        return self.state != _STATE_UNKNOWN


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """One node as its agent describes it; `established` are the addresses of the peers that it has a session with."""

    node: str
    version: str
    ready: bool
    drain: str
    problems: tuple[str, ...]
    problem_count: int
    routes: int
    workloads: int
    established: frozenset[str]
    others: tuple[OpenSession, ...]


def summary_of(status: Status) -> NodeSummary:
    """Return an agent's status in few words."""
    peers = status.bgp.peers
    return NodeSummary(
        node=status.node,
        version=status.version,
        ready=status.ready,
        drain=status.drain,
        problems=status.problems[:_MOST_PROBLEMS],
        problem_count=len(status.problems),
        routes=status.routes.count,
        workloads=len(status.workloads),
        established=frozenset(peer.address for peer in peers if _is_established(peer)),
        others=tuple(
            OpenSession(peer.address, peer.name, peer.state, peer.since, peer.info)
            for peer in peers
            if not _is_established(peer)
        ),
    )


def encode_summary(summary: NodeSummary) -> bytes:
    """Return the JSON of a summary; the same summary gives the same bytes."""
    return json.dumps({**asdict(summary), "established": sorted(summary.established)}).encode()


def decode_summary(body: bytes) -> NodeSummary:
    """Return the summary that another node has sent, its texts cut to a sane length; raises `UnreadableSummary`."""
    try:
        fields = json.loads(body)
        return NodeSummary(
            node=_text(fields["node"]),
            version=_text(fields["version"]),
            ready=bool(fields["ready"]),
            drain=_text(fields["drain"]),
            problems=tuple(map(_text, fields["problems"][:_MOST_PROBLEMS])),
            problem_count=int(fields["problem_count"]),
            routes=int(fields["routes"]),
            workloads=int(fields["workloads"]),
            established=frozenset(map(_text, fields["established"])),
            others=tuple(map(_open_session, fields["others"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UnreadableSummary(f"{type(error).__name__}: {error}") from error


def summary_page(status: Callable[[], Status]) -> Page:
    """Return the page; whoever names the tag of the last answer (RFC 9110, section 13.1.2) is sent only what is new."""

    async def answer(request: web.Request) -> web.Response:
        body = encode_summary(summary_of(status()))
        tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=_NOT_MODIFIED, headers={"ETag": tag})
        return web.Response(body=body, content_type="application/json", headers={"ETag": tag})

    return answer


def _is_established(peer: PeerStatus) -> bool:
    return peer.state == SessionState.ESTABLISHED.value


def _open_session(fields: dict[str, Any]) -> OpenSession:
    return OpenSession(
        address=_text(fields["address"]),
        name=_text(fields["name"]),
        state=_text(fields["state"]),
        since=read_time(fields["since"]),
        info=_text(fields["info"]),
    )


def _text(value: object) -> str:
    return str(value)[:_LONGEST_TEXT]

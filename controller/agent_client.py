"""The agent's status, asked for over its unix socket; `controller.agent.api` documents the answer."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller.errors import AgentUnavailable

if TYPE_CHECKING:
    from pathlib import Path

_HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Session:
    """A configured peer of the node and its observed session; `since` is in epoch seconds, 0 when unknown."""

    address: str
    name: str
    origin: str
    state: str
    since: float
    info: str

    @property
    def established(self) -> bool:
        """Whether the session is up."""
        return self.state == "established"


@dataclass(frozen=True, slots=True)
class Rejected:
    """How many routes of a peer one rule refused, and the first prefixes of them."""

    peer: str
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """An agent as it described itself; `document` is its whole answer.

    `drain` is empty, `draining` or `drained`; `sessionless` are the defined peers that make no session.
    """

    node: str
    version: str
    ready: bool
    problems: tuple[str, ...]
    store: str
    routes_in_sync: bool
    route_count: int
    speaker_connected: bool
    sessions: tuple[Session, ...]
    sessionless: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    drain: str
    document: dict[str, Any]


def agent_status(path: Path, *, timeout_seconds: float = 5.0) -> AgentStatus:
    """Return what the agent behind this socket says of itself; raises `AgentUnavailable`."""
    connection = http.client.HTTPConnection("agent", timeout=timeout_seconds)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(timeout_seconds)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/v1/status", headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        if response.status != _HTTP_OK:
            raise AgentUnavailable(f"the agent behind {path} answers with HTTP status {response.status}; see its log")
        return _status(json.loads(body))
    except (OSError, http.client.HTTPException) as error:
        raise AgentUnavailable(
            f"no agent answers on {path} ({error}); start tortie-agent on this host, or name its socket "
            f"with --agent-socket"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise AgentUnavailable(
            f"the answer of the agent behind {path} cannot be read ({type(error).__name__}: {error}); "
            f"use a tortiectl of the agent's version"
        ) from error
    finally:
        connection.close()


def _status(document: dict[str, Any]) -> AgentStatus:
    store, routes, bgp = document["store"], document["routes"], document["bgp"]
    fields = Session.__dataclass_fields__
    return AgentStatus(
        node=document["node"],
        version=document["version"],
        ready=document["ready"],
        problems=tuple(document.get("problems", ())),
        store=f"{store['kind']}, {'connected' if store['connected'] else 'not connected: ' + store['reason']}",
        routes_in_sync=routes["in_sync"],
        route_count=routes["count"],
        speaker_connected=bgp["connected"],
        sessions=tuple(Session(**{name: peer[name] for name in fields}) for peer in bgp["peers"]),
        sessionless=tuple(problem["name"] for problem in bgp["problems"]),
        rejected=tuple(
            Rejected(each["peer"], each["reason"], each["count"], tuple(each["examples"])) for each in bgp["rejected"]
        ),
        drain=document["drain"],
        document=document,
    )

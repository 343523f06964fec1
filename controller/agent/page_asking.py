"""Asking every node for its summary: a few at once, each with a deadline, and nothing is sent twice that is known."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import aiohttp

from controller.agent import summary
from controller.agent.page_picture import Asked
from controller.agent.summary import UnreadableSummary, decode_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from controller.agent.summary import NodeSummary
    from controller.datamodel.records import Node
    from ipam.address import IPAddress

#: How many nodes are asked at one time, and how long each may take, in seconds.
_AT_ONCE: Final = 50
_DEADLINE_SECONDS: Final = 1.0
#: The largest answer that is read, in bytes: a node with 2,000 peers of which none is up, each with a reason.
_LARGEST_BYTES: Final = 2 * 1024 * 1024
#: A node that answered before is silent after this many failures in a row: its agent may have been busy for a second.
_FAILURES_UNTIL_SILENT: Final = 2
_HTTP_OK: Final = 200
_HTTP_NOT_MODIFIED: Final = 304


class NoAnswer(Exception):
    """A node did not tell its summary; the text says why."""


@dataclass(slots=True)
class _Known:
    """What a node last answered, the tag of that answer, and how often it has failed since."""

    summary: NodeSummary | None = None
    tag: str = ""
    failures: int = 0


class NodeAsker:
    """Asks nodes at the port where all of them serve machines; used as a context, outside of which nothing is open.

    `here` is asked for its address only: the other nodes answer those whom they know as nodes.
    """

    def __init__(self, here: Node, port: int, learn: Callable[[str, Asked], None]) -> None:
        self._here = here
        self._port = port
        self._learn = learn
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._known: dict[str, _Known] = {}
        self._clients: dict[int, aiohttp.ClientSession] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Make the clients, one for each IP version of this node."""
        for address in self._here.addresses:
            connector = aiohttp.TCPConnector(limit=0, local_addr=(str(address), 0))
            client = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            self._clients[address.version] = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._stack.aclose()

    async def ask(self, nodes: Collection[Node]) -> None:
        """Ask each of these nodes once, and tell of every answer and every silence that is news."""
        names = {node.name for node in nodes}
        self._known = {name: known for name, known in self._known.items() if name in names}
        async with asyncio.TaskGroup() as tasks:
            for node in nodes:
                tasks.create_task(self._ask(node, self._known.setdefault(node.name, _Known())))

    async def _ask(self, node: Node, known: _Known) -> None:
        before = known.summary, known.failures
        try:
            async with self._slots:
                known.summary, known.tag = await self._summary(node, known)
            known.failures = 0
        except NoAnswer as error:
            known.failures = _FAILURES_UNTIL_SILENT if known.summary is None else known.failures + 1
            if known.failures >= _FAILURES_UNTIL_SILENT:
                self._learn(node.name, Asked(known.summary, str(error)))
            return
        if before != (known.summary, known.failures):
            self._learn(node.name, Asked(known.summary))

    async def _summary(self, node: Node, known: _Known) -> tuple[NodeSummary | None, str]:
        """Return the node's summary, which may be the one it gave before, and its tag; raises `NoAnswer`."""
        client, address = self._way_to(node)
        host = f"[{address}]" if ":" in str(address) else str(address)
        url = f"http://{host}:{self._port}{summary.PATH}"
        try:
            async with (
                asyncio.timeout(_DEADLINE_SECONDS),
                client.get(url, headers={"If-None-Match": known.tag}, allow_redirects=False) as answer,
            ):
                if answer.status == _HTTP_NOT_MODIFIED:
                    return known.summary, known.tag
                if answer.status != _HTTP_OK:
                    raise NoAnswer(f"{url} answers with HTTP status {answer.status}; is its agent of this version?")
                found = decode_summary(await _body(answer))
        except TimeoutError as error:
            raise NoAnswer(f"nothing from {url} within {_DEADLINE_SECONDS:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise NoAnswer(f"{url}: {_reason(error.os_error)}; does its agent run?") from error
        except (aiohttp.ClientError, OSError, UnreadableSummary) as error:
            raise NoAnswer(f"{url}: {error}") from error
        if found.node != node.name:
            raise NoAnswer(f"{url} is answered by node {found.node}")
        return found, answer.headers.get("ETag", "")

    def _way_to(self, node: Node) -> tuple[aiohttp.ClientSession, IPAddress]:
        for address in node.addresses:
            if address.version in self._clients:
                return self._clients[address.version], address
        raise NoAnswer(f"{self._here.name} and {node.name} have no IP version in common")


def _reason(error: OSError) -> str:
    """Return the kernel's words; asyncio says which call failed for which tuple."""
    return os.strerror(error.errno) if error.errno else str(error)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_BYTES:
            raise UnreadableSummary(f"the answer is larger than {_LARGEST_BYTES} bytes")
    return bytes(body)

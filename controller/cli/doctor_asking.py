"""Asks the agents of all nodes at once what they want and have; one that does not answer holds up nobody."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import aiohttp

from controller.diagnosis.document import UnreadableReport, decode_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.datamodel.records import Node
    from controller.diagnosis.report import NodeReport
    from ipam.address import IPAddress, IPNetwork

_PATH: Final = "/v1/report"
#: How many nodes are asked at the same time.
_AT_ONCE: Final = 128
#: The longest answer that is read, in bytes: a report of some hundred thousand prefixes.
_MOST_BYTES: Final = 128 * 1024 * 1024
_OK: Final = 200


class _NoAnswer(Exception):
    """A node's agent did not answer as it should; the text says why."""


async def ask_nodes(
    nodes: Mapping[str, Node], *, port: int, timeout_seconds: float, prefix: IPNetwork | None = None
) -> tuple[dict[str, NodeReport], dict[str, str]]:
    """Return the report of each node that answers within its time, and of each other one why it has none."""
    reports: dict[str, NodeReport] = {}
    silence: dict[str, str] = {}
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(client: aiohttp.ClientSession, node: Node) -> None:
        async with places:
            try:
                reports[node.name] = await _report_of(client, node, port, timeout_seconds, prefix)
            except _NoAnswer as error:
                silence[node.name] = str(error)

    async with aiohttp.ClientSession(trust_env=False) as client, asyncio.TaskGroup() as tasks:
        for node in nodes.values():
            tasks.create_task(ask(client, node))
    return {name: reports[name] for name in nodes if name in reports}, dict(sorted(silence.items()))


async def _report_of(
    client: aiohttp.ClientSession, node: Node, port: int, timeout_seconds: float, prefix: IPNetwork | None
) -> NodeReport:
    """Return what a node says of itself, asked at its first address that answers; raises `_NoAnswer`."""
    reasons = []
    for address in node.addresses:
        try:
            async with asyncio.timeout(timeout_seconds):
                report = decode_report(await _body(client, address, port, prefix))
        except TimeoutError:
            reasons.append(f"{address} port {port}: nothing within {timeout_seconds:g} s")
        except aiohttp.ClientConnectorError as error:
            reasons.append(f"{address} port {port}: {os.strerror(error.errno) if error.errno else error}")
        except (aiohttp.ClientError, OSError, UnreadableReport, _NoAnswer) as error:
            reasons.append(f"{address} port {port}: {error}")
        else:
            if report.node == node.name:
                return report
            reasons.append(f"{address} port {port}: that is node {report.node}")
    raise _NoAnswer("; ".join(reasons))


async def _body(client: aiohttp.ClientSession, address: IPAddress, port: int, prefix: IPNetwork | None) -> bytes:
    host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004  the IP version
    question = {} if prefix is None else {"prefix": str(prefix)}
    async with client.get(f"http://{host}:{port}{_PATH}", params=question, allow_redirects=False) as answer:
        body = bytearray()
        async for part in answer.content.iter_any():
            body += part
            if len(body) > _MOST_BYTES:
                raise _NoAnswer(f"its report is longer than {_MOST_BYTES} bytes")
        if answer.status != _OK:
            raise _NoAnswer(f"HTTP status {answer.status}: {bytes(body[:200]).decode(errors='replace').strip()}")
        return bytes(body)

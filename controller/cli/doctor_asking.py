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
#: How many nodes are asked at the same time: all of these may answer at once, and are read within their time.
_AT_ONCE: Final = 64
#: The longest answer that is read, in bytes: a report of some hundred thousand prefixes.
_MOST_BYTES: Final = 128 * 1024 * 1024
_OK: Final = 200


class _NoAnswer(Exception):
    """A node's agent did not answer as it should; the text says why."""


async def ask_nodes(
    nodes: Mapping[str, Node], *, port: int, timeout_seconds: float, prefix: IPNetwork | None = None
) -> tuple[dict[str, NodeReport], dict[str, str]]:
    """Return the report of each node that answers within its time, and of each other one why it has none.

    All are asked at their first address, and who has not answered there at the next one. What came is decoded only when
    nobody is waited for: that takes its time, and would take it away from those who answer meanwhile.
    """
    reports: dict[str, NodeReport] = {}
    reasons: dict[str, list[str]] = {name: [] for name in nodes}
    for place in range(max((len(node.addresses) for node in nodes.values()), default=0)):
        left = {
            name: node.addresses[place]
            for name, node in nodes.items()
            if name not in reports and place < len(node.addresses)
        }
        answers = await _answers(left, port, timeout_seconds, prefix)
        for name, address in left.items():
            try:
                reports[name] = await asyncio.to_thread(_report_of, name, answers.pop(name))
            except (UnreadableReport, _NoAnswer) as error:
                reasons[name].append(f"{address} port {port}: {error}")
    silence = {name: "; ".join(reasons[name]) for name in sorted(nodes) if name not in reports}
    return {name: reports[name] for name in nodes if name in reports}, silence


async def _answers(
    address_by_name: Mapping[str, IPAddress], port: int, timeout_seconds: float, prefix: IPNetwork | None
) -> dict[str, bytes | _NoAnswer]:
    """Return what each of these addresses answers."""
    answers: dict[str, bytes | _NoAnswer] = {}
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(client: aiohttp.ClientSession, name: str, address: IPAddress) -> None:
        async with places:
            try:
                async with asyncio.timeout(timeout_seconds):
                    answers[name] = await _body(client, address, port, prefix)
            except TimeoutError:
                answers[name] = _NoAnswer(f"nothing within {timeout_seconds:g} s")
            except aiohttp.ClientConnectorError as error:
                answers[name] = _NoAnswer(os.strerror(error.errno) if error.errno else str(error))
            except (aiohttp.ClientError, OSError) as error:
                answers[name] = _NoAnswer(str(error))
            except _NoAnswer as error:
                answers[name] = error

    # The connector's own limit would have nodes wait within their time.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as client, asyncio.TaskGroup() as tasks:
        for name, address in address_by_name.items():
            tasks.create_task(ask(client, name, address))
    return answers


def _report_of(name: str, answer: bytes | _NoAnswer) -> NodeReport:
    """Return what an answer says; raises `UnreadableReport` or `_NoAnswer`."""
    if isinstance(answer, _NoAnswer):
        raise answer
    report = decode_report(answer)
    if report.node != name:
        raise _NoAnswer(f"that is node {report.node}")
    return report


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

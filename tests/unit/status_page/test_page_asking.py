"""Asking nodes for their summaries: silence, lies and slowness included. Each node is another loopback address."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from controller.agent import page_asking, summary
from controller.agent.page_asking import NodeAsker
from controller.agent.page_picture import Asked
from controller.agent.summary import encode_summary
from controller.datamodel.records import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from controller.agent.web import Page

#: Loopback addresses of this process alone, so that no port is taken by a test that runs at the same time.
NETWORK = f"127.{os.getpid() % 200 + 20}.0"
HERE = Node("n1", 64512, IPv4Address(f"{NETWORK}.1"), None)


class Nodes:
    """Nodes n2 and so on, all at one port; what they answer may be set."""

    def __init__(self, port: int, stack: AsyncExitStack) -> None:
        self.port = port
        self.visitors: list[str | None] = []
        self._stack = stack

    async def serve(self, index: int, page: Page) -> Node:
        """Serve the page as a node's summary."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self.visitors.append(request.remote)
            return await page(request)

        application = web.Application()
        application.router.add_get(summary.PATH, answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, f"{NETWORK}.{index}", self.port).start()
        return self.node(index)

    def node(self, index: int) -> Node:
        """Return a node, served or not."""
        return Node(f"n{index}", 64512, IPv4Address(f"{NETWORK}.{index}"), None)


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Nodes at a port that nobody else has."""
    with socket.create_server((f"{NETWORK}.2", 0)) as probe:
        port = probe.getsockname()[1]
    async with AsyncExitStack() as stack:
        yield Nodes(port, stack)


def page_of(body: bytes, status: int = 200) -> Page:
    """Return a page of this content."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    return answer


async def ask(nodes: Nodes, asked: list[Node], rounds: int = 1) -> list[tuple[str, Asked]]:
    """Return what is learned in so many rounds."""
    learned: list[tuple[str, Asked]] = []
    async with NodeAsker(HERE, nodes.port, lambda name, answer: learned.append((name, answer))) as asker:
        for _ in range(rounds):
            await asker.ask(asked)
    return learned


async def test_what_a_node_answers_is_learned_once(nodes: Nodes, crowd: Callable[[int], Any]) -> None:
    """From the address that others know this node by; an answer that is the same is no news."""
    told = crowd(3).summary("n2")
    node = await nodes.serve(2, page_of(encode_summary(told)))
    assert await ask(nodes, [node], rounds=3) == [("n2", Asked(told))]
    assert nodes.visitors == [f"{NETWORK}.1"] * 3


async def test_an_answer_that_is_known_need_not_be_sent(nodes: Nodes, crowd: Callable[[int], Any]) -> None:
    """A node that changes is heard at once."""
    told = [crowd(3).summary("n2")]
    tags: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        tag = f'"{len(told)}"'
        tags.append(request.headers.get("If-None-Match"))
        if tags[-1] == tag:
            if len(told) == 1:
                told.append(crowd(3).summary("n2", ready=False))
            return web.Response(status=304)
        return web.Response(body=encode_summary(told[-1]), headers={"ETag": tag})

    node = await nodes.serve(2, answer)
    assert await ask(nodes, [node], rounds=4) == [("n2", Asked(each)) for each in told]
    assert tags == ["", '"1"', '"1"', '"2"']


async def test_one_that_never_answered_is_silent_at_once(nodes: Nodes) -> None:
    """With the address and the reason."""
    [(name, asked)] = await ask(nodes, [nodes.node(2)])
    assert (name, asked.summary) == ("n2", None)
    assert asked.silent_because == (
        f"http://{NETWORK}.2:{nodes.port}/v1/summary: Connection refused; does its agent run?"
    )


async def test_one_that_answered_may_miss_once(nodes: Nodes, crowd: Callable[[int], Any]) -> None:
    """Twice in a row is silence; who it was stays known, and its next answer ends it."""
    told = crowd(3).summary("n2")
    failures = iter([False, True, False, True, True, False])

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=500) if next(failures) else web.Response(body=encode_summary(told))

    node = await nodes.serve(2, answer)
    learned = await ask(nodes, [node], rounds=6)
    states = [(asked.summary == told, asked.silent_because is not None) for _, asked in learned]
    assert states[0] == (True, False)
    assert (True, True) in states
    assert states[-1] == (True, False)
    assert sum(silent for _, silent in states) == 1
    assert any("HTTP status 500" in (asked.silent_because or "") for _, asked in learned)


async def test_no_answer_is_waited_for_and_nobody_waits_for_another(
    nodes: Nodes, crowd: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that hangs takes its deadline and no more."""
    monkeypatch.setattr(page_asking, "_DEADLINE_SECONDS", 0.2)

    async def hang(_request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    told = crowd(3).summary("n3")
    hanging = await nodes.serve(2, hang)
    swift = await nodes.serve(3, page_of(encode_summary(told)))
    [first, second] = await ask(nodes, [hanging, swift])
    assert first == ("n3", Asked(told))
    assert "within 0.2 s" in (second[1].silent_because or "")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 200, "JSONDecodeError"),
        (b"x" * 3_000_000, 200, "larger than 2097152 bytes"),
        (b"", 403, "HTTP status 403"),
    ],
)
async def test_answers_that_are_none(nodes: Nodes, body: bytes, status: int, reason: str) -> None:
    """Whatever comes, the node is silent for a reason that says it."""
    node = await nodes.serve(2, page_of(body, status))
    [(_, asked)] = await ask(nodes, [node])
    assert reason in (asked.silent_because or "")


async def test_nobody_is_sent_elsewhere(nodes: Nodes, crowd: Callable[[int], Any]) -> None:
    """A node that points at another place does not answer; that place is not asked."""

    async def point(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"http://{NETWORK}.3:{nodes.port}{summary.PATH}"})

    await nodes.serve(3, page_of(encode_summary(crowd(3).summary("n2"))))
    [(_, asked)] = await ask(nodes, [await nodes.serve(2, point)])
    assert "HTTP status 302" in (asked.silent_because or "")
    assert len(nodes.visitors) == 1


async def test_another_node_under_its_address(nodes: Nodes, crowd: Callable[[int], Any]) -> None:
    """An address that has moved is not taken for the node that had it."""
    node = await nodes.serve(2, page_of(encode_summary(crowd(3).summary("n3"))))
    [(_, asked)] = await ask(nodes, [node])
    assert asked.silent_because == f"http://{NETWORK}.2:{nodes.port}/v1/summary is answered by node n3"


async def test_no_way_to_it(nodes: Nodes) -> None:
    """A node of the other IP version alone is silent with the reason."""
    [(_, asked)] = await ask(nodes, [Node("n9", 64512, None, IPv6Address("::1"))])
    assert asked.silent_because == "n1 and n9 have no IP version in common"


async def test_no_more_than_so_many_at_once(
    nodes: Nodes, crowd: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait, and are asked all the same."""
    monkeypatch.setattr(page_asking, "_AT_ONCE", 3)
    present, most = 0, 0

    def page(index: int) -> Page:
        async def answer(_request: web.Request) -> web.Response:
            nonlocal present, most
            present += 1
            most = max(most, present)
            await asyncio.sleep(0.01)
            present -= 1
            return web.Response(body=encode_summary(crowd(20).summary(f"n{index}")))

        return answer

    served = [await nodes.serve(index, page(index)) for index in range(2, 20)]
    learned = await ask(nodes, served)
    assert most == 3
    assert {name for name, _ in learned} == {node.name for node in served}

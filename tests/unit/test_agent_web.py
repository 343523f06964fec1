"""Pages over TCP: who may read them, and what happens while their address is taken."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from controller.agent.complaints import Complaints
from controller.agent.web import WebServer, for_nodes_only
from controller.settings import ListenAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipam.address import IPAddress


async def hello(_request: web.Request) -> web.Response:
    """Answer a page."""
    return web.Response(text="hello")


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  any condition at all
            await asyncio.sleep(0.001)


async def test_a_taken_address_is_told_and_served_once_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent goes on meanwhile; the complaint names the address and ends with its reason."""
    monkeypatch.setattr("controller.agent.web._RETRY_SECONDS", 0.01)
    complaints = Complaints()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = ListenAddress("127.0.0.1", taken.getsockname()[1])
        running = asyncio.create_task(WebServer("the page", listen, {"/hello": hello}, complaints).run())
        await until(lambda: bool(complaints.sentences))
        assert str(listen) in complaints.sentences[0]
        assert "free it or set another" in complaints.sentences[0]
    await until(lambda: not complaints.sentences)
    async with aiohttp.ClientSession() as client, client.get(f"http://{listen}/hello") as answer:
        assert await answer.text() == "hello"
    async with aiohttp.ClientSession() as client, client.post(f"http://{listen}/hello") as answer:
        assert answer.status == 405
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with socket.create_server(("127.0.0.1", listen.port)):
        pass


@pytest.mark.parametrize(
    ("visitor", "answered"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("192.0.2.1", True),
        ("::ffff:192.0.2.1", True),
        ("192.0.2.2", False),
        ("fe80::1%eth0", False),
        (None, False),
    ],
)
async def test_only_nodes_and_this_host_read_what_is_for_nodes(visitor: str | None, answered: bool) -> None:  # noqa: FBT001  a parameter
    """A workload's address is refused, and so is a visitor without one."""

    def is_node(address: IPAddress) -> bool:
        return str(address) == "192.0.2.1"

    request = make_mocked_request("GET", "/").clone(remote=visitor)  # type: ignore[arg-type]  # None is none at all
    page = for_nodes_only(hello, is_node)
    if answered:
        assert (await page(request)).status == 200
    else:
        with pytest.raises(web.HTTPForbidden):
            await page(request)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":9091", ListenAddress("", 9091)),
        ("192.0.2.1:80", ListenAddress("192.0.2.1", 80)),
        ("[2001:db8::1]:80", ListenAddress("2001:db8::1", 80)),
        ("none", None),
    ],
)
def test_listen_addresses_are_read_and_shown_alike(text: str, expected: ListenAddress | None) -> None:
    """What is shown is what is written."""
    assert ListenAddress.parse(text) == expected
    if expected is not None:
        assert str(expected) == text


@pytest.mark.parametrize("text", ["", "9091", ":0", ":65536", ":-1", "localhost:80", "2001:db8::1:80", "1.2.3.4:x"])
def test_other_listen_addresses_are_refused(text: str) -> None:
    """The rule says what to write."""
    with pytest.raises(ValueError, match="write"):
        ListenAddress.parse(text)

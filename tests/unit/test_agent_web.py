"""Pages over TCP: who may read them, and what happens while their address is taken."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, asynccontextmanager, closing
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from controller.agent.complaints import Complaints
from controller.agent.web import WebServer, for_nodes_only
from controller.settings import ListenAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

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


@asynccontextmanager
async def served(page: Callable[[web.Request], Awaitable[web.Response]] = hello) -> AsyncIterator[ListenAddress]:
    """Serve a page until the context ends, and see that nothing went wrong in the server."""
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = ListenAddress("127.0.0.1", free.getsockname()[1])
    pages = {"/hello": hello, "/broken": page}
    running = asyncio.create_task(WebServer("the page", listen, pages, Complaints()).run())
    try:
        await until_answered(listen)
        yield listen
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not faults


async def answers(listen: ListenAddress) -> bool:
    """Whether the page is answered, over a connection of its own."""
    try:
        async with aiohttp.ClientSession() as client, client.get(f"http://{listen}/hello") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def until_answered(listen: ListenAddress) -> None:
    """Return as soon as the page is answered."""
    async with asyncio.timeout(30):
        while not await answers(listen):  # noqa: ASYNC110  the server tells nobody when it listens
            await asyncio.sleep(0.001)


async def connections(listen: ListenAddress, number: int, stack: ExitStack) -> list[socket.socket]:
    """Open so many connections, one after the other, which stay open on this side until the stack is closed."""
    loop, opened = asyncio.get_running_loop(), []
    for _ in range(number):
        opened.append(stack.enter_context(closing(socket.socket())))
        opened[-1].setblocking(False)
        await loop.sock_connect(opened[-1], (listen.host, listen.port))
    return opened


async def ended(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes a connection."""
    async with asyncio.timeout(30):
        return await asyncio.get_running_loop().sock_recv(connection, 1000)


async def test_one_address_has_a_few_connections_and_the_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So no container takes all of the agent's files; one that ends makes room for another."""
    monkeypatch.setattr("controller.agent.web._is_here", lambda _visitor: False)
    async with served() as listen:
        with ExitStack() as stack:
            opened = await connections(listen, 17, stack)
            assert await ended(opened[-1]) == b""
            opened[0].close()
            await until_answered(listen)
            # Those within the number were left alone.
            await asyncio.get_running_loop().sock_sendall(opened[1], b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await ended(opened[1])).startswith(b"HTTP/1.1 200 ")


async def test_this_hosts_own_programs_have_as_many_connections_as_they_like() -> None:
    """A tunnel for many browsers comes from here."""
    async with served() as listen:
        with ExitStack() as stack:
            await connections(listen, 100, stack)
            assert await answers(listen)


async def broken(_request: web.Request) -> web.Response:
    """Fail as a page must not."""
    raise RuntimeError("a fault of ours")


async def test_a_malformed_request_is_answered_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody who reaches the address fills the host's log with tracebacks."""
    async with served() as listen:
        with ExitStack() as stack:
            for request in (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", b"\x16\x03\x01\r\n\r\n"):
                (visitor,) = await connections(listen, 1, stack)
                await asyncio.get_running_loop().sock_sendall(visitor, request)
                assert (await ended(visitor)).startswith(b"HTTP/1.0 400 ")
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_a_fault_of_a_page_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback, and the visitor is told nothing of it."""
    async with (
        served(broken) as listen,
        aiohttp.ClientSession() as client,
        client.get(f"http://{listen}/broken") as answer,
    ):
        assert answer.status == 500
        assert "a fault of ours" not in await answer.text()
    assert "a fault of ours" in caplog.text


async def test_a_connection_without_a_request_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not one that begins a request and never ends it."""
    monkeypatch.setattr("controller.agent.web._IDLE_SECONDS", 0.05)
    async with served() as listen:
        with ExitStack() as stack:
            silent, slow = await connections(listen, 2, stack)
            await asyncio.get_running_loop().sock_sendall(slow, b"GET /hello HTTP/1.1\r\nHost:")
            assert [await ended(silent), await ended(slow)] == [b"", b""]


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

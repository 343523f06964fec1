"""How the status page is served: to whom, with which headers, and how its events arrive."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from controller.agent import page
from controller.agent.page import names_this_host, status_pages
from controller.agent.page_watch import View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class FakeWatch:
    """A view that a test sets."""

    def __init__(self) -> None:
        self.view = View(1, {"nodes": "[]", "log": "[1]"})
        self.looker_count = 0
        self.quiet_seconds = 0.25
        self._changed = asyncio.Event()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Count."""
        self.looker_count += 1
        try:
            yield
        finally:
            self.looker_count -= 1

    async def after(self, number: int) -> View:
        """Return the next view."""
        while self.view.number == number:
            self._changed.clear()
            await self._changed.wait()
        return self.view

    def show(self, **sections: str) -> None:
        """Set the next view."""
        self.view = View(self.view.number + 1, {**self.view.sections, **sections})
        self._changed.set()


@pytest.fixture
def watch() -> FakeWatch:
    """Return what stands for the watch."""
    return FakeWatch()


@pytest.fixture
async def client(watch: FakeWatch) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """Return a client of the page."""
    application = web.Application()
    for path, each in status_pages(watch).items():  # type: ignore[arg-type]  # stands for a Watch
        application.router.add_get(path, each)
    async with TestClient(TestServer(application)) as client:
        yield client


async def next_event(answer: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    """Return the name and content of the next event."""
    async with asyncio.timeout(30):
        name = (await answer.content.readline()).decode().removeprefix("event: ").strip()
        content = json.loads((await answer.content.readline()).decode().removeprefix("data: "))
        assert await answer.content.readline() == b"\n"
    return name, content


async def test_everything_the_page_names_is_there(client: TestClient[Any, Any]) -> None:
    """With its type and a policy that lets it load nothing from elsewhere; no script or style stands in the page."""
    index = await client.get("/")
    text = await index.text()
    names = {"/", *re.findall(r'(?:href|src)="([a-z.]+)"', text)}
    for script in ("main.js", "map.js", "tables.js", "pools.js", "sentences.js"):
        names |= set(re.findall(r'from "\./([a-z]+\.js)"', await (await client.get(f"/{script}")).text()))
    assert {"style.css", "main.js", "icon.svg", "dom.js", "map.js"} < names
    for name in names:
        answer = await client.get(f"/{name}" if name != "/" else "/")
        assert answer.status == 200, name
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        expected = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        assert answer.content_type == expected.get(name.rpartition(".")[2], "text/html")
    assert not re.search(r"<style|style=|\son[a-z]+=|<script>|https?://", text)


async def test_a_request_for_another_host_is_refused(client: TestClient[Any, Any]) -> None:
    """For the page as for its events, and the refusal says what to do; no page changes anything."""
    for path in ("/", "/events"):
        answer = await client.get(path, headers={"Host": "rebound.example"})
        assert answer.status == 421
        assert "localhost" in await answer.text()
    assert (await client.post("/")).status == 405


@pytest.mark.parametrize(
    ("host", "arrived_at", "expected"),
    [
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST:9092", "127.0.0.1", True),
        ("127.0.0.1:9092", "127.0.0.1", True),
        ("127.9.9.9", "127.0.0.1", True),
        ("[::1]:9092", "::1", True),
        ("[::1]", "127.0.0.1", True),
        ("192.0.2.1:9092", "192.0.2.1", True),
        ("192.0.2.1:9092", "::ffff:192.0.2.1", True),
        ("[2001:db8::1]:9092", "2001:db8::1", True),
        ("192.0.2.2:9092", "192.0.2.1", False),
        ("192.0.2.1:9092", "127.0.0.1", False),
        ("localhost.example", "127.0.0.1", False),
        ("127.0.0.1.example:9092", "127.0.0.1", False),
        ("example", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("[", "127.0.0.1", False),
        ("192.0.2.1", "", False),
    ],
)
def test_what_names_this_host(host: str, arrived_at: str, expected: bool) -> None:  # noqa: FBT001  a parameter
    """The loopback, and the address at which the request arrived."""
    assert names_this_host(host, arrived_at) is expected


async def test_events_tell_what_changed(client: TestClient[Any, Any], watch: FakeWatch) -> None:
    """All sections first, then those that are others; each with the time and how long all nodes were not asked."""
    async with client.get("/events") as answer:
        assert answer.content_type == "text/event-stream"
        name, content = await next_event(answer)
        assert (name, content["nodes"], content["log"], content["quiet_seconds"]) == ("view", [], [1], 0.25)
        assert content["at"] > 1_000_000_000
        watch.show(log="[1, 2]")
        name, content = await next_event(answer)
        assert (name, set(content) - {"at", "quiet_seconds"}, content["log"]) == ("view", {"log"}, [1, 2])


async def test_a_beat_comes_where_nothing_changes(
    client: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a page can tell that its agent is gone."""
    monkeypatch.setattr(page, "_BEAT_SECONDS", 0.01)
    async with client.get("/events") as answer:
        assert (await next_event(answer))[0] == "view"
        for _ in range(3):
            name, content = await next_event(answer)
            assert (name, set(content)) == ("beat", {"at", "quiet_seconds"})


async def test_who_has_left_looks_no_more(
    client: TestClient[Any, Any], watch: FakeWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked for somebody who is gone."""
    monkeypatch.setattr(page, "_BEAT_SECONDS", 0.01)
    async with client.get("/events") as answer:
        await next_event(answer)
        assert watch.looker_count == 1
        answer.close()
    async with asyncio.timeout(30):
        while watch.looker_count:  # noqa: ASYNC110  the count has no event
            await asyncio.sleep(0.01)


async def test_too_many_lookers_are_refused(client: TestClient[Any, Any], watch: FakeWatch) -> None:
    """With what to do about it."""
    watch.looker_count = 20
    answer = await client.get("/events")
    assert answer.status == 503
    assert "close one" in await answer.text()


async def test_other_sites_cannot_keep_it_busy(client: TestClient[Any, Any]) -> None:
    """A browser says where a request comes from; the page's own requests and those of tools pass."""
    assert (await client.get("/events", headers={"Sec-Fetch-Site": "cross-site"})).status == 403
    assert (await client.get("/events", headers={"Sec-Fetch-Site": "same-site"})).status == 403
    async with client.get("/events", headers={"Sec-Fetch-Site": "same-origin"}) as answer:
        assert answer.status == 200


async def test_a_look_at_the_headers_is_no_look_at_the_cluster(
    client: TestClient[Any, Any], watch: FakeWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEAD is answered and over: nothing would ever tell that the browser has gone."""
    monkeypatch.setattr(page, "_BEAT_SECONDS", 0.01)
    async with asyncio.timeout(30):
        answer = await client.head("/events")
    assert (answer.status, answer.content_type, watch.looker_count) == (200, "text/event-stream", 0)

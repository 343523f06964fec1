"""The status page: a page for people on `status_page_listen` that shows the cluster live and changes nothing.

    /          the page; its files lie in the directory status_page beside this module
    /events    what it shows, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
               `view` with those sections that are other than before, `beat` every second without one; both say when
               that was and how long ago all nodes had been asked

The page loads nothing from anywhere else and may be shown in no frame. A request that names another host than this one
is refused, so that no web site can make a browser read the page for it under a name that leads here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from importlib import resources
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.agent.page_watch import Watch
    from controller.agent.web import Page

_DIRECTORY: Final = "status_page"
_INDEX: Final = "index.html"
_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
#: How many may look at one time.
_MOST_LOOKERS: Final = 20
#: How long the page hears nothing while nothing changes, in seconds.
_BEAT_SECONDS: Final = 1.0
#: How long a browser may take to read what it was sent, in seconds.
_SLOWEST_SECONDS: Final = 10.0


def status_pages(watch: Watch) -> dict[str, Page]:
    """Return the page, its files, and the events that keep it true."""
    pages: dict[str, Page] = {"/events": _guarded(_events_of(watch))}
    for file in (resources.files(__package__) / _DIRECTORY).iterdir():
        path = "/" if file.name == _INDEX else f"/{file.name}"
        pages[path] = _guarded(_file_page(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]))
    return pages


def names_this_host(host: str, arrived_at: str) -> bool:
    """Tell whether a Host header names the loopback or the address at which its request arrived; the port is free.

    A site that has its own name lead here shows itself by that name (DNS rebinding); an address can be no such name.
    """
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
        return address.is_loopback or address == _plain(arrived_at)
    except ValueError:
        return False


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address that a socket gives; one that listens for both IP versions writes IPv4 as IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _guarded(page: Page) -> Page:
    """Return the page for requests that name this host, with the headers that every answer has."""

    async def answer(request: web.Request) -> web.StreamResponse:
        arrived_at = "" if request.transport is None else str(request.transport.get_extra_info("sockname")[0])
        if not names_this_host(request.headers.get("Host", ""), arrived_at):
            text = "ask for this page by the address that serves it, or as localhost through a tunnel\n"
            raise web.HTTPMisdirectedRequest(text=text, headers=_HEADERS)
        return await page(request)

    return answer


def _file_page(body: bytes, content_type: str) -> Page:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=_HEADERS)

    return answer


def _events_of(watch: Watch) -> Page:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise web.HTTPForbidden(text="only the status page itself may read its events\n", headers=_HEADERS)
        if watch.looker_count >= _MOST_LOOKERS:
            text = f"{_MOST_LOOKERS} browsers look already; close one of them\n"
            raise web.HTTPServiceUnavailable(text=text, headers=_HEADERS)
        headers = {**_HEADERS, "Content-Type": "text/event-stream"}
        if request.method == "HEAD":
            return web.Response(headers=headers)
        response = web.StreamResponse(headers=headers)
        with watch.looking():
            await response.prepare(request)
            try:
                await _send_views(watch, response)
            except (ConnectionResetError, TimeoutError):
                return response
        return response

    return answer


async def _send_views(watch: Watch, response: web.StreamResponse) -> None:
    """Send what changes until the browser is gone; one that reads too slowly misses what lies between."""
    sent: dict[str, str] = {}
    number = 0
    while True:
        try:
            async with asyncio.timeout(_BEAT_SECONDS):
                view = await watch.after(number)
        except TimeoutError:
            event, news = "beat", {}
        else:
            number, event = view.number, "view"
            news = {name: text for name, text in view.sections.items() if sent.get(name) != text}
            sent.update(news)
        async with asyncio.timeout(_SLOWEST_SECONDS):
            await response.write(_message(event, watch.quiet_seconds, news))


def _message(event: str, quiet_seconds: float, sections: Mapping[str, str]) -> bytes:
    """Return one event; the sections are JSON already and hold no line break."""
    numbers = {"at": time.time(), "quiet_seconds": quiet_seconds}
    parts = [f'"{name}": {value}' for name, value in {**numbers, **sections}.items()]
    return f"event: {event}\ndata: {{{', '.join(parts)}}}\n\n".encode()

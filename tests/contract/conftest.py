"""The three stores, each empty and two handles wide."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess
from controller.store.memory import MemoryStore
from controller.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from controller.ports import Store, WatchEvent


class Watched:
    """A watch whose events are taken one by one, each within a deadline."""

    def __init__(self, events: AsyncGenerator[WatchEvent, None]) -> None:
        self._events = events

    async def next(self) -> WatchEvent:
        """Return the next event."""
        return await asyncio.wait_for(anext(self._events), 30)

    async def ends(self) -> bool:
        """Return whether the watch ends without another event."""
        return await asyncio.wait_for(anext(self._events, None), 30) is None


class Dns:
    """A DNS server on a loopback port that is free for it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def resolved(self, name: str) -> set[str]:
        """Return the IPv4 addresses that it has for a name (RFC 1035, section 4.1)."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        header = bytes.fromhex("7474 0100 0001 0000 0000 0000")
        with socket.socket(type=socket.SOCK_DGRAM) as asking:
            asking.settimeout(10)
            asking.sendto(header + labels + bytes.fromhex("00 0001 0001"), ("127.0.0.1", self.port))
            answer = asking.recv(4096)
        count, records = int.from_bytes(answer[6:8]), answer[12 + len(labels) + 5 :]
        found = set()
        for _ in range(count):
            # A name that is written before takes two bytes here; then type, class, time to live, length and data.
            assert records[:6] == bytes.fromhex("c00c 0001 0001")
            found.add(socket.inet_ntoa(records[12:16]))
            records = records[16:]
        return found


@pytest.fixture
def dns() -> Dns:
    """Find a port for a server that a test starts."""
    with socket.socket(type=socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        return Dns(unused.getsockname()[1])


@pytest.fixture(params=["memory", "sqlite", "consul"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Give two handles on one store, as two processes would have them; the memory store has but one."""
    opened: list[Store]
    if request.param == "consul":
        access = ConsulAccess(address=request.getfixturevalue("consul_server").address)
        opened = [ConsulStore(access), ConsulStore(access)]
    elif request.param == "sqlite":
        opened = [SqliteStore(tmp_path / "store.db"), SqliteStore(tmp_path / "store.db")]
    else:
        opened = [MemoryStore()] * 2
    yield opened[0], opened[1]
    for store in opened:
        await store.close()


@pytest.fixture
def store(stores: tuple[Store, Store]) -> Store:
    """Give one handle."""
    return stores[0]


@pytest.fixture
def root() -> str:
    """Give a prefix that nobody else uses."""
    return f"test/{uuid4()}/"


@pytest.fixture
def watching() -> Callable[[Store, str], AbstractAsyncContextManager[Watched]]:
    """Watch a prefix of a store for as long as the context lasts."""

    @asynccontextmanager
    async def watch(store: Store, prefix: str) -> AsyncIterator[Watched]:
        events = store.watch(prefix)
        try:
            yield Watched(events)
        finally:
            await events.aclose()

    return watch

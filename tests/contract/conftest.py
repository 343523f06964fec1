"""The three stores, each empty and two handles wide."""

from __future__ import annotations

import asyncio
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

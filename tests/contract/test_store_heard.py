"""How old what a node knows of its store may be: every answer to a watch is heard, and silence is not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from controller.ports import Interrupted, Snapshot
from controller.store.opening import open_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["sqlite", "consul"])
async def test_an_answer_to_a_watch_is_heard_and_an_outage_is_not(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Heard as soon as there is something to deliver; a store that is not there is never heard."""
    server: Any = request.getfixturevalue("consul_server") if kind == "consul" else None
    for url, expected in (
        (f"sqlite:{tmp_path}/store.db" if server is None else server.address, Snapshot),
        (f"sqlite:{tmp_path}/none/store.db" if server is None else "http://127.0.0.1:1", Interrupted),
    ):
        heard = asyncio.Event()
        store = open_store(url, heard.set)
        async with asyncio.timeout(30), aclosing(store.watch("a/")) as events:
            assert isinstance(await anext(events), expected)
        await store.close()
        assert heard.is_set() == (expected is Snapshot)


async def test_a_quiet_file_is_heard_again_and_again(tmp_path: Path) -> None:
    """Nothing is delivered while nothing is written, and yet it is known that there is nothing."""
    third = asyncio.Event()
    count = 0

    def hear() -> None:
        nonlocal count
        count += 1
        if count == 3:
            third.set()

    store = open_store(f"sqlite:{tmp_path}/store.db", hear)
    async with asyncio.timeout(30), aclosing(store.watch("a/")) as events:
        assert isinstance(await anext(events), Snapshot)
        waiting = asyncio.create_task(anext(events))
        await third.wait()
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
    await store.close()

"""Alive and ready mean what they say."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import make_mocked_request

from controller.agent.api import BgpStatus, RoutesStatus, Status, StoreStatus
from controller.agent.health import ESSENTIAL_TASKS, Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def status(*problems: str, ready: bool) -> Status:
    """Return an agent's status."""
    store, routes = StoreStatus("consul", ready), RoutesStatus(True, 0)
    return Status("n1", "1", ready, problems, (), store, routes, BgpStatus(False), ())


@pytest.fixture
async def tasks() -> AsyncIterator[dict[str, asyncio.Task[Any]]]:
    """Run a task of each name that an agent cannot do without."""
    tasks = {name: asyncio.create_task(asyncio.Event().wait(), name=name) for name in ESSENTIAL_TASKS}
    yield tasks
    for task in tasks.values():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ask(health: Health, path: str) -> tuple[int, str | None]:
    """Return the status and the text of a page."""
    answer = await health.pages[path](make_mocked_request("GET", path))
    return answer.status, answer.text


@pytest.mark.usefixtures("tasks")
async def test_what_is_not_ready_is_alive_all_the_same() -> None:
    """A restart would bring back neither store nor pools; the reasons are told one a line."""
    health = Health(lambda: status("the store is away", "a route fails", ready=False))
    assert await ask(health, "/livez") == (200, "alive\n")
    assert await ask(health, "/readyz") == (503, "the store is away\na route fails\n")


@pytest.mark.usefixtures("tasks")
async def test_what_is_ready_may_have_problems() -> None:
    """A problem that stops no new workload does not keep any away."""
    health = Health(lambda: status("a route fails", ready=True))
    assert await ask(health, "/readyz") == (200, "ready\n")


@pytest.mark.parametrize("name", ESSENTIAL_TASKS)
async def test_an_agent_without_one_of_its_tasks_is_dead(tasks: dict[str, asyncio.Task[Any]], name: str) -> None:
    """Each does something that nobody else does, so a restart is right; the text names it."""
    tasks[name].cancel()
    await asyncio.wait([tasks[name]])
    assert await ask(Health(lambda: status(ready=True)), "/livez") == (503, f"task {name!r} has ended\n")

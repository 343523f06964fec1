"""Alive and ready mean what they say."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import make_mocked_request

from controller.agent.health import ESSENTIAL_TASKS, Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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
    """A restart would bring back neither store nor sessions; the reasons are told one a line."""
    health = Health(lambda: ("the store is away", "no session"))
    assert await ask(health, "/livez") == (200, "alive\n")
    assert await ask(health, "/readyz") == (503, "the store is away\nno session\n")


async def test_who_asks_often_is_given_the_same_answer() -> None:
    """For a second; the reasons are looked for once in that time, however many ask."""
    now, reasons, looks = [100.0], [("no session",), (), ()], []

    def look() -> tuple[str, ...]:
        looks.append(now[0])
        return reasons[len(looks) - 1]

    health = Health(look, clock=lambda: now[0])
    assert {await ask(health, "/readyz") for _ in range(10)} == {(503, "no session\n")}
    now[0] = 100.9
    assert await ask(health, "/readyz") == (503, "no session\n")
    now[0] = 101.0
    assert {await ask(health, "/readyz") for _ in range(10)} == {(200, "ready\n")}
    assert looks == [100.0, 101.0]


@pytest.mark.parametrize("name", ESSENTIAL_TASKS)
async def test_an_agent_without_one_of_its_tasks_is_dead(tasks: dict[str, asyncio.Task[Any]], name: str) -> None:
    """Each does something that nobody else does, so a restart is right; the text names it."""
    tasks[name].cancel()
    await asyncio.wait([tasks[name]])
    assert await ask(Health(tuple), "/livez") == (503, f"task {name!r} has ended\n")

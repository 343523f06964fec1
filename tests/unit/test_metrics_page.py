"""How often a scrape reads the agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp.test_utils import make_mocked_request

from controller.agent import metrics
from controller.agent.metrics import MetricsPage, Parts

if TYPE_CHECKING:
    import pytest


class Agent:
    """Counts how often it is read, and has nothing to tell."""

    def __init__(self) -> None:
        self.read_count = 0
        self.instruments = None

    def read(self) -> None:
        """Be read."""
        self.read_count += 1


async def test_scrapes_within_a_second_are_given_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come at once or in a row; afterwards the agent is read anew."""
    agent, now = Agent(), 100.0
    monkeypatch.setattr(metrics, "families", lambda _reading: ())
    monkeypatch.setattr(metrics, "exposition", lambda _found, _instruments: str(agent.read_count).encode())
    page = MetricsPage(cast("Parts", agent), lambda: now)
    request = make_mocked_request("GET", "/metrics")
    for since, text in ((0.0, b"1"), (0.9, b"1"), (1.0, b"2"), (1.9, b"2"), (5.0, b"3")):
        now = 100.0 + since
        assert {answer.body for answer in await asyncio.gather(*[page.answer(request) for _ in range(5)])} == {text}

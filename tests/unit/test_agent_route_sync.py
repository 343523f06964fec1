"""Routes that are wrong for long are told, and ordinary changes are not, however many there are."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.agent import route_sync
from controller.agent.route_sync import HOLD_SECONDS, RouteSync
from controller.ports import RouteFailure

if TYPE_CHECKING:
    from ipam.address import IPNetwork

PREFIX = ip_network("10.0.1.0/26")


class Routes:
    """What the programmer tells, and a clock."""

    def __init__(self) -> None:
        self.in_sync = asyncio.Event()
        self.failures: dict[IPNetwork, RouteFailure] = {}
        self.now = 1000.0
        self.sync = RouteSync(self.in_sync, lambda: self.failures, lambda: self.now)


@pytest.fixture
async def routes() -> Routes:
    """Routes that were right a moment ago."""
    return Routes()


async def test_routes_that_cannot_be_written_are_told_after_a_while(routes: Routes) -> None:
    """And not any more once they are right."""
    routes.now += HOLD_SECONDS - 1
    assert routes.sync.limitation() is None
    routes.now += 1
    assert routes.sync.limitation() == (
        "for 30 s the kernel's routes could not be brought in line; the agent's log says why"
    )
    routes.in_sync.set()
    assert routes.sync.limitation() is None
    routes.sync.look()
    routes.in_sync.clear()
    assert routes.sync.limitation() is None


async def test_a_route_that_is_refused_is_told_by_name(routes: Routes) -> None:
    """All the others may be right."""
    routes.in_sync.set()
    routes.failures[PREFIX] = RouteFailure(PREFIX, 101, "network is unreachable")
    routes.sync.look()
    assert routes.sync.limitation() is None
    routes.now += 45
    assert routes.sync.limitation() == (
        "for 45 s the kernel has not taken the route to 10.0.1.0/26: network is unreachable"
    )
    routes.failures.clear()
    assert routes.sync.limitation() is None


async def test_changes_that_follow_one_another_are_no_fault(routes: Routes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever anybody asks, a change is under way; but each is done soon."""
    monkeypatch.setattr(route_sync, "_LOOK_SECONDS", 0)
    looking = asyncio.create_task(routes.sync.run())
    for _ in range(100):
        routes.now += 1
        routes.in_sync.set()
        routes.in_sync.clear()
        for _ in range(5):
            await asyncio.sleep(0)
        assert routes.sync.limitation() is None
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)

"""When the packet filter is written, and what becomes of failures."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.agent import way_out as module
from controller.agent.complaints import Complaints
from controller.agent.way_out import WayOut
from controller.errors import PermanentError, TransientError
from controller.reconcile.firewall import table_body
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

WEB = Pool("web", ip_network("10.0.0.0/16"), 26, nat_outgoing=True)
WEB6 = Pool("web6", ip_network("fd00:1::/64"), 122)
LIMIT_SECONDS = 30


class Filter:
    """A host's packet filter, as far as the way out sees it."""

    def __init__(self) -> None:
        self.body = ""
        self.set_count = 0
        self.opened: list[set[int]] = []
        self.table_error: Exception | None = None
        self.forwarding_error: Exception | None = None

    async def read(self) -> str:
        """Return the table."""
        return self.body

    async def set(self, body: str) -> None:
        """Replace the table."""
        self.set_count += 1
        if self.table_error is not None:
            raise self.table_error
        self.body = body

    async def open_forwarding(self, versions: Collection[int]) -> None:
        """Take note of the versions."""
        self.opened.append(set(versions))
        if self.forwarding_error is not None:
            raise self.forwarding_error


@pytest.fixture
def packet_filter() -> Filter:
    """Return a filter without a table."""
    return Filter()


@pytest.fixture
def complaints() -> Complaints:
    """Return what the agent complains of."""
    return Complaints()


@pytest.fixture
def way_out(packet_filter: Filter, complaints: Complaints) -> WayOut:
    """Return the way out through this filter, not running."""
    return WayOut(table=packet_filter, open_forwarding=packet_filter.open_forwarding, complaints=complaints)


@pytest.fixture
async def running(way_out: WayOut) -> AsyncIterator[WayOut]:
    """Return the way out, which runs until the test ends."""
    task = asyncio.create_task(way_out.run())
    yield way_out
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110  any condition at all
            await asyncio.sleep(0)


async def rounds() -> None:
    """Let everything that is due run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_nothing_is_written_before_the_pools_are_known(running: WayOut, packet_filter: Filter) -> None:
    """An agent without its store leaves the filter as it found it."""
    await rounds()
    assert (packet_filter.set_count, packet_filter.opened) == (0, [])
    running.learn_pools(())
    await until(lambda: packet_filter.set_count == 1)


async def test_pools_that_change_are_applied_at_once_and_those_that_do_not_are_not(
    running: WayOut, packet_filter: Filter
) -> None:
    """A node that comes or goes in the cluster starts no program."""
    running.learn_pools((WEB,))
    await until(lambda: packet_filter.body == table_body((WEB,), "tor"))
    running.learn_pools((WEB,))
    await rounds()
    assert packet_filter.set_count == 1
    running.learn_pools((WEB, WEB6))
    await until(lambda: packet_filter.body == table_body((WEB, WEB6), "tor"))
    assert packet_filter.opened == [{4}, {4, 6}]


async def test_with_pools_that_are_not_known_a_table_stays_as_it_is(packet_filter: Filter, way_out: WayOut) -> None:
    """Without those it would masquerade too little and too much; where nothing is yet, it does what it can."""
    way_out.learn_pools((WEB,), complete=False)
    await way_out.apply()
    assert packet_filter.body == table_body((WEB,), "tor")
    packet_filter.body = before = table_body((WEB, WEB6), "tor")
    await way_out.apply()
    assert packet_filter.body == before
    way_out.learn_pools((WEB,))
    await way_out.apply()
    assert packet_filter.body != before


async def test_the_table_is_looked_at_again_without_a_hint(
    way_out: WayOut, packet_filter: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others took away comes back by itself."""
    monkeypatch.setattr(module, "_RESYNC_SECONDS", 0.001)
    way_out.learn_pools((WEB,))
    task = asyncio.create_task(way_out.run())
    await until(lambda: packet_filter.set_count == 1)
    packet_filter.body = ""
    await until(lambda: packet_filter.body == table_body((WEB,), "tor"))
    task.cancel()


async def test_a_failure_is_told_and_keeps_nothing_else_from_working(
    way_out: WayOut, packet_filter: Filter, complaints: Complaints
) -> None:
    """Both parts are tried whatever becomes of the other; a complaint lasts until its part works."""
    packet_filter.table_error = PermanentError("install nftables")
    packet_filter.forwarding_error = TransientError("iptables did not end")
    way_out.learn_pools((WEB,))
    assert not await way_out.apply()
    assert packet_filter.opened == [{4}]
    assert [sentence.rpartition(": ")[2] for sentence in complaints.sentences] == [
        "install nftables",
        "iptables did not end",
    ]
    packet_filter.table_error = None
    assert not await way_out.apply()
    assert len(complaints.sentences) == 1
    packet_filter.forwarding_error = None
    assert await way_out.apply()
    assert not complaints.sentences


async def test_a_failure_is_tried_again_soon(
    way_out: WayOut, packet_filter: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at the next look around."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    packet_filter.table_error = TransientError("nft did not end")
    way_out.learn_pools((WEB,))
    task = asyncio.create_task(way_out.run())
    await until(lambda: packet_filter.set_count == 2)
    packet_filter.table_error = None
    await until(lambda: packet_filter.body != "")
    task.cancel()

"""What a node has wired is in the store when it has changed, and its age tells that somebody looks."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from controller.agent import publishing
from controller.agent.complaints import Complaints
from controller.agent.publishing import REFRESH_SECONDS, EndpointPublisher
from controller.datamodel import keys
from controller.datamodel.endpoints import Endpoints, decode_endpoints
from controller.errors import KernelUnavailable, StoreUnavailable
from controller.ports import Delete
from controller.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from controller.ports import Operation, Version
    from ipam.address import IPAddress

KEY = keys.endpoints("n1")
ADDRESS = ipaddress.ip_address("10.0.0.1")


class Host(MemoryStore):
    """A store, and the kernel and clock of the host that writes to it; either fails when told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.wired: dict[str, tuple[IPAddress, ...]] = {"tor1": (ADDRESS,)}
        self.store_fails = self.kernel_fails = False
        self.commit_count = 0
        self.complaints = Complaints()
        self.publisher = EndpointPublisher(
            node="n1", store=self, read=self.read, clock=lambda: self.now, complaints=self.complaints
        )

    def read(self) -> Mapping[str, tuple[IPAddress, ...]]:
        """Return what is wired."""
        if self.kernel_fails:
            raise KernelUnavailable("staged")
        return dict(self.wired)

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Count and commit."""
        if self.store_fails:
            raise StoreUnavailable("staged")
        self.commit_count += 1
        return await super().commit(operations)

    async def published(self) -> Endpoints | None:
        """Return the record, None if there is none."""
        entry = (await self.get([KEY])).get(KEY)
        return None if entry is None else decode_endpoints(KEY, entry.value)


@pytest.fixture
async def host() -> AsyncGenerator[Host]:
    """Give a host with one workload."""
    host = Host()
    yield host
    await host.close()


async def test_the_first_look_is_published(host: Host) -> None:
    """With the time of the look."""
    await host.publisher.iterate()
    assert await host.published() == Endpoints("n1", 1000.0, {"tor1": (ADDRESS,)})


async def test_what_has_not_changed_is_not_written(host: Host) -> None:
    """Until it has become old; then it is, with the new time."""
    await host.publisher.iterate()
    host.now += REFRESH_SECONDS - 1
    await host.publisher.iterate()
    assert host.commit_count == 1
    host.now += 1
    await host.publisher.iterate()
    assert await host.published() == Endpoints("n1", 1000.0 + REFRESH_SECONDS, {"tor1": (ADDRESS,)})


async def test_every_change_is_written(host: Host) -> None:
    """A link more, an address less, no link at all."""
    steps: tuple[dict[str, tuple[IPAddress, ...]], ...] = (
        {"tor1": (ADDRESS,), "tor2": ()},
        {"tor1": (), "tor2": ()},
        {},
    )
    for wired in steps:
        host.now += 1
        host.wired = wired
        await host.publisher.iterate()
        assert await host.published() == Endpoints("n1", host.now, wired)


async def test_a_clock_that_was_set_back_writes_at_once(host: Host) -> None:
    """Else the record would be of the future for long."""
    await host.publisher.iterate()
    host.now -= 500
    await host.publisher.iterate()
    assert (await host.published()) == Endpoints("n1", 500.0, {"tor1": (ADDRESS,)})


async def test_what_could_not_be_written_is_written_later(host: Host) -> None:
    """A change that met a store that is away is still new."""
    await host.publisher.iterate()
    host.wired = {}
    host.store_fails = True
    with pytest.raises(StoreUnavailable):
        await host.publisher.iterate()
    host.store_fails = False
    await host.publisher.iterate()
    assert (await host.published()) == Endpoints("n1", 1000.0, {})


async def test_nothing_is_written_when_the_kernel_cannot_be_read(host: Host) -> None:
    """Not knowing is not having none."""
    await host.publisher.iterate()
    host.kernel_fails = True
    with pytest.raises(KernelUnavailable):
        await host.publisher.iterate()
    assert (await host.published()) == Endpoints("n1", 1000.0, {"tor1": (ADDRESS,)})


async def settled(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail when it does not in time."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0)


@pytest.mark.parametrize("failure", ["store_fails", "kernel_fails"])
async def test_the_loop_complains_and_goes_on(host: Host, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And publishes a change as soon as it is marked, without waiting for the next look."""
    monkeypatch.setattr(publishing, "_SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(publishing, "_LOOK_SECONDS", 3600.0)
    setattr(host, failure, True)
    running = asyncio.create_task(host.publisher.run())
    try:
        await settled(lambda: host.complaints.sentences != ())
        setattr(host, failure, False)
        await settled(lambda: host.commit_count == 1 and host.complaints.sentences == ())
        host.wired = {}
        host.publisher.mark()
        await settled(lambda: host.commit_count == 2)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_many_marks_make_one_writing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes within the shortest time is written together at its end."""
    monkeypatch.setattr(publishing, "_SHORTEST_SECONDS", 0.2)
    running = asyncio.create_task(host.publisher.run())
    try:
        await settled(lambda: host.commit_count == 1)
        for number in range(50):
            host.wired[f"tor{number}"] = ()
            host.publisher.mark()
            await asyncio.sleep(0)
        await settled(lambda: host.commit_count == 2)
        assert len(((await host.published()) or Endpoints("n1", 0.0)).addresses_by_link) == 50
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_record_that_was_taken_away_comes_back(host: Host) -> None:
    """With the next refresh."""
    await host.publisher.iterate()
    await host.commit([Delete(KEY, None)])
    host.now += REFRESH_SECONDS
    await host.publisher.iterate()
    assert await host.published() is not None

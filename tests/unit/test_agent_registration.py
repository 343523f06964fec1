"""The node's own record in the store."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from controller.agent import registration
from controller.agent.complaints import Complaints
from controller.agent.registration import Registration, register
from controller.datamodel import keys
from controller.datamodel.records import Node, decode_node, encode_node
from controller.errors import ConflictError, StoreUnavailable
from controller.ports import Delete, Put
from controller.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from controller.ports import Entry

NODE = Node("n1", 64512, IPv4Address("192.0.2.1"), None)
KEY = keys.node("n1")
ANCHOR = keys.share_anchor("n1")


class OvertakenStore(MemoryStore):
    """A store in which somebody else writes the record right after it was read."""

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries as they were before the other's writing."""
        found = await super().get(keys)
        await self.commit([Put(KEY, b"other", None)])
        return found


async def test_the_record_is_written_once_with_the_anchor_of_the_share() -> None:
    """A second time nothing is left to do, and nothing is written; the cluster's anchor is not the agent's."""
    store = MemoryStore()
    assert await register(store, NODE)
    before = await store.list(keys.ROOT)
    assert before[KEY].value == encode_node(NODE)
    assert before.keys() == {KEY, ANCHOR}
    assert not await register(store, NODE)
    assert await store.list(keys.ROOT) == before


@pytest.mark.parametrize("key", [KEY, ANCHOR])
async def test_what_was_taken_away_comes_back(key: str) -> None:
    """The record and the anchor, alone."""
    store = MemoryStore()
    await register(store, NODE)
    await store.commit([Delete(key, None)])
    assert await register(store, NODE)
    assert key in await store.get([key])


async def test_a_record_of_another_address_is_replaced_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The host was renumbered, or two hosts have one name: the operator learns both addresses."""
    store = MemoryStore()
    await register(store, replace(NODE, ipv4=IPv4Address("192.0.2.9")))
    with caplog.at_level(logging.WARNING):
        assert await register(store, NODE)
    assert (await store.get([KEY]))[KEY].value == encode_node(NODE)
    [record] = caplog.records
    assert "node_name" in record.message
    assert vars(record)["before"] == (IPv4Address("192.0.2.9"),)
    assert vars(record)["now"] == NODE.addresses


async def test_another_as_number_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    """The operator has set it."""
    store = MemoryStore()
    await register(store, replace(NODE, as_number=64999))
    with caplog.at_level(logging.WARNING):
        assert await register(store, NODE)
    assert (await store.get([KEY]))[KEY].value == encode_node(NODE)
    assert caplog.records == []


async def test_a_malformed_record_is_replaced_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else can do it."""
    store = MemoryStore()
    await store.commit([Put(KEY, b"{", None)])
    with caplog.at_level(logging.WARNING):
        assert await register(store, NODE)
    assert (await store.get([KEY]))[KEY].value == encode_node(NODE)
    assert KEY in vars(caplog.records[0])["reason"]


async def test_a_conflict_is_the_callers() -> None:
    """Who is overtaken has written nothing, and tries again."""
    store = OvertakenStore()
    with pytest.raises(ConflictError):
        await register(store, NODE)
    assert (await store.list(keys.ROOT)).keys() == {KEY}


class AbsentStore(MemoryStore):
    """A store that does not answer while `absent`."""

    absent = False

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Read, if it is there."""
        if self.absent:
            raise StoreUnavailable("staged")
        return await super().get(keys)

    async def recorded(self) -> Node | None:
        """Return the node as it is recorded, whether the store answers or not."""
        entry = (await super().get([KEY])).get(KEY)
        return None if entry is None else decode_node(KEY, entry.value)


async def test_new_labels_replace_the_old_ones(caplog: pytest.LogCaptureFixture) -> None:
    """An agent that starts with others registers anew, and nobody has to worry."""
    store = AbsentStore()
    for labels in ({}, {"rack": "a"}, {"rack": "b", "zone": "c"}, {}):
        with caplog.at_level(logging.WARNING):
            assert await register(store, replace(NODE, labels=labels))
        assert await store.recorded() == replace(NODE, labels=labels)
    assert caplog.records == []


async def settled(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail when it does not in time."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0)


async def test_the_record_is_kept_true(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A store that is away is complained of until it is back; a record that says something else is written anew."""
    monkeypatch.setattr(registration, "_RETRY_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    store, complaints = AbsentStore(), Complaints()
    store.absent = True
    labelled = replace(NODE, labels={"rack": "a"})
    kept = Registration(store, labelled, complaints)
    running = asyncio.create_task(kept.run())
    try:
        await settled(lambda: complaints.sentences == ("node could not be registered yet: staged",))
        store.absent = False
        await settled(lambda: caplog.text.count("node registered") == 1)
        await settled(lambda: complaints.sentences == ())
        kept.compare(await store.recorded())
        for other in (replace(labelled, labels={}), replace(labelled, labels={"rack": "b"})):
            caplog.clear()
            await store.commit([Put(KEY, encode_node(other), None)])
            kept.compare(other)
            await settled(lambda: "node registered" in caplog.text)
            assert await store.recorded() == labelled
        caplog.clear()
        await store.commit([Delete(KEY, None)])
        kept.compare(None)
        await settled(lambda: "node registered" in caplog.text)
        assert await store.recorded() == labelled
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

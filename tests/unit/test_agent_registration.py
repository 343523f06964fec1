"""The node's own record in the store."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from controller.agent.registration import register
from controller.datamodel import keys
from controller.datamodel.records import Node, encode_node
from controller.errors import ConflictError
from controller.ports import Delete, Put
from controller.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Collection

    from controller.ports import Entry

NODE = Node("n1", 64512, IPv4Address("192.0.2.1"), None)
KEY = keys.node("n1")
ANCHORS = (keys.CLUSTER_ANCHOR, keys.share_anchor("n1"))


class OvertakenStore(MemoryStore):
    """A store in which somebody else writes the record right after it was read."""

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries as they were before the other's writing."""
        found = await super().get(keys)
        await self.commit([Put(KEY, b"other", None)])
        return found


async def test_the_record_is_written_once_with_its_anchors() -> None:
    """A second time nothing is left to do, and nothing is written."""
    store = MemoryStore()
    assert await register(store, NODE)
    before = await store.get([KEY, *ANCHORS])
    assert before[KEY].value == encode_node(NODE)
    assert before.keys() == {KEY, *ANCHORS}
    assert not await register(store, NODE)
    assert await store.get([KEY, *ANCHORS]) == before


@pytest.mark.parametrize("key", [KEY, *ANCHORS])
async def test_what_was_taken_away_comes_back(key: str) -> None:
    """The record and each anchor, alone."""
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

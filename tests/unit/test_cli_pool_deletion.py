"""Deleting a pool: what goes with its blocks, and what stands in the way."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.assignment.transaction import block_operations
from controller.cli.pools import delete_pool
from controller.datamodel import keys
from controller.datamodel.records import decode_pool, encode_pool
from controller.errors import RefusedError
from controller.ports import ABSENT, Put
from controller.store.memory import MemoryStore
from ipam.block import Block, Holder, Rest
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.ports import Operation, Version

POOL = Pool("default", ip_network("10.244.0.0/16"), 26)
HOLDER = Holder("cni.tortie.1.eth0", "h1", "web", "shop", "tt0", 0.0, sticky=True)


async def _store_with(*blocks: Block) -> MemoryStore:
    store = MemoryStore()
    await fill(store, *blocks)
    return store


async def fill(store: MemoryStore, *blocks: Block) -> None:
    """Write the pool and these blocks."""
    await store.commit([Put(keys.pool(POOL.name), encode_pool(POOL), ABSENT)])
    for block in blocks:
        await store.commit(block_operations(None, block, version=ABSENT, writer=None))


async def test_summaries_and_shares_go_with_the_blocks() -> None:
    """Of empty blocks, of those with resting addresses, owned or nobody's, no key is left; others keep theirs."""
    owned = [Block.claimed(POOL.block_at(number), node=f"h{number % 3}", at=0.0) for number in range(40)]
    used, _ = Block.claimed(POOL.block_at(50), node=None, at=0.0).assign(HOLDER)
    nobodys = used.release([0], {0: Rest(1e12, HOLDER.full_name)})
    other = Block.claimed(ip_network("10.0.0.0/26"), node="h1", at=0.0)
    store = await _store_with(*owned, nobodys, other)
    await delete_pool(store, "default")
    left = set(await store.list(keys.ROOT)) - {keys.POOLS_REVISION}
    assert left == {keys.block(other.cidr), keys.usage(other.cidr), keys.owned("h1", other.cidr)}


@pytest.mark.parametrize("name", ["junk", "10.244.0.1-26", "10.244.0.0-26/more", "default"])
async def test_a_key_that_names_no_block_is_left_alone(name: str) -> None:
    """What lies among the blocks and is none stops no pool from being deleted."""
    store = await _store_with(Block.claimed(POOL.block_at(0), node="h1", at=0.0))
    await store.commit([Put(keys.BLOCKS + name, b"?", ABSENT)])
    await delete_pool(store, "default")
    assert set(await store.list(keys.ROOT)) == {keys.BLOCKS + name, keys.POOLS_REVISION}


async def test_a_block_that_cannot_be_read_is_named_and_saves_the_pool() -> None:
    """It may hold addresses: the refusal names its record and the way out, and nothing is changed."""
    store = await _store_with(Block.claimed(POOL.block_at(0), node="h1", at=0.0))
    key = keys.block(POOL.block_at(1))
    await store.commit([Put(key, b"?", ABSENT)])
    before = await store.list(keys.ROOT)
    with pytest.raises(RefusedError, match=rf"pool default.*{key}.*tortiectl ipam check"):
        await delete_pool(store, "default")
    assert await store.list(keys.ROOT) == before


class HaltingStore(MemoryStore):
    """A store that lets one commit, by its number, wait until it may go on, before it is done or after."""

    def __init__(self) -> None:
        super().__init__()
        self.commit_count = 0
        self.halt_at = 0
        self.done_before = False
        self.halted, self.go_on = asyncio.Event(), asyncio.Event()

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Apply the operations."""
        self.commit_count += 1
        if self.commit_count != self.halt_at:
            return await super().commit(operations)
        written = await super().commit(operations) if self.done_before else None
        self.halted.set()
        await self.go_on.wait()
        return written or await super().commit(operations)


@pytest.mark.parametrize("done_before", [False, True])
async def test_an_interrupted_deletion_leaves_the_pool_enabled(*, done_before: bool) -> None:
    """Whichever write it is interrupted in, and whether that was done or not; or else the pool is gone."""

    async def interrupted(at: int) -> HaltingStore:
        store = HaltingStore()
        await fill(store, *(Block.claimed(POOL.block_at(number), node="h1", at=0.0) for number in range(20)))
        store.commit_count, store.halt_at, store.done_before = 0, at, done_before
        deleting = asyncio.create_task(delete_pool(store, "default"))
        halting = asyncio.create_task(store.halted.wait())
        await asyncio.wait({deleting, halting}, return_when=asyncio.FIRST_COMPLETED)
        halting.cancel()
        deleting.cancel()
        store.go_on.set()
        await asyncio.wait({deleting})
        assert deleting.cancelled() is store.halted.is_set()
        return store

    writes = (await interrupted(0)).commit_count
    assert writes > 3
    for at in range(1, writes + 1):
        entries = await (await interrupted(at)).list(keys.POOLS)
        pools = [decode_pool(key, entry.value) for key, entry in entries.items()]
        assert pools == ([] if done_before and at == writes else [POOL]), f"write {at}"

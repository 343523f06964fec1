"""Deleting a pool: what goes with its blocks, and what stands in the way."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from controller.assignment.transaction import block_operations
from controller.cli.pools import delete_pool
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.errors import RefusedError
from controller.ports import ABSENT, Put
from controller.store.memory import MemoryStore
from ipam.block import Block, Holder, Rest
from ipam.pool import Pool

POOL = Pool("default", ip_network("10.244.0.0/16"), 26)
HOLDER = Holder("cni.tortie.1.eth0", "h1", "web", "shop", "tt0", 0.0, sticky=True)


async def _store_with(*blocks: Block) -> MemoryStore:
    store = MemoryStore()
    await store.commit([Put(keys.pool(POOL.name), encode_pool(POOL), ABSENT)])
    for block in blocks:
        await store.commit(block_operations(None, block, version=ABSENT, writer=None))
    return store


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

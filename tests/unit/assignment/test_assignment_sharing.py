"""Nodes that share a pool's blocks: borrowing, taking over what nobody uses, and who hears of it."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

import pytest

from controller.assignment.node_deletion import delete_node
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.ports import Delete, Put
from ipam.configuration import IpamConfiguration
from ipam.errors import PoolExhausted

if TYPE_CHECKING:
    from tests.unit.assignment.conftest import Fault, World

ONLY = ipaddress.ip_network("10.0.0.0/30")
STRICT = IpamConfiguration(strict_affinity=True)


async def test_a_full_pool_lends_out_of_a_block_of_another_node(world: World) -> None:
    """The borrower and the owner both know of it, a repeated request changes nothing, and a release undoes it."""
    await world.add_pool("v4", str(ONLY), 30)
    async with world.following("n1") as owner, world.following("n2") as borrower:
        (own,) = (await owner.assign(world.request("a"))).addresses
        (borrowed,) = (await borrower.assign(world.request("b"))).addresses
        assert await world.check() == {"a": [("n1", own)], "b": [("n2", borrowed)]}
        await world.until(lambda: owner.own_blocks()[0].in_use == 2)
        assert (set(owner.holders()), set(borrower.holders())) == ({own}, {borrowed})
        assert (borrower.own_blocks(), [block.cidr for block in borrower.blocks()]) == ((), [ONLY])
        before = await world.block(ONLY)
        assert (await borrower.assign(world.request("b"))).addresses == (borrowed,)
        assert await world.block(ONLY) == before
        assert await borrower.release("b") == (borrowed,)
        await world.until(lambda: owner.own_blocks()[0].in_use == 1)
        assert borrower.blocks() == ()
    assert await world.check() == {"a": [("n1", own)]}


async def test_a_borrowed_address_is_known_after_a_restart(world: World) -> None:
    """The borrower finds what it borrowed below its own share, and asked again gives the same address."""
    await world.add_pool("v4", str(ONLY), 30)
    async with world.following("n1") as owner, world.following("n2") as borrower:
        await owner.assign(world.request("a"))
        borrowed = await borrower.assign(world.request("b"))
    async with world.following("n2") as borrower:
        assert tuple(borrower.holders()) == borrowed.addresses
        assert await borrower.assign(world.request("b")) == borrowed


async def test_an_address_goes_on_being_held_when_the_blocks_owner_is_deleted(world: World) -> None:
    """The block is then nobody's, and goes with the last address held in it."""
    await world.add_pool("v4", str(ONLY), 30)
    async with world.following("n1") as owner, world.following("n2") as borrower, world.following("n3") as other:
        await owner.assign(world.request("a"))
        borrowed = await borrower.assign(world.request("b"))
        await other.assign(world.request("c"))
        await owner.close()
        await delete_node(world.store, "n1")
        assert (await world.block(ONLY)).affinity is None
        assert await borrower.assign(world.request("b")) == borrowed
        await borrower.release("b")
        assert set(await world.check()) == {"c"}
        await other.release("c")
    assert await world.check() == {}
    assert await world.store.list(keys.BLOCKS) == {}


async def test_strict_affinity_refuses_to_borrow_and_says_so(world: World) -> None:
    """What is left in blocks of others is not given, and the refusal says why; switched off, it is."""
    await world.add_pool("v4", str(ONLY), 30)
    await world.configure(STRICT)
    async with world.following("n1") as owner, world.following("n2") as other:
        await owner.assign(world.request("a"))
        with pytest.raises(PoolExhausted, match="strict affinity"):
            await other.assign(world.request("b"))
        await world.configure(IpamConfiguration())
        await world.feed_rules(other)
        await other.assign(world.request("b"))
        await world.configure(STRICT)
        await world.feed_rules(other)
        with pytest.raises(PoolExhausted, match="strict affinity"):
            await other.assign(world.request("c"))
    assert set(await world.check()) == {"a", "b"}


async def test_a_node_with_all_the_blocks_it_may_own_borrows(world: World) -> None:
    """At the limit no block is claimed although there are some, and addresses come from blocks of others."""
    await world.add_pool("v4", "10.0.0.0/28", 30)
    await world.configure(IpamConfiguration(max_blocks_per_node=1))
    async with world.following("n1") as node, world.following("n2") as other:
        await other.assign(world.request("theirs"))
        for number in range(5):
            await node.assign(world.request(f"h{number}"))
        assert len(node.own_blocks()) == 1
        assert {block.affinity for block in node.blocks()} == {"n1", "n2"}
    assert len(await world.check()) == 6


async def test_an_empty_block_of_another_node_is_taken_over_after_a_minute(world: World) -> None:
    """Not before, for its first workload is on its way; the former owner hears of it and is refused."""
    await world.add_pool("v4", str(ONLY), 30)
    await world.configure(STRICT)
    async with world.following("n1") as former, world.following("n2") as next_owner:
        await former.assign(world.request("a"))
        await former.release("a")
        world.now += 59
        with pytest.raises(PoolExhausted):
            await next_owner.assign(world.request("b"))
        world.now += 1
        await next_owner.assign(world.request("b"))
        assert [block.cidr for block in next_owner.own_blocks()] == [ONLY]
        await world.until(lambda: not former.own_blocks())
        with pytest.raises(PoolExhausted):
            await former.assign(world.request("c"))
    assert set(await world.check()) == {"b"}


async def test_a_former_owner_that_has_not_heard_yet_assigns_nothing_twice(world: World) -> None:
    """It finds out by a conflict that the block is another's now, and borrows from it."""
    await world.add_pool("v4", str(ONLY), 30)
    async with world.started("n1") as former, world.following("n2") as next_owner:
        await former.assign(world.request("a"))
        await former.release("a")
        world.now += 60
        await next_owner.assign(world.request("b"))
        assert former.own_blocks()
        await former.assign(world.request("c"))
        assert (former.counters.conflict_count, former.own_blocks()) == (1, ())
    assert {handle: found[0][0] for handle, found in (await world.check()).items()} == {"b": "n2", "c": "n1"}


async def test_a_block_that_vanishes_after_it_was_listed_is_claimed(world: World) -> None:
    """A block given up between the list of all and the reading of it is no reason to refuse."""
    await world.add_pool("v4", str(ONLY), 30)

    key = keys.block(ONLY)
    asked: list[str] = []

    async def vanish(operation: str) -> Fault:
        present = await world.store.get([key])
        asked.append(operation)
        # The first claim fails and its block is read; then all are listed, and what is listed is read.
        if asked[-4:] == ["commit", "get", "list", "get"]:
            block = await world.block(ONLY)
            await world.store.commit(block_operations(block, None, version=present[key].version, writer=None))
        return world.Fault.NONE

    async with world.started("n1") as owner:
        await owner.assign(world.request("a"))
    async with world.started("n2", vanish) as node:
        await world.feed_rules(node)
        await node.assign(world.request("b"))
        assert asked[-5:] == ["commit", "get", "list", "get", "commit"]
        assert [block.cidr for block in node.own_blocks()] == [ONLY]
    assert set(await world.check()) == {"b"}


async def test_a_foreign_block_that_cannot_be_read_is_left_alone_until_it_is_restored(world: World) -> None:
    """Neither it nor an address in it is given; the refusal names it; restored, it lends again."""
    await world.add_pool("v4", str(ONLY), 30)
    async with world.following("n1") as owner, world.following("n2") as node:
        await owner.assign(world.request("a"))
        key = keys.block(ONLY)
        good = (await world.store.get([key]))[key].value
        await world.store.commit([Put(key, b"?", None)])
        with pytest.raises(PoolExhausted):
            await node.assign(world.request("b"))
        with pytest.raises(Exception, match=r"block 10\.0\.0\.0/30, whose record cannot be read"):
            await node.assign(world.request("b", address="10.0.0.3"))
        assert (await world.store.get([key]))[key].value == b"?"
        await world.store.commit([Put(key, good, None)])
        await node.assign(world.request("b"))
    assert set(await world.check()) == {"a", "b"}


@pytest.mark.parametrize("damage", ["malformed", "missing"])
async def test_blocks_with_a_damaged_summary_stop_nobody(world: World, damage: str) -> None:
    """Whether it makes no sense or is not there: nothing is claimed twice, an address is found, a write repairs it."""
    pool = await world.add_pool("v4", "10.0.0.0/27", 30)
    async with world.following("n1") as owner:
        await asyncio.gather(*(owner.assign(world.request(f"h{number}")) for number in range(29)))
        assert len(owner.own_blocks()) == pool.block_count
    await world.store.commit(
        [
            Delete(key, None) if damage == "missing" else Put(key, b"?", None)
            for key in await world.store.list(keys.USAGE)
        ]
    )
    async with world.following("n2") as node:
        (address,) = (await node.assign(world.request("b"))).addresses
        # One by one, or after the list of all has told of them.
        assert node.counters.conflict_count == (pool.block_count if damage == "missing" else 2)
    block = await world.block(pool.block_of(address))
    assert (block.affinity, block.in_use) == ("n1", 2)
    assert await world.store.get([keys.usage(block.cidr)]) != {}


async def test_news_of_one_block_reads_that_block_alone(world: World) -> None:
    """An owner out of whose blocks others borrow reads only those, and nobody who waits has to wait for more."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    asked: list[str] = []

    async def note(operation: str) -> Fault:
        asked.append(operation)
        return world.Fault.NONE

    async with world.following("n1", note) as owner, world.following("n2") as borrower:
        await asyncio.gather(*(owner.assign(world.request(f"h{number}")) for number in range(7)))
        asked.clear()
        (borrowed,) = (await borrower.assign(world.request("b"))).addresses
        await world.until(lambda: sum(block.in_use for block in owner.own_blocks()) == 8)
        assert asked == ["get"]
        assert borrowed not in owner.holders()


async def test_what_was_read_of_others_is_not_trusted_the_next_time(world: World) -> None:
    """A block that was looked at for one request is read again for the next: its node goes on writing it."""
    await world.add_pool("v4", str(ONLY), 30)
    async with world.following("n1") as owner, world.following("n2") as borrower:
        await owner.assign(world.request("a"))
        await borrower.assign(world.request("b"))
        await borrower.release("b")
        conflict_count = borrower.counters.conflict_count
        await owner.assign(world.request("c"))
        await borrower.assign(world.request("d"))
        assert borrower.counters.conflict_count == conflict_count
    assert set(await world.check()) == {"a", "c", "d"}


async def test_reading_blocks_of_others_wakes_nobody(world: World) -> None:
    """Whoever listens is told of the node's own blocks and addresses, not of what was looked at for a decision."""
    await world.add_pool("v4", str(ONLY), 30)
    await world.configure(STRICT)
    async with world.following("n1") as owner, world.following("n2") as node:
        await owner.assign(world.request("a"))
        told: list[bool] = []
        node.on_change(lambda: told.append(True))
        with pytest.raises(PoolExhausted):
            await node.assign(world.request("b"))
        with pytest.raises(Exception, match="strict affinity"):
            await node.assign(world.request("b", address="10.0.0.3"))
        assert told == []

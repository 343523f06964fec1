"""One node's assigner: what it answers, what it keeps in memory, and how much it asks of the store."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

import pytest

from controller.assignment.knowledge import Rules
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.errors import TransientError
from controller.ports import ABSENT, MAX_VALUE_BYTES, Changes, Delete, Put, Snapshot
from ipam.block import Block
from ipam.errors import NoPool, PoolExhausted, UnknownPool

if TYPE_CHECKING:
    from tests.unit.assignment.conftest import Fault, World


async def test_an_assignment_is_in_the_store_when_it_is_answered(world: World) -> None:
    """Both families are given, committed with their blocks and share keys, and shown as this node's."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    await world.add_pool("v6", "fd00::/64", 122)
    async with world.started("n1") as assigner:
        assignment = await assigner.assign(world.request("a", (4, 6)))
        assert [address.version for address in assignment.addresses] == [4, 6]
        assert await world.check() == {"a": [("n1", address) for address in assignment.addresses]}
        assert list(assigner.holders()) == list(assignment.addresses)
        assert [block.version for block in assigner.own_blocks()] == [4, 6]


async def test_assign_and_release_are_idempotent(world: World) -> None:
    """Assigning again gives the same addresses, releasing again gives none, also after a restart."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    async with world.started("n1") as assigner:
        first = await assigner.assign(world.request("a"))
        assert await assigner.assign(world.request("a")) == first
    async with world.started("n1") as assigner:
        assert await assigner.assign(world.request("a")) == first
        assert await assigner.release("a") == first.addresses
        assert await assigner.release("a") == ()
        assert await world.check() == {}
        assert assigner.holders() == {}


async def test_everybody_who_waits_shares_one_transaction(world: World) -> None:
    """A hundred requests at once are one commit, and with a block of its own the node reads nothing before it."""
    await world.add_pool("v4", "10.0.0.0/16", 24)
    asked: list[str] = []

    async def note(operation: str) -> Fault:
        asked.append(operation)
        return world.Fault.NONE

    async with world.started("n1", note) as assigner:
        await assigner.assign(world.request("first"))
        asked.clear()
        await asyncio.gather(*(assigner.assign(world.request(f"h{number}")) for number in range(100)))
        assert asked == ["commit"]
    assert len(await world.check()) == 101


async def test_more_than_one_transaction_holds_is_split(world: World) -> None:
    """Requests that claim more blocks than one transaction can are served by several."""
    for number in range(3):
        await world.add_pool(f"p{number}", f"10.{number}.0.0/24", 28)
        await world.add_pool(f"q{number}", f"fd00:{number}::/64", 124)
    async with world.started("n1") as assigner:
        await asyncio.gather(*(assigner.assign(world.request(f"h{number}", (4, 6))) for number in range(320)))
        assert len(assigner.own_blocks()) == 40
        await asyncio.gather(*(assigner.release(f"h{number}") for number in range(320)))
    assert await world.check() == {}


async def test_records_too_large_for_one_transaction_are_split(world: World) -> None:
    """Requests whose blocks would make a transaction larger than a store takes are served by several."""
    await world.add_pool("v4", "10.0.0.0/16", 26)
    async with world.started("n1") as assigner:
        handles = [f"{number:0500}" for number in range(640)]
        await asyncio.gather(*(assigner.assign(world.request(handle)) for handle in handles))
    assert len(await world.check()) == 640


async def test_a_block_whose_record_grows_too_large_gives_way_to_another(world: World) -> None:
    """The largest blocks lend addresses for as long as their record fits into a value, then the next block does."""
    await world.add_pool("v4", "10.0.0.0/16", 20)
    async with world.started("n1") as assigner:
        for start in range(0, 1500, 300):
            handles = [f"{number:064}" for number in range(start, start + 300)]
            await asyncio.gather(*(assigner.assign(world.request(handle)) for handle in handles))
        assert len(assigner.own_blocks()) > 1
    assert len(await world.check()) == 1500
    assert all(len(entry.value) < MAX_VALUE_BYTES for entry in (await world.store.list(keys.BLOCKS)).values())


async def test_one_refusal_leaves_the_others_alone(world: World) -> None:
    """Of requests that wait together each gets its own answer."""
    await world.add_pool("v4", "10.0.0.0/31", 31)
    async with world.started("n1") as assigner:
        outcomes = await asyncio.gather(
            *(
                assigner.assign(request)
                for request in (
                    world.request("a"),
                    world.request("b", (4, 6)),
                    world.request("c", pools=("nope",)),
                    world.request("d"),
                    world.request("e"),
                )
            ),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes[1:3]] == [NoPool, UnknownPool]
    assert isinstance(outcomes[4], PoolExhausted)
    assert set(await world.check()) == {"a", "d"}


async def test_a_pool_created_a_moment_ago_is_found(world: World) -> None:
    """A refusal is given only on pools read after the request came: the watch may lag behind."""
    async with world.started("n1") as assigner:
        with pytest.raises(NoPool, match="node n1"):
            await assigner.assign(world.request("a"))
        pool = await world.add_pool("v4", "10.0.0.0/31", 31)
        assert (await assigner.assign(world.request("a"))).addresses[0] in pool.cidr


async def test_nothing_is_claimed_from_a_pool_that_is_gone(world: World) -> None:
    """A pool deleted after the watch told of it gives no block: the claim is tied to the pool's version."""
    pool = await world.add_pool("v4", "10.0.0.0/24", 28)
    version = (await world.store.get([keys.pool("v4")]))[keys.pool("v4")].version
    async with world.started("n1") as assigner:
        assigner.set_rules(Rules({"v4": (pool, version)}))
        await world.store.commit([Delete(keys.pool("v4"), None)])
        with pytest.raises(NoPool, match="node n1"):
            await assigner.assign(world.request("a"))
    assert await world.check() == {}


async def test_a_full_store_is_found_out_without_reading_blocks(world: World) -> None:
    """When others own nearly every block the last free one is found in a handful of operations, not by trying each."""
    pool = await world.add_pool("v4", "10.0.0.0/20", 32)
    cidrs = list(ipaddress.IPv4Network("10.0.0.0/20").subnets(new_prefix=32))
    for cidr in cidrs[:100] + cidrs[101:]:
        block, _ = Block.claimed(cidr, node="n2", at=0.0).assign(world.request(str(cidr)).holder(node="n2", at=0.0))
        await world.store.commit(block_operations(None, block, version=ABSENT, writer=None))
    asked: list[str] = []

    async def note(operation: str) -> Fault:
        asked.append(operation)
        return world.Fault.NONE

    version = (await world.store.get([keys.pool("v4")]))[keys.pool("v4")].version
    async with world.started("n1", note) as assigner:
        assigner.set_rules(Rules({"v4": (pool, version)}))
        assert (await assigner.assign(world.request("a"))).addresses == (cidrs[100][0],)
        with pytest.raises(PoolExhausted, match="4096 of 4096 blocks"):
            await assigner.assign(world.request("b"))
    assert len(asked) < 25


async def test_what_others_change_is_noticed(world: World) -> None:
    """A share key written by somebody else makes the block be read again; the assigner's own echo does not."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    changed = asyncio.Event()
    async with world.started("n1") as assigner:
        assigner.on_change(changed.set)
        await assigner.assign(world.request("a"))
        assert changed.is_set()
        changed.clear()
        share = await world.store.list(keys.share("n1"))
        assigner.observe_share(Snapshot(share))
        await assigner.release("nothing")
        assert not changed.is_set()
        (cidr,) = (block.cidr for block in assigner.own_blocks())
        await world.store.commit([Delete(keys.block(cidr), None), Delete(keys.owned("n1", cidr), None)])
        assigner.observe_share(Changes({}, frozenset(share)))
        async with asyncio.timeout(10):
            await changed.wait()
        assert assigner.holders() == {}
        assert assigner.own_blocks() == ()


async def test_an_address_that_somebody_else_releases_goes_from_memory(world: World) -> None:
    """Whoever changes another node's block writes its share key too, and that makes the node read the block again."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    changed = asyncio.Event()
    async with world.started("n1") as assigner:
        kept = await assigner.assign(world.request("kept"))
        await assigner.assign(world.request("gone"))
        assigner.on_change(changed.set)
        ((key, entry),) = (await world.store.list(keys.BLOCKS)).items()
        before = decode_block(key, entry.value)
        after = before.release(before.ordinals_of_handle("gone"))
        share_before = await world.store.list(keys.share("n1"))
        await world.store.commit(block_operations(before, after, version=entry.version, writer=None))
        share = await world.store.list(keys.share("n1"))
        assert share != share_before
        assigner.observe_share(Changes(share, frozenset()))
        async with asyncio.timeout(10):
            await changed.wait()
        assert set(assigner.holders()) == set(kept.addresses)


async def test_an_address_released_behind_its_back_is_not_handed_out_as_held(world: World) -> None:
    """Asked again for what it believes is assigned, the assigner makes sure, and assigns anew if it is not."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    async with world.started("n1") as assigner, world.started("n1") as other:
        await assigner.assign(world.request("a"))
        await other.assign(world.request("b"))
        await other.release("a")
        again = await assigner.assign(world.request("a"))
        held = await world.check()
        assert held["a"] == [("n1", again.addresses[0])]
        assert set(held) == {"a", "b"}


async def test_a_cancelled_request_is_not_planned(world: World) -> None:
    """A request cancelled while it waits leaves nothing, and those beside it are served."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    async with world.started("n1") as assigner:
        cancelled = asyncio.ensure_future(assigner.assign(world.request("a")))
        kept = asyncio.ensure_future(assigner.assign(world.request("b")))
        await asyncio.sleep(0)
        cancelled.cancel()
        await kept
        assert set(await world.check()) <= {"a", "b"}
        await assigner.release("a")
    assert set(await world.check()) == {"b"}


async def test_a_block_that_cannot_be_read_stops_nobody(world: World) -> None:
    """A malformed block of the node's own is left alone, and addresses come from another one."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    async with world.started("n1") as assigner:
        await assigner.assign(world.request("a"))
        (cidr,) = (block.cidr for block in assigner.own_blocks())
    await world.store.commit([Put(keys.block(cidr), b"?", None)])
    async with world.started("n1") as assigner:
        assignment = await assigner.assign(world.request("b"))
        assert assignment.addresses[0] not in cidr
    assert (await world.store.get([keys.block(cidr)]))[keys.block(cidr)].value == b"?"


async def test_who_holds_an_address_of_a_block_that_cannot_be_read_any_more_holds_it_on(world: World) -> None:
    """A slip in a record takes nobody's route away: the block counts as it was until it is mended or gone."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    async with world.started("n1") as assigner:
        (address,) = (await assigner.assign(world.request("a"))).addresses
        (block,) = assigner.own_blocks()
        key = keys.block(block.cidr)
        whole = (await world.store.get([key]))[key].value
        changes: list[int] = []
        assigner.on_change(lambda: changes.append(len(assigner.holders())))
        await world.store.commit([Put(key, b"?", None)])
        (other,) = (await assigner.assign(world.request("b"))).addresses
        assert other not in block.cidr
        assert {address, other} == assigner.holders().keys()
        assert block in assigner.own_blocks()
        assert block in assigner.blocks()
        assert set(changes) == {2}
        share = keys.share("n1")
        for value in (b"?", whole):
            await world.store.commit([Put(key, value, None)])
            assigner.observe_share(Snapshot(await world.store.list(share)))
            await assigner.probe(world.request("c"))
            assert {address, other} == assigner.holders().keys()
        assert await assigner.release("a") == (address,)
        await assigner.assign(world.request("a"))
        await world.store.commit([Put(key, b"?", None)])
        assigner.observe_share(Snapshot(await world.store.list(share)))
        await assigner.assign(world.request("d"))
        await world.store.commit([Delete(key, None)])
        await assigner.probe(world.request("c"))
        assert all(each not in block.cidr for each in assigner.holders())


@pytest.mark.parametrize("owned", [True, False])
async def test_what_could_not_be_read_since_the_start_is_known_as_the_nodes(world: World, *, owned: bool) -> None:
    """The share tells whose the block is; that it is mended or gone is heard of with the next request."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    async with world.following("n1") as other, world.started("n2") as node:
        await other.assign(world.request("a"))
        (block,) = other.own_blocks()
        free = next(address for address in block.cidr if address not in other.holders())
        await node.assign(world.request("b", address=str(free)))
    name = "n1" if owned else "n2"
    key = keys.block(block.cidr)
    whole = (await world.store.get([key]))[key].value
    await world.store.commit([Put(key, b"?", None)])
    async with world.started(name) as assigner:
        changes: list[int] = []
        assigner.on_change(lambda: changes.append(len(assigner.unread_blocks())))
        for value in (b"?", b"!"):
            await world.store.commit([Put(key, value, None)])
            assigner.observe_share(Snapshot(await world.store.list(keys.share(name))))
            await assigner.probe(world.request("c"))
            assert assigner.unread_blocks() == {block.cidr: owned}
            assert assigner.unreadable_blocks() == (block.cidr,)
            assert block.cidr not in [each.cidr for each in assigner.blocks()]
        await world.store.commit([Put(key, whole, None)])
        await assigner.probe(world.request("c"))
        assert (assigner.unread_blocks(), assigner.unreadable_blocks()) == ({}, ())
        assert block.cidr in [each.cidr for each in assigner.blocks()]
        assert changes == [0]
    await world.store.commit([Put(key, b"?", None)])
    async with world.started(name) as assigner:
        share = keys.owned(name, block.cidr) if owned else keys.held(name, block.cidr)
        await world.store.commit([Delete(key, None), Delete(share, None)])
        assigner.observe_share(Snapshot(await world.store.list(keys.share(name))))
        await assigner.probe(world.request("c"))
        assert assigner.unread_blocks() == {}


async def test_without_start_requests_are_turned_away(world: World) -> None:
    """A request to an assigner that has been closed fails at once instead of waiting for ever."""
    async with world.started("n1") as assigner:
        pass
    with pytest.raises(TransientError, match="not running"):
        await assigner.assign(world.request("a"))


async def test_the_block_record_says_who_holds_what(world: World) -> None:
    """Workload, namespace, interface, node and time of an assignment stand in the block's record."""
    await world.add_pool("v4", "10.0.0.0/24", 28)
    async with world.started("n1") as assigner:
        await assigner.assign(world.request("a"))
    ((key, entry),) = (await world.store.list(keys.BLOCKS)).items()
    ((_, holder),) = decode_block(key, entry.value).assignments()
    assert (holder.node, holder.workload, holder.namespace, holder.interface) == ("n1", "a-pod", "default", "tt0")
    assert holder.created_at == 1000.0

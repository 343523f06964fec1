"""Deleting a node: everything of it goes, nothing of others, and it may be broken off anywhere."""

from __future__ import annotations

import asyncio
import ipaddress
from itertools import count as numbers
from typing import TYPE_CHECKING

import pytest

from controller.assignment.node_deletion import MAX_CONFLICTS, delete_node
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.datamodel.records import Node, encode_node
from controller.errors import MalformedRecord, RefusedError, StoreUnavailable, TransientError
from controller.ports import MAX_OPERATIONS, Put
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from tests.unit.assignment.conftest import Fault, World


async def _populate(world: World) -> None:
    """Give n1 more blocks than one transaction can delete, and n1 and n2 an address in each other's blocks."""
    for number in range(2):
        await world.add_pool(f"p{number}", f"10.{number}.0.0/26", 31)
        await world.add_pool(f"q{number}", f"fd00:{number}::/120", 127)
    for name, count in (("n1", 38), ("n2", 6)):
        record = encode_node(Node(name, 64512, ipaddress.IPv4Address("192.0.2.1"), None))
        share = Put(keys.share_anchor(name), b"{}", None)
        endpoints = Put(keys.endpoints(name), b"{}", None)
        drain = Put(keys.drain(name), b"{}", None)
        await world.store.commit([Put(keys.node(name), record, None), share, endpoints, drain])
        async with world.started(name) as assigner:
            await asyncio.gather(*(assigner.assign(world.request(f"{name}-{i}", (4, 6))) for i in range(count)))
    for owner, other in (("n1", "n2"), ("n2", "n1")):
        await _lend(world, owner, other)


async def _lend(world: World, owner: str, borrower: str) -> None:
    """Free an address of the owner's newest IPv4 block and let the borrower hold it."""
    async with world.started(owner) as assigner:
        block = [block for block in assigner.own_blocks() if block.version == 4][-1]
    key = keys.block(block.cidr)
    entry = (await world.store.get([key]))[key]
    before = decode_block(key, entry.value)
    after, _ = before.release([0]).assign(world.request(f"{borrower}-lent").holder(node=borrower, at=1.0))
    while after.holders.keys() != before.holders.keys():
        after, _ = after.release(after.ordinals_of_handle(f"{borrower}-lent")).assign(
            world.request(f"{borrower}-lent").holder(node=borrower, at=1.0)
        )
    await world.store.commit(block_operations(before, after, version=entry.version, writer=None))


class _Breaker:
    """Breaks one operation, counted from nought; reading can only fail before, so it does."""

    def __init__(self, fault: Fault, at: int) -> None:
        self.count = 0
        self._fault = fault
        self._at = at

    async def __call__(self, _operation: str) -> Fault:
        breaks = self.count == self._at
        self.count += 1
        return self._fault if breaks else type(self._fault).NONE


async def _assert_gone(world: World) -> None:
    held = await world.check()
    assert {node for found in held.values() for node, _ in found} == {"n2"}
    assert "n2-lent" in held
    assert await world.store.list(keys.share("n1")) == {}
    assert set(await world.store.get([keys.node("n1"), keys.node("n2")])) == {keys.node("n2")}
    assert set(await world.store.list(keys.FENCES)) == {keys.fence("n2")}
    assert set(await world.store.list(keys.ENDPOINTS)) == {keys.endpoints("n2")}
    assert set(await world.store.list(keys.DRAINS)) == {keys.drain("n2")}


async def test_a_deleted_node_leaves_nothing_and_others_lose_nothing(world: World) -> None:
    """Its addresses, blocks, share and record are gone; an address another node holds in its block stays held."""
    await _populate(world)
    before = await world.check()
    mine = {address for found in before.values() for node, address in found if node == "n1"}
    assert set(await delete_node(world.store, "n1")) == mine
    await _assert_gone(world)
    after = await world.check()
    assert {handle for handle, found in before.items() if found[0][0] == "n2"} == set(after)


async def test_deleting_twice_or_what_never_was_is_no_error(world: World) -> None:
    """Deletion is idempotent."""
    await _populate(world)
    await delete_node(world.store, "n1")
    assert await delete_node(world.store, "n1") == ()
    assert await delete_node(world.store, "never") == ()


@pytest.mark.parametrize("name", ["", "n1/own", "n1/"])
async def test_a_name_that_leads_into_a_share_is_refused(world: World, name: str) -> None:
    """What cannot be a node's name deletes nothing and does not search for ever."""
    await _populate(world)
    before = await world.check()
    with pytest.raises(RefusedError, match="cannot be a node's name"):
        await asyncio.wait_for(delete_node(world.store, name), 30)
    assert await world.check() == before


@pytest.mark.parametrize("kind", ["UNAVAILABLE_BEFORE", "UNAVAILABLE_AFTER", "CONFLICT"])
async def test_broken_off_anywhere_it_goes_on_when_run_again(world: World, kind: str) -> None:
    """Whichever operation fails, what is left is consistent, and running it again ends as if nothing had happened."""
    for broken_off_at in numbers():
        fresh = type(world)()
        await _populate(fresh)
        breaker = _Breaker(fresh.Fault[kind], broken_off_at)
        try:
            await delete_node(fresh.staged(breaker), "n1")
        except StoreUnavailable:
            await fresh.check()
            await delete_node(fresh.store, "n1")
        await _assert_gone(fresh)
        await fresh.store.close()
        if breaker.count <= broken_off_at:
            break
    assert broken_off_at > 4


async def test_a_stale_share_key_does_not_stop_the_deletion(world: World) -> None:
    """A share key about a block that does not exist, or is another node's, is removed."""
    await _populate(world)
    (foreign, *_), absent = (await world.store.list(keys.share("n2") + "own/")), ipaddress.ip_network("10.9.0.0/31")
    for cidr in (keys.cidr_of(foreign), absent):
        await world.store.commit([Put(keys.owned("n1", cidr), b"{}", None)])
    await delete_node(world.store, "n1")
    await _assert_gone(world)


async def test_what_rests_in_a_deleted_nodes_blocks_keeps_none_of_them(world: World) -> None:
    """A block goes although released addresses of it rest, unless another node holds one; that one's rest goes on."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    await world.configure(IpamConfiguration(cooldown_seconds=100))
    async with world.following("n1") as owner, world.following("n2") as borrower:
        await asyncio.gather(*(owner.assign(world.request(f"h{number}")) for number in range(5)))
        (lent,) = (await borrower.assign(world.request("lent"))).addresses
        (shared,) = (block.cidr for block in borrower.blocks())
        for number in range(5):
            await owner.release(f"h{number}")
    await delete_node(world.store, "n1")
    assert await world.check() == {"lent": [("n2", lent)]}
    assert set(await world.store.list(keys.USAGE)) == {keys.usage(shared)}
    left = await world.block(shared)
    assert (left.affinity, len(left.resting)) == (None, 1)


async def test_any_number_of_stray_keys_below_the_share_goes(world: World) -> None:
    """What is no block's, and more than one transaction holds, does not keep the node's record."""
    await _populate(world)
    for number in range(MAX_OPERATIONS + 1):
        await world.store.commit([Put(f"{keys.share('n1')}own/stray{number}", b"{}", None)])
    await delete_node(world.store, "n1")
    await _assert_gone(world)


async def test_a_block_that_cannot_be_read_is_named_and_keeps_the_node(world: World) -> None:
    """The deletion stops at it with its key, and the node's record stays until it is restored."""
    await _populate(world)
    key = next(iter(await world.store.list(keys.share("n1") + "own/")))
    block = keys.block(keys.cidr_of(key))
    good = (await world.store.get([block]))[block].value
    await world.store.commit([Put(block, b"?", None)])
    with pytest.raises(MalformedRecord, match=block):
        await delete_node(world.store, "n1")
    assert await world.store.get([keys.node("n1")]) != {}
    await world.store.commit([Put(block, good, None)])
    await delete_node(world.store, "n1")
    await _assert_gone(world)


async def test_a_node_that_keeps_writing_stops_the_deletion_with_a_hint(world: World) -> None:
    """Endless conflicts end in an error that says to stop the node's agent."""
    await _populate(world)
    operations: list[str] = []

    async def conflict_always(operation: str) -> Fault:
        operations.append(operation)
        # The first is the unconditional write of the fence.
        return world.Fault.CONFLICT if operation == "commit" and len(operations) > 1 else world.Fault.NONE

    with pytest.raises(TransientError, match=f"{MAX_CONFLICTS} transactions.*stop the node's agent"):
        await delete_node(world.staged(conflict_always), "n1")

"""What operators and workloads may ask of one node's assigner beyond just any address."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.assignment.waiting import Counters
from controller.datamodel import keys
from controller.errors import RefusedError
from controller.ports import Put
from ipam.configuration import IpamConfiguration
from ipam.errors import AddressUnavailable, NoPool, PoolExhausted
from ipam.request import ReleaseRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.assignment.assigner import Assigner
    from ipam.address import IPAddress
    from ipam.block import Block
    from ipam.request import Assignment
    from tests.unit.assignment.conftest import Fault, World


async def test_an_address_asked_for_is_given_where_it_may_be(world: World) -> None:
    """Out of a block not claimed yet, out of the node's own, out of another node's; under its handle, again."""
    await world.add_pool("v4", "10.0.0.0/28", 30)
    async with world.following("n1") as node, world.following("n2") as other:
        unclaimed = world.request("a", address="10.0.0.6")
        assert [str(address) for address in (await node.assign(unclaimed)).addresses] == ["10.0.0.6"]
        assert await node.assign(unclaimed) == await node.assign(unclaimed)
        own = await node.assign(world.request("b", address="10.0.0.4"))
        assert [str(block.cidr) for block in node.own_blocks()] == ["10.0.0.4/30"]
        foreign = await other.assign(world.request("c", address="10.0.0.5"))
        assert other.own_blocks() == ()
    held = await world.check()
    assert (held["b"], held["c"]) == ([("n1", own.addresses[0])], [("n2", foreign.addresses[0])])


async def test_an_address_that_is_taken_names_its_holder(world: World) -> None:
    """Whether it is held on this node or on another, the refusal says by whom; freed elsewhere, it is given."""
    await world.add_pool("v4", "10.0.0.0/28", 30)
    async with world.following("n1") as node, world.started("n2") as other:
        await node.assign(world.request("a", address="10.0.0.6"))
        for assigner in (node, other):
            with pytest.raises(
                AddressUnavailable, match=r"10\.0\.0\.6 is already assigned to default/a-pod on node n1"
            ):
                await assigner.assign(world.request("b", address="10.0.0.6"))
        await node.release("a")
        await other.assign(world.request("b", address="10.0.0.6"))
    assert {handle: found[0][0] for handle, found in (await world.check()).items()} == {"b": "n2"}


async def test_an_address_outside_of_every_pool_and_one_under_strict_affinity_are_refused(world: World) -> None:
    """Each refusal says which rule it is."""
    await world.add_pool("v4", "10.0.0.0/28", 30)
    await world.configure(IpamConfiguration(strict_affinity=True))
    async with world.following("n1") as node, world.following("n2") as other:
        await node.assign(world.request("a", address="10.0.0.6"))
        with pytest.raises(AddressUnavailable, match="of node n1, and strict affinity"):
            await other.assign(world.request("b", address="10.0.0.7"))
        with pytest.raises(AddressUnavailable, match="none of the pools"):
            await other.assign(world.request("b", address="192.0.2.1"))
    assert set(await world.check()) == {"a"}


async def test_at_the_limit_an_address_asked_for_comes_in_a_block_of_nobodys(world: World) -> None:
    """The block has no owner, lends to others, and goes with its last address."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    await world.configure(IpamConfiguration(max_blocks_per_node=1))
    async with world.following("n1") as node, world.following("n2") as other:
        await node.assign(world.request("own", address="10.0.0.0"))
        await node.assign(world.request("a", address="10.0.0.5"))
        nobodys = ipaddress.ip_network("10.0.0.4/30")
        assert (await world.block(nobodys)).affinity is None
        await other.assign(world.request("b", address="10.0.0.6"))
        await node.release("a")
        assert set(await world.check()) == {"own", "b"}
        await other.release("b")
    assert set(await world.check()) == {"own"}
    assert await world.store.get([keys.block(nobodys), keys.usage(nobodys)]) == {}


async def test_reserved_addresses_are_passed_over_unless_asked_for(world: World) -> None:
    """Automatic assignment leaves them alone to the last; a request for one by itself gets it."""
    await world.add_pool("v4", "10.0.0.0/30", 30)
    await world.reserve("10.0.0.0/31")
    async with world.following("n1") as node:
        given = [str((await node.assign(world.request(handle))).addresses[0]) for handle in "ab"]
        assert given == ["10.0.0.2", "10.0.0.3"]
        with pytest.raises(PoolExhausted):
            await node.assign(world.request("c"))
        await node.assign(world.request("c", address="10.0.0.1"))
    assert set(await world.check()) == {"a", "b", "c"}


async def test_a_released_address_rests_for_the_cooldown(world: World) -> None:
    """It is given to nobody, also not by itself, until it has rested; a change of the rules is taken in."""
    await world.add_pool("v4", "10.0.0.0/32", 32)
    async with world.following("n1") as node:
        await node.assign(world.request("a"))
        await world.configure(IpamConfiguration(cooldown_seconds=30))
        await world.feed_rules(node)
        await node.release("a")
        world.now += 29
        for request in (world.request("b"), world.request("b", address="10.0.0.0")):
            with pytest.raises((PoolExhausted, AddressUnavailable)):
                await node.assign(request)
        assert await world.check() == {}
        world.now += 1
        await node.assign(world.request("b"))
    assert set(await world.check()) == {"b"}


async def test_a_remembered_address_goes_back_to_its_workload_and_to_nobody_else(world: World) -> None:
    """A workload of the same name gets it again, also after a restart; others do until it is forgotten not."""
    await world.add_pool("v4", "10.0.0.0/31", 31)
    await world.configure(IpamConfiguration(sticky_seconds=100))
    async with world.following("n1") as node:
        first = await node.assign(world.request("a", sticky="web"))
        await node.release("a")
        await node.assign(world.request("b"))
        with pytest.raises(PoolExhausted):
            await node.assign(world.request("c", sticky="other"))
    async with world.following("n1") as node:
        assert (await node.assign(world.request("d", sticky="web"))).addresses == first.addresses
        await node.release("d")
        world.now += 100
        assert (await node.assign(world.request("c", sticky="other"))).addresses == first.addresses
    assert set(await world.check()) == {"b", "c"}


async def test_addresses_are_released_only_as_they_were_seen(world: World) -> None:
    """Under another handle, or given anew since it was seen, an address stays held; all that fit go at once."""
    pool = await world.add_pool("v4", "10.0.0.0/30", 30)
    async with world.following("n1") as node:
        (a,), (b,) = [(await node.assign(world.request(handle))).addresses for handle in "ab"]
        seen = (await world.block(pool.block_at(0))).ordinal_sequence
        await node.release("b")
        await node.assign(world.request("c", address=str(b)))
        stale = [
            ReleaseRequest(a, "b"),
            ReleaseRequest(b, "b", seen[int(b) - int(pool.cidr[0])]),
            ReleaseRequest(b, "x"),
        ]
        assert await node.release_addresses([*stale, ReleaseRequest(pool.cidr[3], "z")]) == ()
        assert set(await world.check()) == {"a", "c"}
        now = (await world.block(pool.block_at(0))).ordinal_sequence[int(b) - int(pool.cidr[0])]
        assert await node.release_addresses([ReleaseRequest(a, "a"), ReleaseRequest(b, "c", now)]) == (a, b)
    assert await world.check() == {}


async def test_returned_blocks_are_anybodys(world: World) -> None:
    """Of the blocks named those that are empty and the node's own are given up with all their keys."""
    pool = await world.add_pool("v4", "10.0.0.0/30", 31)
    async with world.following("n1") as node, world.following("n2") as other:
        await asyncio.gather(*(node.assign(world.request(handle)) for handle in "abc"))
        await node.release("c")
        cidrs = [pool.block_at(index) for index in range(pool.block_count)]
        await other.return_blocks(cidrs)
        assert len(node.own_blocks()) == 2
        await node.return_blocks(cidrs)
        (kept,) = node.own_blocks()
        assert kept.in_use == 2
        await other.assign(world.request("d"))
        assert len(other.own_blocks()) == 1
    assert set(await world.check()) == {"a", "b", "d"}


async def test_when_one_family_is_exhausted_neither_is_given(world: World) -> None:
    """A request for both is all or nothing, and leaves no block of the other family behind."""
    await world.add_pool("v4", "10.0.0.0/24", 26)
    await world.add_pool("v6", "fd00::/128", 128)
    async with world.following("n1") as node, world.following("n2") as other:
        await other.assign(world.request("a", (6,)))
        with pytest.raises(PoolExhausted, match="IPv6"):
            await node.assign(world.request("b", (4, 6)))
        assert node.blocks() == ()
    assert set(await world.check()) == {"a"}


async def test_what_was_done_is_counted(world: World) -> None:
    """Transactions, conflicts, retries and answers are counted exactly; who waits together shares one transaction."""
    await world.add_pool("v4", "10.0.0.0/30", 30)
    faults = [world.Fault.NONE, world.Fault.NONE, world.Fault.CONFLICT]  # the first is the fence's

    async def decide(operation: str) -> Fault:
        return faults.pop(0) if operation == "commit" and faults else world.Fault.NONE

    async with world.following("n1", decide) as node:
        assert node.counters == Counters()
        await node.assign(world.request("a"))
        assert node.counters == Counters(transaction_count=1, answer_count=1)
        await asyncio.gather(*(node.assign(world.request(handle)) for handle in "bcd"))
        assert node.counters == Counters(transaction_count=2, conflict_count=1, retry_count=3, answer_count=4)
        with pytest.raises(NoPool):
            await node.assign(world.request("e", (6,)))
        await node.release("nothing")
        assert node.counters == Counters(transaction_count=2, conflict_count=1, retry_count=3, answer_count=6)


async def test_a_record_that_no_store_takes_fails_its_request_alone(world: World) -> None:
    """Those who wait with it, before and after, get their addresses."""
    await world.add_pool("v4", "10.0.0.0/24", 26)
    async with world.following("n1") as node:
        handles = ["a", "b", "x" * 300_000, "c", "d"]
        requests = [world.request(handle) for handle in handles]
        outcomes = await asyncio.gather(*map(node.assign, requests), return_exceptions=True)
        assert [isinstance(outcome, RefusedError) for outcome in outcomes] == [False, False, True, False, False]
    assert set(await world.check()) == {"a", "b", "c", "d"}


async def test_long_names_fill_a_block_before_its_addresses_do(world: World) -> None:
    """The next block takes over before a record is larger than a store takes, in whatever script the names are."""
    await world.add_pool("v4", "10.0.0.0/24", 27)
    async with world.following("n1") as node:
        handles = [f"{'ж' * 2500}-{number}" for number in range(20)]
        await asyncio.gather(*[node.assign(world.request(handle)) for handle in handles])
        assert len(node.own_blocks()) > 1
    assert set(await world.check()) == set(handles)


async def test_a_rule_whose_record_breaks_holds_on(world: World) -> None:
    """Nobody gets a reserved or a foreign address because the record that forbids it cannot be read any more."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    await world.configure(IpamConfiguration(strict_affinity=True))
    await world.reserve("10.0.0.0/31", "10.0.0.4/31")
    async with world.following("n1") as node, world.following("n2") as other:
        await other.assign(world.request("a"))
        for handle in ("b", "c"):
            await node.assign(world.request(handle))
        for key in (keys.IPAM_CONFIGURATION, keys.reservation("kept")):
            await world.store.commit([Put(key, b"{", None)])
        with pytest.raises(PoolExhausted, match="strict affinity"):
            await node.assign(world.request("d"))


async def test_what_is_renewed_is_not_released_as_it_was_seen_before(world: World) -> None:
    """It is the same addresses, assigned now; asked for without renewal it is as it was."""
    await world.add_pool("v4", "10.0.0.0/28", 30)
    await world.add_pool("v6", "fd00::/120", 126)
    both = world.request("a", (4, 6))
    async with world.following("n1") as node:
        given = await node.assign(both)
        seen = [ReleaseRequest(address, "a", block.ordinal_sequence[0]) for address, block in _in_blocks(node, given)]
        world.now += 50
        assert await node.assign(both) == given
        assert {holder.created_at for holder in node.holders().values()} == {world.now - 50}
        assert await node.assign(replace(both, renew=True)) == given
        assert {holder.created_at for holder in node.holders().values()} == {world.now}
        assert await node.release_addresses(seen) == ()
        assert await node.release("a") == given.addresses
    assert await world.check() == {}


def _in_blocks(node: Assigner, given: Assignment) -> Iterator[tuple[IPAddress, Block]]:
    for address in given.addresses:
        yield from ((address, block) for block in node.blocks() if address in block.cidr)

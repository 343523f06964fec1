"""Several nodes on a handful of addresses, everything that can be asked, in random order, on a store that fails.

Each run is drawn from a seed that a failure names. After every operation on the store what must hold is checked: no
address has two holders, shares and summaries agree with the blocks. What was answered is what is stored at the end.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial
from itertools import count as numbers
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

from controller.assignment.fencing import FencedStore
from controller.assignment.node_deletion import delete_node
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.errors import TransientError
from ipam.configuration import IpamConfiguration
from ipam.errors import Refused
from ipam.request import ReleaseRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.assignment.assigner import Assigner
    from ipam.address import IPAddress
    from ipam.request import AssignRequest
    from tests.unit.assignment.conftest import Fault, World

T = TypeVar("T")
#: How often a step that the store failed is taken again.
_TRIES: Final = 40
_STEPS_PER_NODE: Final = 12
_CONFIGURATIONS: Final = (
    IpamConfiguration(),
    IpamConfiguration(max_blocks_per_node=1),
    IpamConfiguration(strict_affinity=True),
    IpamConfiguration(cooldown_seconds=5, sticky_seconds=40),
)


class Dice:
    """Decides by chance what becomes of an operation, and lets other nodes go first; checks the world after it."""

    def __init__(self, world: World, seed: int, fault_share: float) -> None:
        self._world = world
        self.random = random.Random(seed)  # noqa: S311  a test's choices, not a secret
        self._fault_share = fault_share
        self.open = False

    async def decide(self, operation: str) -> Fault:
        """Wait for a few turns of the others, then fail now and then."""
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        await self._world.check()
        if self.open or self.random.random() >= self._fault_share:
            return self._world.Fault.NONE
        possible = list(self._world.Fault)[1:] if operation == "commit" else [self._world.Fault.UNAVAILABLE_BEFORE]
        return self.random.choice(possible)


class Host:
    """One node's workloads: takes random steps, each again until the store lets it, and notes what it was told."""

    def __init__(self, world: World, dice: Dice, node: str) -> None:
        self._world = world
        self._dice = dice
        self.node = node
        self.told: dict[str, tuple[IPAddress, ...]] = {}

    async def live(self, assigner: Assigner, addresses: list[str]) -> None:
        """Take random steps; at the end no step is half done."""
        chance = self._dice.random
        for number in range(_STEPS_PER_NODE):
            self._world.now += chance.choice((0, 1, 30, 61))
            kind = chance.choice(("any", "any", "address", "sticky", "both", "release", "release", "seen", "return"))
            held = chance.choice([*self.told]) if self.told else "nothing"
            if kind == "return":
                cidrs = [block.cidr for block in assigner.own_blocks()]
                await self.repeated(partial(assigner.return_blocks, cidrs))
            elif kind == "release":
                await self.repeated(partial(assigner.release, held))
                self.told.pop(held, None)
            elif kind == "seen":
                seen = [ReleaseRequest(address, held) for address in self.told.pop(held, ())]
                await self.repeated(partial(assigner.release_addresses, seen))
            else:
                request = self._request(kind, f"{self.node}-{number}", addresses)
                answer = await self.repeated(partial(assigner.assign, request))
                if answer is not None:
                    self.told[request.handle] = answer.addresses

    def _request(self, kind: str, handle: str, addresses: list[str]) -> AssignRequest:
        if kind == "address":
            return self._world.request(handle, address=self._dice.random.choice(addresses))
        if kind == "sticky":
            return self._world.request(handle, sticky=f"w{self._dice.random.randrange(3)}")
        return self._world.request(handle, (4, 6) if kind == "both" else (4,))

    async def repeated(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """Take a step until the store lets it, and return its answer; None if it is refused."""
        for _ in range(_TRIES):
            try:
                return await step()
            except Refused:
                return None
            except TransientError:
                await asyncio.sleep(0)
        pytest.fail(f"{self.node} did not get through {_TRIES} times")


async def _assert_known(world: World, host: Host, assigner: Assigner) -> None:
    """Check that the node knows what is stored of it, once it has heard all news."""
    mine = {address for found in (await world.check()).values() for node, address in found if node == host.node}
    assert set(assigner.holders()) == mine
    blocks = [decode_block(key, entry.value) for key, entry in (await world.store.list(keys.BLOCKS)).items()]
    owned = {block.cidr: block for block in blocks if block.affinity == host.node}
    await world.until(lambda: {block.cidr: block for block in assigner.own_blocks()} == owned)


@pytest.mark.parametrize("seed", range(48))
async def test_nodes_that_share_a_few_addresses_at_random(world: World, seed: int) -> None:
    """Whatever several nodes ask for on a store that fails now and then, everybody has what he was told, and knows it.

    A node deleted in the end leaves nothing; the others lose nothing.
    """
    dice = Dice(world, seed, fault_share=0.05 * (seed % 3))
    await world.add_pool("v4", f"10.0.0.0/{29 + seed % 2}", 30 + seed % 3)
    await world.add_pool("v6", "fd00::/127", 127 + seed % 2)
    await world.configure(_CONFIGURATIONS[seed % len(_CONFIGURATIONS)])
    hosts = [Host(world, dice, f"n{number}") for number in range(2 + seed % 2)]
    addresses = [f"10.0.0.{number}" for number in range(8)]
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        dice.open = True
        assigners = [await stack.enter_async_context(world.following(host.node, dice.decide)) for host in hosts]
        dice.open = False
        async with asyncio.TaskGroup() as group:
            for host, assigner in zip(hosts, assigners, strict=True):
                group.create_task(host.live(assigner, addresses))
        dice.open = True
        told = {handle: held for host in hosts for handle, held in host.told.items()}
        assert {handle: tuple(at for _, at in found) for handle, found in (await world.check()).items()} == told
        for host, assigner in zip(hosts, assigners, strict=True):
            await _assert_known(world, host, assigner)
        await assigners[0].close()
        dice.open = False
        await hosts[0].repeated(partial(delete_node, world.staged(dice.decide), hosts[0].node))
        dice.open = True
        assert set(await world.check()) == told.keys() - hosts[0].told.keys()
        for host, assigner in list(zip(hosts, assigners, strict=True))[1:]:
            for handle in host.told:
                await assigner.release(handle)
            await assigner.return_blocks([block.cidr for block in assigner.own_blocks()])
    assert await world.check() == {}


class _Breaker:
    """Breaks one operation, counted from nought; reading can only fail before, so it does."""

    def __init__(self, world: World, fault: Fault, at: int) -> None:
        self.count = 0
        self._world = world
        self._fault = fault
        self._at = at

    async def __call__(self, operation: str) -> Fault:
        breaks = self.count == self._at
        self.count += 1
        await self._world.check()
        if not breaks:
            return self._world.Fault.NONE
        return self._fault if operation == "commit" else self._world.Fault.UNAVAILABLE_BEFORE


@pytest.mark.parametrize("kind", ["UNAVAILABLE_BEFORE", "UNAVAILABLE_AFTER", "CONFLICT"])
async def test_one_failure_anywhere_in_what_nodes_do_to_each_other(world: World, kind: str) -> None:
    """Borrowing, claiming for nobody, reclaiming, returning, deleting: whatever fails, the end is right."""
    for broken_at in numbers():
        fresh = type(world)()
        breaker = _Breaker(fresh, fresh.Fault[kind], broken_at)
        await _story(fresh, breaker)
        await fresh.store.close()
        if breaker.count <= broken_at:
            break
    assert broken_at > 40


async def _story(world: World, breaker: _Breaker) -> None:
    """Let two nodes share eight addresses in two blocks; every step is taken until the store lets it."""
    await world.add_pool("v4", "10.0.0.0/29", 30)
    await world.configure(IpamConfiguration(max_blocks_per_node=1, cooldown_seconds=5))
    dice = Dice(world, 0, fault_share=0.0)
    one, two = Host(world, dice, "n1"), Host(world, dice, "n2")
    first, second = world.following("n1"), world.following("n2")
    async with first as nearby, second as far:
        for name, assigner in (("n1", nearby), ("n2", far)):
            assigner._store = FencedStore(world.staged(breaker), keys.fence(name))
        await one.repeated(partial(nearby.assign, world.request("a", address="10.0.0.1")))
        await one.repeated(partial(nearby.assign, world.request("b", address="10.0.0.6")))
        await two.repeated(partial(far.assign, world.request("c")))
        await two.repeated(partial(far.assign, world.request("d", address="10.0.0.2")))
        assert set(await world.check()) == set("abcd")
        await one.repeated(partial(nearby.release, "b"))
        await one.repeated(partial(nearby.release, "a"))
        await two.repeated(partial(far.release, "d"))
        world.now += 61
        await one.repeated(partial(nearby.return_blocks, [block.cidr for block in nearby.own_blocks()]))
        await one.repeated(partial(nearby.assign, world.request("e")))
        await one.repeated(partial(nearby.release, "e"))
        world.now += 61
        await two.repeated(partial(far.release, "c"))
        world.now += 61
        for handle in "fghij":
            await two.repeated(partial(far.assign, world.request(handle)))
        assert set(await world.check()) == set("fghij")
        await far.close()
        await two.repeated(partial(delete_node, world.staged(breaker), "n2"))
    assert await world.check() == {}

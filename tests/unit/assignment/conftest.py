"""What the tests of address assignment share: stores that fail on demand, and a check of everything that must hold."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING

import pytest

from controller.assignment.assigner import Assigner
from controller.assignment.knowledge import rules_of
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, encode_usage
from controller.datamodel.records import encode_configuration, encode_pool, encode_reservation
from controller.errors import ConflictError, StoreUnavailable
from controller.ports import ABSENT, Entry, Interrupted, Operation, Put, Store, Version, WatchEvent
from controller.store.memory import MemoryStore
from ipam.pool import Pool
from ipam.request import AssignRequest
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block
    from ipam.configuration import IpamConfiguration


class Fault(Enum):
    """What may happen to an operation on the store."""

    NONE = "none"
    UNAVAILABLE_BEFORE = "the store fails before it applies the operation"
    UNAVAILABLE_AFTER = "the store applies the operation and fails before it answers"
    CONFLICT = "the store reports a conflict without saying which key"


Decide = Callable[[str], Awaitable[Fault]]


class StagedStore:
    """A store that asks before each of its operations what is to happen to it."""

    def __init__(self, store: Store, decide: Decide) -> None:
        self._store = store
        self._decide = decide

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Read keys, if the stage lets it."""
        fault = await self._decide("get")
        if fault is not Fault.NONE:
            raise StoreUnavailable("staged")
        return await self._store.get(keys)

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Read a prefix, if the stage lets it."""
        fault = await self._decide("list")
        if fault is not Fault.NONE:
            raise StoreUnavailable("staged")
        return await self._store.list(prefix)

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Commit, if the stage lets it."""
        fault = await self._decide("commit")
        if fault is Fault.UNAVAILABLE_BEFORE:
            raise StoreUnavailable("staged, before")
        if fault is Fault.CONFLICT:
            raise ConflictError(())
        versions = await self._store.commit(operations)
        if fault is Fault.UNAVAILABLE_AFTER:
            raise StoreUnavailable("staged, after")
        return versions

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Watch without a stage."""
        return self._store.watch(prefix)

    async def close(self) -> None:
        """Leave the store underneath open."""


class World:
    """A store with pools, nodes that assign on it, and what must hold of it at every moment."""

    Fault = Fault

    def __init__(self) -> None:
        self.store = MemoryStore()
        #: The time on every node, in seconds since the epoch; it stands still until a test moves it.
        self.now = 1000.0

    async def configure(self, configuration: IpamConfiguration) -> None:
        """Write the configuration of address management."""
        await self.store.commit([Put(keys.IPAM_CONFIGURATION, encode_configuration(configuration), None)])

    async def reserve(self, *cidrs: str) -> None:
        """Write a reservation of these ranges."""
        reservation = Reservation("kept", tuple(map(ipaddress.ip_network, cidrs)))
        await self.store.commit([Put(keys.reservation("kept"), encode_reservation(reservation), None)])

    async def feed_rules(self, *assigners: Assigner) -> None:
        """Hand the assigners all rules as they are in the store, as their agents do."""
        rules = rules_of(await self.store.list(keys.CLUSTER))
        for assigner in assigners:
            assigner.set_rules(rules)

    async def block(self, cidr: IPNetwork) -> Block:
        """Return a block as it is in the store."""
        key = keys.block(cidr)
        return decode_block(key, (await self.store.get([key]))[key].value)

    async def add_pool(self, name: str, cidr: str, block_prefix_length: int) -> Pool:
        """Write a pool."""
        pool = Pool(name, ipaddress.ip_network(cidr), block_prefix_length)
        await self.store.commit([Put(keys.pool(name), encode_pool(pool), ABSENT)])
        return pool

    @asynccontextmanager
    async def started(self, node: str, decide: Decide | None = None) -> AsyncGenerator[Assigner]:
        """Run an assigner for a node, on a stage if there is one who decides; its clock is the world's."""
        assigner = Assigner(self.staged(decide) if decide else self.store, node, lambda: self.now)
        await assigner.start()
        try:
            yield assigner
        finally:
            await assigner.close()

    @asynccontextmanager
    async def following(self, node: str, decide: Decide | None = None) -> AsyncGenerator[Assigner]:
        """Run an assigner as an agent does: it knows the rules, and hears what becomes of its share."""
        async with self.started(node, decide) as assigner, AsyncExitStack() as stack:
            await self.feed_rules(assigner)
            events = await stack.enter_async_context(aclosing(self.store.watch(keys.share(node))))

            async def follow() -> None:
                async for event in events:
                    if not isinstance(event, Interrupted):
                        assigner.observe_share(event)

            task = asyncio.create_task(follow())
            try:
                yield assigner
            finally:
                task.cancel()
                await asyncio.wait([task])

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  any condition, of whatever is at hand, without an event for each
                await asyncio.sleep(0)

    def staged(self, decide: Decide) -> Store:
        """Return the store with somebody who decides what happens to each operation."""
        return StagedStore(self.store, decide)

    @staticmethod
    def request(
        handle: str, versions: Iterable[int] = (4,), pools: Iterable[str] = (), *, address: str = "", sticky: str = ""
    ) -> AssignRequest:
        """Make a request; `address` is the one to have, `sticky` the name of a workload that is remembered."""
        return AssignRequest(
            handle,
            sticky or f"{handle[:20]}-pod",
            "default",
            "tt0",
            tuple(versions),
            tuple(pools),
            (ipaddress.ip_address(address),) if address else (),
            sticky=bool(sticky),
        )

    async def check(self) -> dict[str, list[tuple[str, IPAddress]]]:
        """Check everything that must always hold, and return (node, address) by handle."""
        held: dict[str, list[tuple[str, IPAddress]]] = {}
        seen: set[IPAddress] = set()
        expected_shares = set()
        expected_usage = {}
        # One reading, for others may write between two.
        entries = await self.store.list(keys.ROOT)
        for key, entry in ((key, entry) for key, entry in entries.items() if key.startswith(keys.BLOCKS)):
            # Decoding checks that free and held ordinals make up the block.
            block = decode_block(key, entry.value)
            expected_usage[keys.usage(block.cidr)] = encode_usage(block)
            if block.affinity is not None:
                expected_shares.add(keys.owned(block.affinity, block.cidr))
            expected_shares |= {keys.held(node, block.cidr) for node in block.holding_nodes() if node != block.affinity}
            for address, holder in block.assignments():
                assert address not in seen, f"{address} has two holders"
                seen.add(address)
                held.setdefault(holder.handle, []).append((holder.node, address))
        shares = {key for key in entries if key.startswith(keys.SHARES) and not key.endswith("/anchor")}
        assert shares == expected_shares
        assert {key: entry.value for key, entry in entries.items() if key.startswith(keys.USAGE)} == expected_usage
        return held


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    """Give an empty world."""
    world = World()
    yield world
    await world.store.close()

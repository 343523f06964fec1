"""A healthy cluster of several nodes in a store, and each fault that can be planted in it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest

from controller.assignment.inventory import find_problems
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, encode_block, encode_share, encode_usage
from controller.datamodel.endpoints import Endpoints, decode_endpoints, encode_endpoints
from controller.datamodel.records import Node, encode_node, encode_pool
from controller.ports import ABSENT, Delete, Put
from controller.store.memory import MemoryStore
from controller.store.opening import open_store
from ipam.block import Block, Holder
from ipam.pool import Pool
from ipam.problem import ProblemKind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from controller.assignment.inventory import Findings
    from controller.ports import Store
    from ipam.address import IPNetwork
    from tests.conftest import ConsulServer

T = TypeVar("T")
CLAIMED_AT, CREATED_AT, SEEN_AT, NOW = 1_000.0, 2_000.0, 90_000.0, 100_000.0
POOLS = (
    Pool("four", ip_network("10.65.0.0/16"), 26),
    Pool("six", ip_network("fd00:65::/64"), 122),
)
NODES = ("h1", "h2", "h3")
H1_BLOCK, H2_BLOCK, NOBODYS_BLOCK = (ip_network(f"10.65.{number}.0/26") for number in (1, 2, 9))
H1_SIX = ip_network("fd00:65::/122")


def holder(number: int, node: str) -> Holder:
    """Return the holder of a workload's addresses."""
    return Holder(f"cni.tortie.{number}.eth0", node, f"web{number}", "shop", f"tor{number:012x}", CREATED_AT)


def _healthy_blocks() -> tuple[Block, ...]:
    own = Block.claimed(H1_BLOCK, node="h1", at=CLAIMED_AT)
    six = Block.claimed(H1_SIX, node="h1", at=CLAIMED_AT)
    for number in (1, 2):
        own, _ = own.assign(holder(number, "h1"))
        six, _ = six.assign(holder(number, "h1"))
    other = Block.claimed(H2_BLOCK, node="h2", at=CLAIMED_AT)
    for number, node in ((3, "h2"), (4, "h2"), (5, "h3")):  # the last one is borrowed
        other, _ = other.assign(holder(number, node))
    nobodys, _ = Block.claimed(NOBODYS_BLOCK, node=None, at=CLAIMED_AT).assign(holder(6, "h2"))
    return own, six, other, nobodys


class Cluster:
    """A store that was filled with a healthy cluster, and ways to write what nothing but a fault would write.

    Nodes h1 and h2 tell what they have wired, h3 does not.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = NOW

    async def fill(self) -> None:
        """Write the healthy cluster."""
        blocks = _healthy_blocks()
        for block in blocks:
            await self.store.commit(block_operations(None, block, version=ABSENT, writer=None))
        for pool in POOLS:
            await self.put(keys.pool(pool.name), encode_pool(pool))
        for number, node in enumerate(NODES, 1):
            await self.put(keys.node(node), encode_node(Node(node, 64512, IPv4Address(f"192.0.2.{number}"), None)))
            await self.put(keys.share_anchor(node), b"{}")
        for node in ("h1", "h2"):
            links: dict[str, tuple[object, ...]] = {}
            for block in blocks:
                for address, each in block.assignments():
                    if each.node == node:
                        links[each.interface] = (*links.get(each.interface, ()), str(address))
            record = {"node": node, "seen_at": SEEN_AT, "links": links}
            await self.put(keys.endpoints(node), json.dumps(record).encode())

    async def find(self) -> Findings:
        """Look for problems."""
        return await find_problems(self.store, lambda: self.now, settle_seconds=0.0)

    async def put(self, key: str, value: bytes) -> None:
        """Write a record, whatever is there."""
        await self.store.commit([Put(key, value, None)])

    async def delete(self, key: str) -> None:
        """Delete a key."""
        await self.store.commit([Delete(key, None)])

    async def block(self, cidr: IPNetwork) -> Block:
        """Read a block."""
        key = keys.block(cidr)
        return decode_block(key, (await self.store.get([key]))[key].value)

    async def write(self, block: Block) -> None:
        """Write a block as it should be written, with what follows from it."""
        key = keys.block(block.cidr)
        entry = (await self.store.get([key])).get(key)
        before = None if entry is None else decode_block(key, entry.value)
        version = ABSENT if entry is None else entry.version
        await self.store.commit(block_operations(before, block, version=version, writer=None))

    async def rewire(self, node: str, links: dict[str, tuple[str, ...] | None]) -> None:
        """Let a node tell that it has these addresses at these links; None stands for a link that is gone."""
        key = keys.endpoints(node)
        before = decode_endpoints(key, (await self.store.get([key]))[key].value)
        after = dict(before.addresses_by_link)
        for link, addresses in links.items():
            after.pop(link, None)
            if addresses is not None:
                after[link] = tuple(map(ip_address, addresses))
        await self.put(key, encode_endpoints(Endpoints(node, SEEN_AT, after)))

    async def held(self) -> set[tuple[str, str]]:
        """Return every assignment, as address and handle."""
        return {(str(each.address), each.holder.handle) for each in (await self.find()).inventory.held()}


async def _leaked(cluster: Cluster) -> None:
    await cluster.rewire("h1", {"tor000000000001": None})


async def _unassigned(cluster: Cluster) -> None:
    await cluster.rewire("h1", {"tor0000000000aa": ("10.65.1.50",)})


async def _used_by_another(cluster: Cluster) -> None:
    # The holder's node h3 does not tell what it has wired.
    await cluster.rewire("h2", {"tor0000000000bb": ("10.65.2.2",)})


async def _wired_twice(cluster: Cluster) -> None:
    await cluster.rewire("h1", {"tor0000000000cc": ("10.65.2.1",)})


async def _several(cluster: Cluster) -> None:
    block, address = (await cluster.block(H2_BLOCK)).assign(holder(3, "h2"))
    await cluster.write(block)
    await cluster.rewire("h2", {holder(3, "h2").interface: ("10.65.2.0", str(address))})


async def _unknown_holder(cluster: Cluster) -> None:
    block, _ = (await cluster.block(H2_BLOCK)).assign(holder(7, "ghost"))
    await cluster.write(block)


async def _pools_overlap(cluster: Cluster) -> None:
    await cluster.put(keys.pool("inner"), encode_pool(Pool("inner", ip_network("10.65.128.0/24"), 26)))


async def _outside_pools(cluster: Cluster) -> None:
    await cluster.write(Block.claimed(ip_network("10.99.0.0/26"), node="h1", at=CLAIMED_AT))


async def _wrong_size(cluster: Cluster) -> None:
    await cluster.write(Block.claimed(ip_network("10.65.20.0/27"), node="h1", at=CLAIMED_AT))


async def _blocks_overlap(cluster: Cluster) -> None:
    await cluster.write(Block.claimed(ip_network("10.65.2.32/28"), node="h3", at=CLAIMED_AT))


async def _unknown_owner(cluster: Cluster) -> None:
    await cluster.write(Block.claimed(ip_network("10.65.21.0/26"), node="gone", at=CLAIMED_AT))


async def _unused(cluster: Cluster) -> None:
    await cluster.write(Block.claimed(ip_network("10.65.22.0/26"), node=None, at=CLAIMED_AT))


async def _unreadable_block(cluster: Cluster) -> None:
    await cluster.put(keys.block(NOBODYS_BLOCK), b'{"cidr":')


async def _lost_ordinal(cluster: Cluster) -> None:
    block = Block.claimed(ip_network("10.65.23.0/26"), node="h1", at=CLAIMED_AT)
    await cluster.put(keys.block(block.cidr), encode_block(replace(block, free=block.free[1:])))


async def _misplaced(cluster: Cluster) -> None:
    other = Block.claimed(ip_network("10.65.24.0/26"), node="h1", at=CLAIMED_AT)
    await cluster.put(keys.block(ip_network("10.65.25.0/26")), encode_block(other))


async def _unreadable_record(cluster: Cluster) -> None:
    await cluster.put(keys.pool("broken"), b"[]")


async def _junk_block(cluster: Cluster) -> None:
    await cluster.put(keys.BLOCKS + "10.65.1.7-26", b"{}")


async def _junk_share(cluster: Cluster) -> None:
    await cluster.put(keys.share("h1") + "lent/10.65.1.0-26", b"{}")


async def _own_share_missing(cluster: Cluster) -> None:
    await cluster.delete(keys.owned("h1", H1_SIX))


async def _held_share_missing(cluster: Cluster) -> None:
    await cluster.delete(keys.held("h3", H2_BLOCK))


async def _share_wrong(cluster: Cluster) -> None:
    await cluster.put(keys.held("h2", NOBODYS_BLOCK), b'{"sequence":99999999}')


async def _own_share_without_block(cluster: Cluster) -> None:
    await cluster.put(keys.owned("h2", ip_network("10.65.30.0/26")), encode_share(await cluster.block(H2_BLOCK)))


async def _held_share_without_block(cluster: Cluster) -> None:
    await cluster.put(keys.held("h2", H1_BLOCK), encode_share(await cluster.block(H1_BLOCK)))


async def _summary_missing(cluster: Cluster) -> None:
    await cluster.delete(keys.usage(H1_BLOCK))


async def _summary_wrong(cluster: Cluster) -> None:
    await cluster.put(keys.usage(H2_BLOCK), encode_usage(Block.claimed(H2_BLOCK, node="h2", at=CLAIMED_AT)))


async def _summary_unreadable(cluster: Cluster) -> None:
    await cluster.put(keys.usage(H1_SIX), b"x")


async def _summary_without_block(cluster: Cluster) -> None:
    block = Block.claimed(ip_network("10.65.31.0/26"), node="h2", at=CLAIMED_AT)
    await cluster.put(keys.usage(block.cidr), encode_usage(block))


@dataclass(frozen=True)
class Fault:
    """What to do to a healthy cluster, and the problem that must be found then: its kind and its subject."""

    plant: Callable[[Cluster], Awaitable[None]]
    kind: ProblemKind
    subject: str
    repairable: bool = False


FAULTS = (
    Fault(_leaked, ProblemKind.LEAKED, "10.65.1.0 fd00:65::", repairable=True),
    Fault(_unassigned, ProblemKind.UNASSIGNED, "10.65.1.50"),
    Fault(_used_by_another, ProblemKind.USED_BY_ANOTHER, "10.65.2.2"),
    Fault(_wired_twice, ProblemKind.WIRED_TWICE, "10.65.2.1"),
    Fault(_several, ProblemKind.SEVERAL_ADDRESSES, "cni.tortie.3.eth0"),
    Fault(_unknown_holder, ProblemKind.UNKNOWN_HOLDER, "10.65.2.3"),
    Fault(_pools_overlap, ProblemKind.POOLS_OVERLAP, "10.65.128.0/24"),
    Fault(_outside_pools, ProblemKind.OUTSIDE_POOLS, "10.99.0.0/26"),
    Fault(_wrong_size, ProblemKind.WRONG_SIZE, "10.65.20.0/27"),
    Fault(_blocks_overlap, ProblemKind.BLOCKS_OVERLAP, "10.65.2.32/28"),
    Fault(_unknown_owner, ProblemKind.UNKNOWN_OWNER, "10.65.21.0/26"),
    Fault(_unused, ProblemKind.UNUSED_BLOCK, "10.65.22.0/26", repairable=True),
    Fault(_unreadable_block, ProblemKind.UNREADABLE_BLOCK, "10.65.9.0/26"),
    Fault(_lost_ordinal, ProblemKind.UNREADABLE_BLOCK, "10.65.23.0/26"),
    Fault(_misplaced, ProblemKind.MISPLACED_BLOCK, "10.65.25.0/26"),
    Fault(_unreadable_record, ProblemKind.UNREADABLE_RECORD, "tortie/v1/cluster/pools/broken"),
    Fault(_junk_block, ProblemKind.JUNK_KEY, "tortie/v1/blocks/10.65.1.7-26"),
    Fault(_junk_share, ProblemKind.JUNK_KEY, "tortie/v1/share/h1/lent/10.65.1.0-26"),
    Fault(_own_share_missing, ProblemKind.SHARE_MISSING, "fd00:65::/122 (own) of h1", repairable=True),
    Fault(_held_share_missing, ProblemKind.SHARE_MISSING, "10.65.2.0/26 (held) of h3", repairable=True),
    Fault(_share_wrong, ProblemKind.SHARE_WRONG, "10.65.9.0/26 (held) of h2", repairable=True),
    Fault(_own_share_without_block, ProblemKind.SHARE_WITHOUT_BLOCK, "10.65.30.0/26 (own) of h2", repairable=True),
    Fault(_held_share_without_block, ProblemKind.SHARE_WITHOUT_BLOCK, "10.65.1.0/26 (held) of h2", repairable=True),
    Fault(_summary_missing, ProblemKind.SUMMARY_MISSING, "10.65.1.0/26", repairable=True),
    Fault(_summary_wrong, ProblemKind.SUMMARY_WRONG, "10.65.2.0/26", repairable=True),
    Fault(_summary_unreadable, ProblemKind.SUMMARY_WRONG, "fd00:65::/122", repairable=True),
    Fault(_summary_without_block, ProblemKind.SUMMARY_WITHOUT_BLOCK, "10.65.31.0/26", repairable=True),
)


class OnCluster(Protocol):
    """Runs a coroutine function on the cluster that the environment names."""

    def __call__(self, step: Callable[[Cluster], Awaitable[T]]) -> T:
        """Return what the step returns."""


class Plant(Protocol):
    """Returns what plants the first fault of each of some kinds."""

    def __call__(self, *kinds: ProblemKind) -> Callable[[Cluster], Coroutine[None, None, None]]:
        """Return a coroutine function of the cluster."""


def _planting(*kinds: ProblemKind) -> Callable[[Cluster], Coroutine[None, None, None]]:
    chosen = [next(fault for fault in FAULTS if fault.kind is kind) for kind in kinds]

    async def plant(cluster: Cluster) -> None:
        for fault in chosen:
            await fault.plant(cluster)

    return plant


@pytest.fixture
def plant() -> Plant:
    """Give what plants the first fault of each of some kinds."""
    return _planting


@pytest.fixture
async def cluster() -> Cluster:
    """Give a healthy cluster in memory."""
    cluster = Cluster(MemoryStore())
    await cluster.fill()
    return cluster


@pytest.fixture
async def cluster_on_consul(own_consul: ConsulServer) -> AsyncGenerator[Cluster]:
    """Give a healthy cluster in a Consul server of its own."""
    store = open_store(own_consul.address)
    cluster = Cluster(store)
    await cluster.fill()
    yield cluster
    await store.close()


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.plant.__name__.strip("_"))
def fault(request: pytest.FixtureRequest) -> Fault:
    """Give each fault."""
    found: Fault = request.param
    return found


@pytest.fixture(params=[each for each in FAULTS if each.repairable], ids=lambda each: each.plant.__name__.strip("_"))
def repairable_fault(request: pytest.FixtureRequest) -> Fault:
    """Give each fault that can be repaired."""
    found: Fault = request.param
    return found


@pytest.fixture
def faults() -> tuple[Fault, ...]:
    """Give all faults."""
    return FAULTS


@pytest.fixture
def on_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnCluster:
    """Name a store with a healthy cluster in the environment, and give what works on it."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))

    def run(step: Callable[[Cluster], Awaitable[T]]) -> T:
        async def opened() -> T:
            store = open_store(f"sqlite:{path}")
            try:
                return await step(Cluster(store))
            finally:
                await store.close()

        return asyncio.run(opened())

    run(Cluster.fill)
    return run

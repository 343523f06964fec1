"""What `ipam show` counts and reads: totals that add up, and no more blocks than it must."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.assignment.transaction import block_operations
from controller.cli.ipam_address import read_address
from controller.cli.ipam_borrowed import read_borrowed
from controller.cli.ipam_usage import read_usage, usage_of
from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.errors import RefusedError
from controller.ports import ABSENT, Put
from controller.store.memory import MemoryStore
from ipam.block import Block, Holder, Rest
from ipam.pool import Pool
from ipam.summary import BlockSummary

if TYPE_CHECKING:
    from collections.abc import Collection

    from controller.ports import Entry

POOL = Pool("default", ip_network("10.0.0.0/24"), 26)
SIX = Pool("six", ip_network("fd00::/64"), 122)
NOW = 1000.0


class ReadStore(MemoryStore):
    """A store that remembers which keys and prefixes were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[str] = set()

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries and remember the keys that exist."""
        found = await super().get(keys)
        self.read |= found.keys()
        return found

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Return the entries and remember the prefix."""
        self.read.add(prefix)
        return await super().list(prefix)


def block(cidr: str, owner: str | None, *nodes: str) -> Block:
    """Return a block of this owner whose first addresses are held by workloads of these nodes."""
    made = Block.claimed(ip_network(cidr), node=owner, at=0.0)
    for number, node in enumerate(nodes):
        made, _ = made.assign(Holder(f"handle{number}", node, f"web{number}", "shop", "tt0", 0.0))
    return made


async def filled(*blocks: Block) -> ReadStore:
    """Return a store with both pools and these blocks."""
    store = ReadStore()
    await store.commit([Put(keys.pool(pool.name), encode_pool(pool), ABSENT) for pool in (POOL, SIX)])
    for each in blocks:
        await store.commit(block_operations(None, each, version=ABSENT, writer=None))
    return store


async def test_usage_reads_no_block() -> None:
    """The summaries say it all, so that counting stays cheap however large the blocks' records are."""
    store = await filled(block("10.0.0.64/26", "h1", "h1"), block("fd00::40/122", None, "h2"))
    usages, malformed = await read_usage(store, NOW, with_blocks=True)
    assert store.read == {keys.POOLS, keys.USAGE}
    assert malformed == []
    assert [(usage.cidr, usage.in_use) for usage in usages] == [
        ("10.0.0.0/24", 1),
        ("10.0.0.64/26", 1),
        ("fd00::/64", 1),
        ("fd00::40/122", 1),
    ]


def test_totals_add_up_while_addresses_rest() -> None:
    """A resting address is free, and told of beside; one that has rested is free like any other."""
    resting = BlockSummary(ip_network("10.0.0.0/26"), "h1", 0.0, in_use=3, resting_count=2, rested_at=NOW + 1)
    rested = BlockSummary(ip_network("10.0.0.64/26"), "h1", 0.0, in_use=1, resting_count=5, rested_at=NOW)
    pool, first, second = usage_of([POOL], [resting, rested], NOW, with_blocks=True)
    assert (pool.total, pool.in_use, pool.free, pool.resting) == (256, 4, 252, 2)
    assert (first.total, first.in_use, first.free, first.resting) == (64, 3, 61, 2)
    assert (second.total, second.in_use, second.free, second.resting) == (64, 1, 63, 0)


@pytest.mark.parametrize("cidr", ["10.0.0.0/23", "9.255.255.0/26", "10.0.1.0/26", "fd01::/122", "::/122"])
def test_a_block_that_is_not_inside_a_pool_is_shown_last(cidr: str) -> None:
    """Also one that is larger than the pool, whose counts would not fit into the pool's."""
    outside = BlockSummary(ip_network(cidr), "h1", 0.0, in_use=3)
    usages = list(usage_of([SIX, POOL], [outside], NOW, with_blocks=False))
    assert [(usage.cidr, usage.in_use) for usage in usages] == [("10.0.0.0/24", 0), ("fd00::/64", 0), (cidr, 3)]


async def test_borrowed_addresses_are_found_by_the_share_keys() -> None:
    """Only blocks are read in which somebody borrows; an address that the owner holds is none."""
    lent, unowned = block("10.0.0.64/26", "h1", "h1", "h2"), block("fd00::40/122", None, "h2")
    store = await filled(lent, unowned, block("10.0.0.128/26", "h2", "h2"))
    borrowed, malformed = await read_borrowed(store)
    assert store.read == {keys.SHARES, keys.block(lent.cidr), keys.block(unowned.cidr)}
    assert malformed == []
    assert [(str(each.address), each.node, each.owner, each.workload) for each in borrowed] == [
        ("10.0.0.65", "h2", "h1", "shop/web1"),
        ("fd00::40", "h2", None, "shop/web0"),
    ]


async def test_one_address_costs_one_block() -> None:
    """Neither other blocks nor the list of all are read."""
    mine = block("10.0.0.64/26", "h1", "h1")
    store = await filled(mine, block("10.0.0.128/26", "h2", "h2"))
    state, _ = await read_address(store, ip_address("10.0.0.64"), NOW)
    assert store.read == {keys.POOLS, keys.RESERVATIONS, keys.block(mine.cidr)}
    assert state.state == "in use"
    assert not state.borrowed


@pytest.mark.parametrize(("cidr", "address"), [("10.0.0.0/20", "10.0.0.0"), ("fd00::40/128", "fd00::40")])
async def test_a_block_of_another_size_than_the_pools_is_found(cidr: str, address: str) -> None:
    """An earlier pool may have left it behind, and somebody may hold its addresses."""
    store = await filled(block(cidr, "h1", "h1"))
    state, _ = await read_address(store, ip_address(address), NOW)
    assert state.holder is not None
    assert state.holder.handle == "handle0"


async def test_an_address_that_has_rested_is_free() -> None:
    """What is over is not told of."""
    rested = block("10.0.0.64/26", "h1", "h1", "h1", "h1").release(
        (0, 1), {0: Rest(NOW), 1: Rest(NOW + 1, "shop/web1")}
    )
    store = await filled(rested)
    states = [(await read_address(store, ip_address(f"10.0.0.{number}"), NOW))[0] for number in (64, 65)]
    assert [state.state for state in states] == ["free", "resting"]
    assert list(states[0].lines()) == ["10.0.0.64 is not assigned in block 10.0.0.64/26"]
    assert list(states[1].lines())[1] == "It was released and rests until 1970-01-01T00:16:41Z, kept for shop/web1."


async def test_an_address_in_a_block_that_cannot_be_read_is_not_called_free() -> None:
    """Nobody may conclude that it can be used."""
    store = await filled()
    await store.commit([Put(keys.block(ip_network("10.0.0.64/26")), b"{}", ABSENT)])
    with pytest.raises(RefusedError, match=r"10\.0\.0\.70 lies in a block that cannot be read: .*ipam check"):
        await read_address(store, ip_address("10.0.0.70"), NOW)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ip=10.0.0.300"], "Invalid value for '--ip': '10.0.0.300' does not appear to be an IPv4 or IPv6 address"),
        (["--ip=10.0.0.1", "--show-blocks"], "exclude each other"),
        (["--show-borrowed", "--show-configuration"], "exclude each other"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One thing is shown at a time."""
    assert run(["ipam", "show", *arguments]) == 2
    assert complaint in capsys.readouterr().err

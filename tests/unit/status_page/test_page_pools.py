"""Pools and blocks as the status page shows them."""

from __future__ import annotations

from ipaddress import ip_network

from controller.agent.page_pools import Cell, pool_pictures
from ipam.pool import Pool
from ipam.summary import BlockSummary, blocks_by_pool

WEB = Pool("web", ip_network("10.0.0.0/16"), 26)
DB = Pool("db", ip_network("10.1.0.0/28"), 28, disabled=True)
SIX = Pool("six", ip_network("fd00::/64"), 122)


def block(cidr: str, owner: str | None, in_use: int) -> BlockSummary:
    """Return a block's summary."""
    return BlockSummary(ip_network(cidr), owner, 0.0, in_use)


def test_one_cell_for_one_block() -> None:
    """In the order of addresses, with owner and counts; a pool without blocks has none."""
    blocks = [block("10.1.0.0/28", None, 16), block("10.0.9.0/26", "n2", 5), block("10.0.1.0/26", "n1", 0)]
    web, db, six = pool_pictures([SIX, DB, WEB], blocks)
    assert web.cells == (
        Cell("10.0.1.0/26", "10.0.1.0/26", 1, ("n1",), 1, 0, 64),
        Cell("10.0.9.0/26", "10.0.9.0/26", 1, ("n2",), 1, 5, 64),
    )
    assert (web.total, web.block_count, web.claimed_count, web.in_use) == ("65536", "1024", 2, 5)
    assert web.used_share == 5 / 65536
    assert (db.disabled, db.used_share, db.cells[0].owners) == (True, 1.0, ("no node",))
    assert (six.total, six.block_count, six.cells) == (str(2**64), str(2**58), ())


def test_ten_thousand_blocks_are_a_few_hundred_cells() -> None:
    """Every block and address is in one of them, side by side; three owners are named."""
    pool = Pool("large", ip_network("10.0.0.0/10"), 26)
    blocks = [block(str(pool.block_at(index)), f"n{index % 500}", index % 65) for index in range(10_000)]
    [large] = pool_pictures([pool], blocks)
    assert len(large.cells) == 400
    assert {cell.block_count for cell in large.cells} == {25}
    assert sum(cell.in_use for cell in large.cells) == large.in_use == sum(each.in_use for each in blocks)
    assert (large.cells[0].first, large.cells[0].last) == (str(pool.block_at(0)), str(pool.block_at(24)))
    assert (large.cells[0].owners, large.cells[0].owner_count) == (("n0", "n1", "n10"), 25)


def test_many_pools_share_the_room() -> None:
    """However many pools there are, the cells of all of them have a bound, but each pool with blocks has one."""
    pools = [Pool(f"p{index}", ip_network((int(WEB.cidr[0]) + (index << 8), 24)), 28) for index in range(1000)]
    blocks = [BlockSummary(pool.block_at(index), "n1", 0.0, 1) for pool in pools for index in range(16)]
    pictures = pool_pictures(pools, blocks)
    assert {len(picture.cells) for picture in pictures} == {2}
    assert {picture.claimed_count for picture in pictures} == {16}


def test_blocks_outside_of_all_pools_stand_apart() -> None:
    """Also those before the first pool and those larger than the pool they begin in."""
    outside = [block("9.255.255.192/26", "n1", 1), block("10.1.0.0/26", "n1", 1), block("fd01::/122", "n1", 1)]
    inside, left = blocks_by_pool([DB, WEB, SIX], [*outside, block("fd00::40/122", "n1", 1)])
    assert left == outside
    assert [(pool.name, len(blocks)) for pool, blocks in inside] == [("web", 0), ("db", 0), ("six", 1)]
    assert [picture.in_use for picture in pool_pictures([DB, WEB], outside)] == [0, 0]

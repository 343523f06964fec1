"""`tortiectl ipam`: how the addresses of the pools are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.get import read_blocks
from controller.cli.output import output_option, print_boxed, print_document
from controller.cli.pools import read_pools

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from controller.ports import Store
    from ipam.block import Block
    from ipam.pool import Pool

#: From here on a count is written in powers of ten, as calicoctl does it.
_LARGEST_WRITTEN_OUT: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Usage:
    """How many addresses of a pool or block there are and how many are held."""

    grouping: str
    name: str
    cidr: str
    total: int
    in_use: int

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        free = self.total - self.in_use
        return self.grouping, self.cidr, _count(self.total), self._share(self.in_use), self._share(free)

    def _share(self, part: int) -> str:
        return f"{_count(part)} ({100 * part / self.total:.0f}%)"


@click.group()
@examples("tortiectl ipam show --show-blocks")
def ipam() -> None:
    """Show how addresses are used."""


@ipam.command()
@click.option("--show-blocks", is_flag=True, help="Also show each block.")
@output_option("table", "json", "yaml")
@pass_connection
@examples("tortiectl ipam show --show-blocks")
def show(connection: Connection, form: str, *, show_blocks: bool) -> None:
    """Show how many addresses of each pool are in use."""
    pools, blocks = connection.with_store(_read)
    usages = list(usage_of(pools, blocks, with_blocks=show_blocks))
    if form == "table":
        headers = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE")
        print_boxed(headers, [usage.row() for usage in usages], right=(2,))
        return
    items = [
        {
            "grouping": usage.grouping,
            "name": usage.name,
            "cidr": usage.cidr,
            "total": usage.total,
            "inUse": usage.in_use,
            "free": usage.total - usage.in_use,
        }
        for usage in usages
    ]
    print_document(items, form)


def usage_of(pools: Collection[Pool], blocks: Collection[Block], *, with_blocks: bool) -> Iterator[Usage]:
    """Yield each pool, followed by its blocks if asked for; last the blocks that lie in no pool, always."""
    left = list(blocks)
    for pool in pools:
        inside = [block for block in left if pool.indexes_in(block.cidr)]
        left = [block for block in left if not pool.indexes_in(block.cidr)]
        in_use = sum(block.in_use for block in inside)
        yield Usage("IP Pool", pool.name, str(pool.cidr), pool.cidr.num_addresses, in_use)
        if with_blocks:
            yield from map(_block_usage, inside)
    yield from map(_block_usage, left)


def _block_usage(block: Block) -> Usage:
    return Usage("Block", block.affinity or "", str(block.cidr), block.size, block.in_use)


async def _read(store: Store) -> tuple[list[Pool], list[Block]]:
    return list((await read_pools(store)).values()), await read_blocks(store)


def _count(number: int) -> str:
    return str(number) if number <= _LARGEST_WRITTEN_OUT else f"{number:.5g}"

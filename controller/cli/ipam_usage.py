"""How many addresses of the pools and blocks are in use: counted from the blocks' summaries alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from controller.cli.output import print_boxed, print_document
from controller.cli.reading import decoded_each
from controller.datamodel import keys
from controller.datamodel.blocks import decode_usage
from controller.datamodel.records import decode_pool
from ipam.summary import blocks_by_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from controller.errors import MalformedRecord
    from controller.ports import Store
    from ipam.pool import Pool
    from ipam.summary import BlockSummary

#: From here on a count is written in powers of ten, as calicoctl does it.
_LARGEST_WRITTEN_OUT: Final = 1 << 32
_POOL: Final = "IP Pool"
_HEADERS: Final = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE")


@dataclass(frozen=True, slots=True)
class Usage:
    """How many addresses of a pool or block there are and how many are held; the others are free.

    Of the free ones, `resting` at most were released so recently that they are not lent to just anybody yet.
    """

    grouping: str
    name: str
    cidr: str
    total: int
    in_use: int
    resting: int

    @property
    def free(self) -> int:
        """How many addresses are not held."""
        return self.total - self.in_use

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        return self.grouping, self.cidr, _count(self.total), self._share(self.in_use), self._share(self.free)

    def document(self) -> dict[str, object]:
        """Return the fields for programs."""
        return {
            "grouping": self.grouping,
            "name": self.name,
            "cidr": self.cidr,
            "total": self.total,
            "inUse": self.in_use,
            "free": self.free,
            "resting": self.resting,
        }

    def _share(self, part: int) -> str:
        return f"{_count(part)} ({100 * part / self.total:.0f}%)"


async def read_usage(store: Store, now: float, *, with_blocks: bool) -> tuple[list[Usage], list[MalformedRecord]]:
    """Return the usage at this time in epoch seconds, and what is wrong with records that cannot be read."""
    pools, bad_pools = decoded_each(await store.list(keys.POOLS), decode_pool)
    summaries, bad_summaries = decoded_each(await store.list(keys.USAGE), decode_usage)
    return list(usage_of(pools, summaries, now, with_blocks=with_blocks)), [*bad_pools, *bad_summaries]


def usage_of(
    pools: Iterable[Pool], summaries: Iterable[BlockSummary], now: float, *, with_blocks: bool
) -> Iterator[Usage]:
    """Yield each pool, followed by its blocks if asked for; last the blocks that lie in no pool, always."""
    inside, outside = blocks_by_pool(pools, summaries)
    for pool, blocks in inside:
        in_use = sum(block.in_use for block in blocks)
        resting = sum(_resting(block, now) for block in blocks)
        yield Usage(_POOL, pool.name, str(pool.cidr), pool.cidr.num_addresses, in_use, resting)
        if with_blocks:
            yield from (_block_usage(block, now) for block in blocks)
    yield from (_block_usage(block, now) for block in outside)


def print_usage(usages: Sequence[Usage], form: str) -> None:
    """Print the usage as a table, or as a document with exact numbers."""
    if form != "table":
        print_document([usage.document() for usage in usages], form)
        return
    print_boxed(_HEADERS, [usage.row() for usage in usages], right=(2,))
    resting = sum(usage.resting for usage in usages if usage.grouping == _POOL)
    if resting:
        click.echo(f"Up to {resting} of the free addresses rest after their release; see `tortiectl ipam show --ip`.")


def _block_usage(block: BlockSummary, now: float) -> Usage:
    return Usage("Block", block.affinity or "", str(block.cidr), block.size, block.in_use, _resting(block, now))


def _resting(block: BlockSummary, now: float) -> int:
    return block.resting_count if block.rested_at > now else 0


def _count(number: int) -> str:
    return str(number) if number <= _LARGEST_WRITTEN_OUT else f"{number:.5g}"

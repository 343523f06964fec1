"""A pool split into equal smaller ones, in one transaction."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from controller.cli.guarding import next_revision, revision, with_retries
from controller.cli.reading import decoded_each, way_out
from controller.datamodel import keys
from controller.datamodel.records import decode_pool, encode_pool
from controller.errors import RefusedError
from controller.ports import ABSENT, Delete, Put
from controller.resources.fields import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.ports import Entry, Store
    from ipam.address import IPNetwork
    from ipam.pool import Pool

_COUNTS: Final = (2, 4, 8, 16, 32)


async def split_pool(store: Store, count: int, which: str | IPNetwork) -> tuple[Pool, list[Pool]]:
    """Replace a pool, given by its name or its CIDR, by `count` equal parts; return it and them.

    The parts have its other fields. Blocks and addresses stay as they are; a node that is about to claim a block of the
    pool meets a conflict, because a claim rests on the pool's version, and then knows the parts. Raises `RefusedError`
    where the pool cannot be split so, and `ConflictError` when others kept writing.
    """
    if count not in _COUNTS:
        raise RefusedError(f"{count} parts: a pool is split into {', '.join(map(str, _COUNTS))}; choose one of these")

    async def attempt() -> tuple[Pool, list[Pool]]:
        expected = await revision(store, keys.POOLS_REVISION)
        entries = await store.list(keys.POOLS)
        pool = _chosen(entries, which)
        parts = parts_of(pool, count)
        for part in parts:
            if keys.pool(part.name) in entries:
                raise RefusedError(f"pool {part.name} exists, and a part of {pool.name} would be named so; delete it")
        removal = Delete(keys.pool(pool.name), entries[keys.pool(pool.name)].version)
        puts = [Put(keys.pool(part.name), encode_pool(part), ABSENT) for part in parts]
        await store.commit([removal, *puts, next_revision(keys.POOLS_REVISION, expected)])
        return pool, parts

    return await with_retries(attempt)


def parts_of(pool: Pool, count: int) -> list[Pool]:
    """Return the pool's equal parts, in the order of their addresses; raises `RefusedError` where there are none."""
    length = pool.cidr.prefixlen + count.bit_length() - 1
    if length > pool.block_prefix_length:
        raise RefusedError(
            f"pool {pool.name} ({pool.cidr}) holds {pool.block_count} blocks of /{pool.block_prefix_length} and cannot "
            f"be split into {count} parts of whole blocks; split it into fewer"
        )
    names = [f"split-{pool.name}-{number}" for number in range(count)]
    if not re.match(NAME_PATTERN, names[-1]):
        raise RefusedError(f"{names[-1]} would be the name of a part, and is too long; create the parts by hand")
    cidrs: list[IPNetwork] = list(pool.cidr.subnets(new_prefix=length))
    return [replace(pool, name=name, cidr=cidr) for name, cidr in zip(names, cidrs, strict=True)]


def _chosen(entries: Mapping[str, Entry], which: str | IPNetwork) -> Pool:
    wanted: Callable[[Pool], bool] = (
        (lambda pool: pool.name == which) if isinstance(which, str) else (lambda pool: pool.cidr == which)
    )
    pools, malformed = decoded_each(entries, decode_pool)
    found = next(filter(wanted, pools), None)
    if found is not None:
        return found
    if malformed:
        raise RefusedError(way_out(malformed[0]))
    present = ", ".join(f"{pool.name} ({pool.cidr})" for pool in pools)
    raise RefusedError(f"pool {which} does not exist; the pools are: {present or 'none'}")

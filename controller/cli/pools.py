"""Pools in the store, as far as they depend on each other and on their blocks, and their deletion.

Every write of a pool also writes the pools' revision: two overlapping pools cannot both get in.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from controller.assignment.transaction import OPERATIONS_PER_BLOCK, block_operations
from controller.cli.guarding import next_revision, revision, with_retries
from controller.cli.reading import decoded_each, way_out
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, share_cidr
from controller.datamodel.records import decode_pool, encode_pool
from controller.errors import ConflictError, MalformedRecord, RefusedError, StoreUnavailable
from controller.ports import MAX_OPERATIONS, Check, Delete, Put
from ipam.inventory import overlaps

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Iterator, Mapping, Sequence

    from controller.ports import Entry, Operation, Store, Version
    from ipam.address import IPNetwork
    from ipam.pool import Pool

#: Blocks removed in one transaction, which also checks the pool.
_BLOCKS_AT_ONCE: Final = (MAX_OPERATIONS - 1) // OPERATIONS_PER_BLOCK


def overlap_mistakes(pools: Sequence[Pool], entries: Mapping[str, Entry]) -> Iterator[tuple[Pool, str]]:
    """Yield each pool that shares an address with another one once these are written, and what is wrong.

    `entries` holds the record of each pool in the store; where one cannot be read, nothing can be told.
    """
    written = {keys.pool(pool.name) for pool in pools}
    rest = {key: entry for key, entry in entries.items() if key.startswith(keys.POOLS) and key not in written}
    present, malformed = decoded_each(rest, decode_pool)
    if malformed and pools:
        yield pools[0], f"whether the pools overlap cannot be told: {way_out(malformed[0])}"
        return
    place = {pool.name: number for number, pool in enumerate(pools)}
    pools_by_cidr: dict[IPNetwork, list[Pool]] = {}
    for pool in (*present, *pools):
        pools_by_cidr.setdefault(pool.cidr, []).append(pool)
    # The sweep is quick where comparing each of a thousand pools with each other one is not.
    for pair in dict.fromkeys(overlaps(pool.cidr for pool in (*present, *pools))):
        both = {pool.name: pool for cidr in pair for pool in pools_by_cidr[cidr]}
        other, *_, pool = sorted(both.values(), key=lambda pool: place.get(pool.name, -1))
        if pool.name in place:
            text = (
                f"spec.cidr: pool {other.name} ({other.cidr}) overlaps pool {pool.name} ({pool.cidr}): an address may "
                f"lie in one pool only; change one of the two"
            )
            yield pool, text


def leftover_mistake(pool: Pool, entries: Mapping[str, Entry]) -> str | None:
    """Return what is wrong with a new pool in whose range lie blocks of another size, if there are any.

    `entries` holds the summaries of all blocks. Such blocks are left where the record of a pool was removed by force.
    """
    cidrs = [share_cidr(key) for key in entries if key.startswith(keys.USAGE)]
    left = sorted(
        (cidr for cidr in cidrs if cidr is not None and pool.indexes_in(cidr)),
        key=lambda cidr: (int(cidr.network_address), cidr.prefixlen),
    )
    other = [cidr for cidr in left if cidr.prefixlen != pool.block_prefix_length]
    if not other:
        return None
    sizes = {cidr.prefixlen for cidr in left}
    fitting = f"write spec.blockSize {sizes.pop()}, or " if len(sizes) == 1 else ""
    return (
        f"spec.blockSize: {pool.block_prefix_length}, but {len(other)} blocks of another size lie in {pool.cidr} "
        f"({other[0]}{', ...' if len(other) > 1 else ''}), left by an earlier pool; {fitting}remove their workloads "
        f"and delete them with `tortiectl delete block {other[0]}`"
    )


async def remove_malformed_pool(store: Store, name: str) -> bool:
    """Remove a pool's record if it cannot be read, and return whether it was so; its blocks stay as they are."""

    async def attempt() -> bool:
        expected = await revision(store, keys.POOLS_REVISION)
        entry = (await store.get([keys.pool(name)])).get(keys.pool(name))
        if entry is None or not decoded_each({keys.pool(name): entry}, decode_pool)[1]:
            return False
        await store.commit([Delete(keys.pool(name), entry.version), next_revision(keys.POOLS_REVISION, expected)])
        return True

    return await with_retries(attempt)


async def delete_pool(store: Store, name: str) -> None:
    """Remove a pool and its blocks; raises `RefusedError` when it does not exist or addresses of it are in use.

    The pool is disabled while its blocks go, so that no node claims another one meanwhile: a claim rests on the pool's
    version. When the deletion fails or is interrupted the pool is enabled again, unless somebody else has changed it
    meanwhile.
    """

    async def attempt() -> None:
        entry = (await store.get([keys.pool(name)])).get(keys.pool(name))
        if entry is None:
            return
        pool = decode_pool(keys.pool(name), entry.value)
        if pool.disabled:
            await _delete_disabled(store, pool, entry.version)
            return
        # A write that is interrupted may have been done, so it is not: what it has written has to be known.
        disabling = asyncio.ensure_future(_replace(store, replace(pool, disabled=True), entry.version))
        try:
            await _delete_disabled(store, pool, await asyncio.shield(disabling))
        except BaseException:  # Ctrl-C comes as a cancellation
            await asyncio.shield(_enable_again(store, pool, disabling))
            raise

    _refuse_if_used(name, await _blocks_of(store, await _existing(store, name)))
    await with_retries(attempt)


async def _delete_disabled(store: Store, pool: Pool, version: Version) -> None:
    """Remove the blocks, then the pool, while its record has this version."""
    expected = await revision(store, keys.POOLS_REVISION)
    blocks = await _blocks_of(store, pool)
    _refuse_if_used(pool.name, blocks)
    await _remove_blocks(store, blocks, version, pool.name)
    await store.commit([Delete(keys.pool(pool.name), version), next_revision(keys.POOLS_REVISION, expected)])


async def _enable_again(store: Store, pool: Pool, disabling: Future[Version]) -> None:
    """Write the pool as it was; raises `StoreUnavailable` that says so when it may be left disabled."""
    try:
        await _replace(store, pool, await disabling)
    except ConflictError:
        pass  # whoever changed it has decided since
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"pool {pool.name} may be left disabled, because its deletion broke off and could not be undone: {error}; "
            f"see `tortiectl get pools -o wide`, then delete it again or enable it with `tortiectl apply`"
        ) from error


async def _replace(store: Store, pool: Pool, expected: Version) -> Version:
    """Write a pool over the version of its record that was read, and return the version it then has."""
    put = Put(keys.pool(pool.name), encode_pool(pool), expected)
    return (await store.commit([put, next_revision(keys.POOLS_REVISION, await revision(store, keys.POOLS_REVISION))]))[
        put.key
    ]


async def _existing(store: Store, name: str) -> Pool:
    entries = await store.list(keys.POOLS)
    entry = entries.get(keys.pool(name))
    if entry is None:
        present = ", ".join(key.removeprefix(keys.POOLS) for key in entries)
        raise RefusedError(f"pool {name} does not exist; the pools are: {present or 'none'}")
    try:
        return decode_pool(keys.pool(name), entry.value)
    except MalformedRecord as error:
        raise RefusedError(way_out(error)) from error


async def _blocks_of(store: Store, pool: Pool) -> dict[str, Entry]:
    """Return the records of the pool's blocks; a key that names no block is no pool's and is left alone."""
    blocks = {key: (share_cidr(key), entry) for key, entry in (await store.list(keys.BLOCKS)).items()}
    return {key: entry for key, (cidr, entry) in blocks.items() if cidr is not None and pool.indexes_in(cidr)}


def _refuse_if_used(name: str, blocks: Mapping[str, Entry]) -> None:
    decoded, malformed = decoded_each(blocks, decode_block)
    if malformed:
        raise RefusedError(f"pool {name} has a block that may be in use: {way_out(malformed[0])}")
    in_use = [(address, holder) for block in decoded for address, holder in block.assignments()]
    if in_use:
        address, holder = in_use[0]
        raise RefusedError(
            f"pool {name} has {len(in_use)} addresses in use ({address} by {holder.workload} on {holder.node}, ...); "
            f"set spec.disabled to stop new assignments, remove the workloads, then delete it"
        )


async def _remove_blocks(store: Store, blocks: Mapping[str, Entry], pool_version: Version, name: str) -> None:
    found = [(decode_block(key, entry.value), entry.version) for key, entry in blocks.items()]
    for start in range(0, len(found), _BLOCKS_AT_ONCE):
        operations: list[Operation] = [Check(keys.pool(name), pool_version)]
        for block, version in found[start : start + _BLOCKS_AT_ONCE]:
            operations += block_operations(block, None, version=version, writer=None)
        await store.commit(operations)

"""Pools in the store: read and deleted.

Every write of a pool also writes the pools' revision: two overlapping pools cannot both get in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from controller.assignment.transaction import OPERATIONS_PER_BLOCK, block_operations
from controller.cli.guarding import next_revision, revision, with_retries
from controller.cli.reading import decoded_each, way_out
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, share_cidr
from controller.datamodel.records import decode_pool, encode_pool
from controller.errors import ConflictError, RefusedError, StoreUnavailable, TortieError
from controller.ports import MAX_OPERATIONS, Check, Delete, Put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.ports import Entry, Operation, Store, Version
    from ipam.pool import Pool

#: Blocks removed in one transaction, which also checks the pool.
_BLOCKS_AT_ONCE: Final = (MAX_OPERATIONS - 1) // OPERATIONS_PER_BLOCK


async def read_pools(store: Store) -> dict[str, Pool]:
    """Return every pool by its name; raises `RefusedError`, with the way out, when one cannot be read."""
    pools, malformed = decoded_each(await store.list(keys.POOLS), decode_pool)
    if malformed:
        raise RefusedError(way_out(malformed[0]))
    return {pool.name: pool for pool in sorted(pools, key=lambda pool: (pool.version, pool.cidr))}


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
    version. When the deletion fails the pool is enabled again, unless somebody else has changed it meanwhile.
    """

    async def attempt() -> None:
        entry = (await store.get([keys.pool(name)])).get(keys.pool(name))
        if entry is None:
            return
        pool = decode_pool(keys.pool(name), entry.value)
        version = entry.version
        if not pool.disabled:
            version = await _replace(store, replace(pool, disabled=True), version)
        try:
            await _delete_disabled(store, pool, version)
        except TortieError:
            if not pool.disabled:
                await _enable_again(store, pool, version)
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


async def _enable_again(store: Store, pool: Pool, version: Version) -> None:
    """Write the pool as it was; raises `StoreUnavailable` that says so when it may be left disabled."""
    try:
        await _replace(store, pool, version)
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
    pools = await read_pools(store)
    if name not in pools:
        raise RefusedError(f"pool {name} does not exist; the pools are: {', '.join(sorted(pools)) or 'none'}")
    return pools[name]


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

"""Changes to pools: all of one command in one transaction, or none of it.

Every write of a pool also writes the pools' revision against the version it was read at, before the pools were read.
Whoever loses that race reads again, and then sees the other's pool: two overlapping pools cannot both get in.
"""

from __future__ import annotations

import json
import random
import uuid
from asyncio import sleep
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from controller.assignment.transaction import OPERATIONS_PER_BLOCK, block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.datamodel.records import decode_pool, encode_pool
from controller.errors import ConflictError, RefusedError, StoreUnavailable, TortieError
from controller.ports import ABSENT, MAX_OPERATIONS, Check, Delete, Put
from ipam.pool import check_overlaps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from controller.ports import Entry, Operation, Store, Version
    from ipam.pool import Pool

T = TypeVar("T")
_ATTEMPTS: Final = 8
_LONGEST_PAUSE_SECONDS: Final = 0.2
#: Blocks removed in one transaction, which also checks the pool.
_BLOCKS_AT_ONCE: Final = (MAX_OPERATIONS - 1) // OPERATIONS_PER_BLOCK


async def read_pools(store: Store) -> dict[str, Pool]:
    """Return every pool by its name; raises `MalformedRecord`."""
    pools = [decode_pool(key, entry.value) for key, entry in (await store.list(keys.POOLS)).items()]
    return {pool.name: pool for pool in sorted(pools, key=lambda pool: (pool.version, pool.cidr))}


async def write_pools(store: Store, pools: Sequence[Pool], *, create_only: bool) -> dict[str, str]:
    """Make the store hold these pools, all or none; return whether each was `created`, `configured` or `unchanged`.

    Raises `RefusedError` for a pool that exists when `create_only`, and for a changed CIDR or block size;
    `PoolConflict` when two pools would overlap; `ConflictError` when others kept writing.
    """

    async def attempt() -> dict[str, str]:
        revision = await _revision(store)
        entries = await store.list(keys.POOLS)
        outcome: dict[str, str] = {}
        operations: list[Operation] = []
        for pool in pools:
            entry = entries.get(keys.pool(pool.name))
            outcome[pool.name] = _outcome(pool, entry, create_only=create_only)
            if outcome[pool.name] != "unchanged":
                expected = ABSENT if entry is None else entry.version
                operations.append(Put(keys.pool(pool.name), encode_pool(pool), expected))
        present = {decode_pool(key, entry.value).name: decode_pool(key, entry.value) for key, entry in entries.items()}
        check_overlaps({**present, **{pool.name: pool for pool in pools}}.values())
        if operations:
            await store.commit([*operations, _next_revision(revision)])
        return outcome

    return await _with_retries(attempt)


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
    await _with_retries(attempt)


async def _delete_disabled(store: Store, pool: Pool, version: Version) -> None:
    """Remove the blocks, then the pool, while its record has this version."""
    revision = await _revision(store)
    blocks = await _blocks_of(store, pool)
    _refuse_if_used(pool.name, blocks)
    await _remove_blocks(store, blocks, version, pool.name)
    await store.commit([Delete(keys.pool(pool.name), version), _next_revision(revision)])


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
    return (await store.commit([put, _next_revision(await _revision(store))]))[put.key]


def _outcome(pool: Pool, entry: Entry | None, *, create_only: bool) -> str:
    if entry is None:
        return "created"
    if create_only:
        raise RefusedError(f"pool {pool.name} exists; change it with `tortiectl apply`, or choose another name")
    present = decode_pool(keys.pool(pool.name), entry.value)
    if present.cidr != pool.cidr:
        raise RefusedError(
            f"pool {pool.name}: spec.cidr: {present.cidr} cannot be changed to {pool.cidr}; "
            f"create a second pool, move the workloads, then delete the first"
        )
    if present.block_prefix_length != pool.block_prefix_length:
        raise RefusedError(
            f"pool {pool.name}: spec.blockSize: {present.block_prefix_length} cannot be changed to "
            f"{pool.block_prefix_length}; create a second pool, move the workloads, then delete the first"
        )
    return "unchanged" if present == pool else "configured"


async def _existing(store: Store, name: str) -> Pool:
    pools = await read_pools(store)
    if name not in pools:
        raise RefusedError(f"pool {name} does not exist; the pools are: {', '.join(sorted(pools)) or 'none'}")
    return pools[name]


async def _blocks_of(store: Store, pool: Pool) -> dict[str, Entry]:
    blocks = await store.list(keys.BLOCKS)
    return {key: entry for key, entry in blocks.items() if pool.indexes_in(keys.cidr_of(key))}


def _refuse_if_used(name: str, blocks: Mapping[str, Entry]) -> None:
    decoded = [decode_block(key, entry.value) for key, entry in blocks.items()]
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


async def _revision(store: Store) -> Version:
    entry = (await store.get([keys.POOLS_REVISION])).get(keys.POOLS_REVISION)
    return ABSENT if entry is None else entry.version


def _next_revision(expected: Version) -> Put:
    """Return the write of the pools' revision; Consul gives a value written twice no new version, so it is unique."""
    return Put(keys.POOLS_REVISION, json.dumps({"revision": uuid.uuid4().hex}).encode(), expected)


async def _with_retries(attempt: Callable[[], Awaitable[T]]) -> T:
    for _ in range(_ATTEMPTS - 1):
        try:
            return await attempt()
        except ConflictError:
            await sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311  jitter is no secret
    return await attempt()

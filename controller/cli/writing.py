"""Resources written into the store: all of one command in one transaction, or none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from controller.cli.pools import next_revision, pools_revision, with_retries
from controller.cli.reading import decoded_each, way_out
from controller.datamodel import keys
from controller.datamodel.records import (
    decode_configuration,
    decode_pool,
    decode_reservation,
    encode_configuration,
    encode_pool,
    encode_reservation,
)
from controller.errors import MalformedRecord, RefusedError
from controller.ports import ABSENT, Put
from controller.resources import kind_and_name
from ipam.pool import Pool, check_overlaps
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.ports import Entry, Operation, Store
    from controller.resources import Resource

CREATED, CONFIGURED, UNCHANGED = "created", "configured", "unchanged"
_MOVE: Final = "create a second pool, move the workloads, then delete the first"


async def write_resources(store: Store, resources: Sequence[Resource], *, create_only: bool) -> dict[str, str]:
    """Make the store hold these resources, all or none.

    Returns for each, by its kind and name, whether it was `created`, `configured` or is `unchanged`. Raises
    `RefusedError` for one that exists when `create_only`, for a pool's changed CIDR or block size, and while another
    pool cannot be read; `PoolConflict` when two pools would overlap; `ConflictError` when others kept writing.
    """
    pools = [resource for resource in resources if isinstance(resource, Pool)]
    wanted = [_key(resource) for resource in resources]

    async def attempt() -> dict[str, str]:
        revision = await pools_revision(store)
        entries = {**(await store.get(wanted)), **(await store.list(keys.POOLS) if pools else {})}
        outcome: dict[str, str] = {}
        operations: list[Operation] = []
        for resource, key in zip(resources, wanted, strict=True):
            entry = entries.get(key)
            kind, name = kind_and_name(resource)
            outcome[f"{kind.lower()} {name}"] = what = _outcome(resource, key, entry, create_only=create_only)
            if what != UNCHANGED:
                operations.append(Put(key, _encoded(resource), ABSENT if entry is None else entry.version))
        _check_overlaps(pools, entries)
        if any(operation.key.startswith(keys.POOLS) for operation in operations):
            operations.append(next_revision(revision))
        if operations:
            await store.commit(operations)
        return outcome

    return await with_retries(attempt)


def _key(resource: Resource) -> str:
    if isinstance(resource, Pool):
        return keys.pool(resource.name)
    return keys.reservation(resource.name) if isinstance(resource, Reservation) else keys.IPAM_CONFIGURATION


def _encoded(resource: Resource) -> bytes:
    if isinstance(resource, Pool):
        return encode_pool(resource)
    return encode_reservation(resource) if isinstance(resource, Reservation) else encode_configuration(resource)


def _decoded(key: str, value: bytes) -> Resource:
    if key.startswith(keys.POOLS):
        return decode_pool(key, value)
    return decode_reservation(key, value) if key.startswith(keys.RESERVATIONS) else decode_configuration(key, value)


def _outcome(resource: Resource, key: str, entry: Entry | None, *, create_only: bool) -> str:
    if entry is None:
        return CREATED
    if create_only:
        kind, name = kind_and_name(resource)
        raise RefusedError(f"{kind.lower()} {name} exists; change it with `tortiectl apply`")
    try:
        present = _decoded(key, entry.value)
    except MalformedRecord:
        return CONFIGURED  # what cannot be read is repaired by writing it anew
    if isinstance(resource, Pool) and isinstance(present, Pool):
        _check_unmoved(resource, present)
    return UNCHANGED if present == resource else CONFIGURED


def _check_unmoved(pool: Pool, present: Pool) -> None:
    if present.cidr != pool.cidr:
        raise RefusedError(f"pool {pool.name}: spec.cidr: {present.cidr} cannot be changed to {pool.cidr}; {_MOVE}")
    if present.block_prefix_length != pool.block_prefix_length:
        raise RefusedError(
            f"pool {pool.name}: spec.blockSize: {present.block_prefix_length} cannot be changed to "
            f"{pool.block_prefix_length}; {_MOVE}"
        )


def _check_overlaps(pools: Sequence[Pool], entries: Mapping[str, Entry]) -> None:
    """Raise `PoolConflict` if pools overlap once these are written, and `RefusedError` if that cannot be told."""
    written = {keys.pool(pool.name) for pool in pools}
    others = {key: entry for key, entry in entries.items() if key.startswith(keys.POOLS) and key not in written}
    present, malformed = decoded_each(others, decode_pool)
    if malformed and pools:
        raise RefusedError(f"whether the pools overlap cannot be told: {way_out(malformed[0])}")
    check_overlaps([*present, *pools])

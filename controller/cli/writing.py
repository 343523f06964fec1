"""Resources written into the store: all of one command in one transaction, or none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bgp.peering import PeerDefinition
from controller.cli.guarding import next_revision, revision, with_retries
from controller.cli.peers import check_scopes, filter_checks
from controller.cli.reading import decoded_each, way_out
from controller.cli.stored import record_of, resource_in
from controller.datamodel import keys
from controller.datamodel.records import decode_pool
from controller.errors import MalformedRecord, RefusedError
from controller.ports import ABSENT, Put
from controller.resources import kind_and_name
from ipam.pool import Pool, check_overlaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.ports import Entry, Store
    from controller.resources import Resource

CREATED, CONFIGURED, UNCHANGED = "created", "configured", "unchanged"
#: The revision that is written with every record below a prefix.
_REVISION_OF: Final = {keys.POOLS: keys.POOLS_REVISION, keys.PEERS: keys.PEERS_REVISION}
_MOVE: Final = "create a second pool, move the workloads, then delete the first"


async def write_resources(store: Store, resources: Sequence[Resource], *, create_only: bool) -> dict[str, str]:
    """Make the store hold these resources, all or none.

    Returns for each, by its kind and name, whether it was `created`, `configured` or is `unchanged`. Raises
    `RefusedError` for one that exists when `create_only`, for a pool's changed CIDR or block size, for a peer whose
    filters do not exist or whose address another one of its scope has, and while a record these are compared with
    cannot be read; `PoolConflict` when two pools would overlap; `ConflictError` when others kept writing.
    """
    pools = [resource for resource in resources if isinstance(resource, Pool)]
    peers = [resource for resource in resources if isinstance(resource, PeerDefinition)]
    guarded = [*([keys.POOLS] if pools else []), *([keys.PEERS] if peers else [])]

    async def attempt() -> dict[str, str]:
        expected = {prefix: await revision(store, _REVISION_OF[prefix]) for prefix in guarded}
        entries = await store.get([record_of(resource)[0] for resource in resources])
        for prefix in (*guarded, *([keys.FILTERS] if peers else [])):
            entries |= await store.list(prefix)
        outcome, puts = _compared(resources, entries, create_only=create_only)
        written = {put.key for put in puts}
        _check_overlaps(pools, entries)
        check_scopes(peers, entries)
        checks = filter_checks(peers, entries, written)
        changed = [prefix for prefix in guarded if any(key.startswith(prefix) for key in written)]
        revisions = [next_revision(_REVISION_OF[prefix], expected[prefix]) for prefix in changed]
        if puts:
            await store.commit([*puts, *checks, *revisions])
        return outcome

    return await with_retries(attempt)


def _compared(
    resources: Sequence[Resource], entries: Mapping[str, Entry], *, create_only: bool
) -> tuple[dict[str, str], list[Put]]:
    """Return what becomes of each resource, by its kind and name, and the writes of those that change."""
    outcome: dict[str, str] = {}
    puts: list[Put] = []
    for resource in resources:
        key, value = record_of(resource)
        entry = entries.get(key)
        kind, name = kind_and_name(resource)
        outcome[f"{kind.lower()} {name}"] = what = _outcome(resource, key, entry, create_only=create_only)
        if what != UNCHANGED:
            puts.append(Put(key, value, ABSENT if entry is None else entry.version))
    return outcome, puts


def _outcome(resource: Resource, key: str, entry: Entry | None, *, create_only: bool) -> str:
    if entry is None:
        return CREATED
    if create_only:
        kind, name = kind_and_name(resource)
        raise RefusedError(f"{kind.lower()} {name} exists; change it with `tortiectl apply`")
    try:
        present = resource_in(key, entry.value)
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

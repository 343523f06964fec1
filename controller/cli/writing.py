"""Resources written into the store: in one transaction where they fit into one, else in several.

Every portion is planned anew together with everything that is still to come: nothing is written after a mistake that
could have been seen before, and each transaction rests on the versions that its plan was made from. The first one of a
cluster writes its anchor too, by which agents know that the store has contents to lose.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from bgp.peering import Filter, PeerDefinition
from controller.cli.guarding import new_anchor, next_revision, revision, with_retries
from controller.cli.peers import filter_checks
from controller.cli.planning import planned
from controller.cli.stored import key_of, record_of
from controller.datamodel import keys
from controller.ports import MAX_OPERATIONS, MAX_VALUE_BYTES
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from controller.cli.planning import Change, Mode
    from controller.cli.wishes import Wish
    from controller.ports import Entry, Operation, Put, Store, Version

#: The revision that is written with every record below a prefix.
_REVISION_OF: Final = {keys.POOLS: keys.POOLS_REVISION, keys.PEERS: keys.PEERS_REVISION}
_PREFIX_OF_TYPE: Final[Mapping[type, str]] = {Pool: keys.POOLS, PeerDefinition: keys.PEERS}


async def plan_resources(store: Store, wishes: Sequence[Wish], mode: Mode) -> list[Change]:
    """Return what would become of these wishes, and write nothing; raises `RefusedError` as `write_resources` does."""
    return planned(wishes, await _read(store, wishes, _guarded(wishes)), mode)


async def write_resources(
    store: Store, wishes: Sequence[Wish], mode: Mode, *, tell: Callable[[Change], None] | None = None
) -> list[Change]:
    """Make the store hold these resources, and return what became of each; `tell` hears of each once it is written.

    Raises `RefusedError` for one that exists when creating or does not when replacing, for one changed since the
    version it was made from, for a pool's changed CIDR or block size, for pools that would overlap or have blocks of
    another size in them, for a peer whose filters do not exist or whose address another one of its scope has, and while
    a record these are compared with cannot be read; `ConflictError` when others kept writing. Nothing was written then
    unless `tell` has heard of it.
    """
    done: list[Change] = []
    pending = list(wishes)
    while pending:
        changes = await with_retries(partial(_write_portion, store, pending, mode))
        for change in changes:
            if tell is not None:
                tell(change)
        done += changes
        written = {id(change.wish) for change in changes}
        pending = [wish for wish in pending if id(wish) not in written]
    return done


async def _write_portion(store: Store, wishes: Sequence[Wish], mode: Mode) -> list[Change]:
    """Plan all of them, write as many as one transaction takes, and return what became of those."""
    guarded = _guarded(wishes)
    expected = {prefix: await revision(store, _REVISION_OF[prefix]) for prefix in guarded}
    entries = await _read(store, wishes, guarded)
    changes, operations = _portion(planned(wishes, entries, mode), entries, expected)
    if operations:
        await store.commit(operations)
    return changes


def _guarded(wishes: Sequence[Wish]) -> list[str]:
    """Return the prefixes below which records are compared with each other."""
    found = (_PREFIX_OF_TYPE.get(type(wish.resource)) for wish in wishes)
    return list(dict.fromkeys(prefix for prefix in found if prefix is not None))


async def _read(store: Store, wishes: Sequence[Wish], guarded: Sequence[str]) -> dict[str, Entry]:
    """Return all records that `planned` needs."""
    entries = await store.get([keys.CLUSTER_ANCHOR, *(key_of(wish.resource) for wish in wishes)])
    for prefix in (*guarded, *([keys.FILTERS] if keys.PEERS in guarded else [])):
        entries |= await store.list(prefix)
    if any(isinstance(wish.resource, Pool) and _differs(wish.resource, entries) for wish in wishes):
        entries |= await store.list(keys.USAGE)
    return entries


def _differs(pool: Pool, entries: Mapping[str, Entry]) -> bool:
    key, value = record_of(pool)
    return key not in entries or entries[key].value != value


def _portion(
    changes: Sequence[Change], entries: Mapping[str, Entry], expected: Mapping[str, Version]
) -> tuple[list[Change], list[Operation]]:
    """Return the changes that need no transaction or go into the first one, and that one.

    Filters go before the peers that name them.
    """
    chosen: list[Change] = []
    operations: list[Operation] = []
    changed = [change for change in changes if change.put is not None]
    for change in sorted(changed, key=lambda change: not isinstance(change.wish.resource, Filter)):
        needed = _operations([*chosen, change], entries, expected)
        if chosen and not _fits(needed):
            break
        chosen.append(change)
        operations = needed
    left = {id(change) for change in changed}.difference(map(id, chosen))
    return [change for change in changes if id(change) not in left], operations


def _operations(
    changes: Sequence[Change], entries: Mapping[str, Entry], expected: Mapping[str, Version]
) -> list[Operation]:
    puts: list[Put] = [change.put for change in changes if change.put is not None]
    written = {put.key for put in puts}
    resources = [change.wish.resource for change in changes]
    peers = [resource for resource in resources if isinstance(resource, PeerDefinition)]
    revised = [prefix for prefix in expected if any(key.startswith(prefix) for key in written)]
    revisions = [next_revision(_REVISION_OF[prefix], expected[prefix]) for prefix in revised]
    anchor = [] if keys.CLUSTER_ANCHOR in entries else [new_anchor()]
    return [*puts, *filter_checks(peers, entries, written), *anchor, *revisions]


def _fits(operations: Sequence[Operation]) -> bool:
    """Tell whether every store takes these in one transaction; base64 lets values grow by a third."""
    value_bytes = sum(len(getattr(operation, "value", b"")) for operation in operations)
    return len(operations) <= MAX_OPERATIONS and value_bytes <= MAX_VALUE_BYTES

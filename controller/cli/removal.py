"""Records removed that are no resource of anybody: blocks left behind, and what nobody can read."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from controller.assignment.inventory import inventory_of
from controller.assignment.transaction import block_operations
from controller.cli.guarding import next_revision, revision, with_retries
from controller.cli.stored import resource_in
from controller.datamodel import keys
from controller.datamodel.bgp_records import decode_drain
from controller.datamodel.blocks import decode_block
from controller.errors import MalformedRecord, RefusedError
from controller.ports import Delete

if TYPE_CHECKING:
    from controller.ports import Entry, Operation, Store
    from ipam.address import IPNetwork

#: The revision that a change below a prefix must carry.
_REVISION_OF: Final = {keys.POOLS: keys.POOLS_REVISION, keys.PEERS: keys.PEERS_REVISION}
_BLOCK_WAY_OUT: Final = (
    "restore it from a copy of the store, or delete it with --force once no workload has an address of it, then let "
    "`tortiectl ipam check --fix` remove what else tells of it"
)
_RESOURCES: Final = (keys.RESERVATIONS, keys.FILTERS, keys.PEERS, keys.BGP_CONFIGURATION)


async def delete_block(store: Store, name: str, *, force: bool) -> None:
    """Remove an empty block, its summary and what says whose it is; with `force` the record that cannot be read.

    Raises `RefusedError` when there is none, when addresses of it are in use, or when without `force` its record cannot
    be read.
    """
    cidr = _cidr(name)
    key = keys.block(cidr)

    async def attempt() -> None:
        entry = (await store.get([key])).get(key)
        if entry is None:
            raise RefusedError(f"block {cidr} does not exist; see `tortiectl get blocks`")
        try:
            block = decode_block(key, entry.value)
        except MalformedRecord as error:
            if not force:
                raise RefusedError(f"block {cidr} may have addresses in use: {error}; {_BLOCK_WAY_OUT}") from error
            await store.commit([Delete(key, entry.version)])
            return
        for address, holder in block.assignments():
            raise RefusedError(
                f"block {cidr} has {block.in_use} addresses in use ({address} by {holder.workload} on {holder.node}, "
                f"...); remove the workloads, or release the addresses with `tortiectl ipam release`, then delete it"
            )
        await store.commit(block_operations(block, None, version=entry.version, writer=None))

    await with_retries(attempt)


async def delete_record(store: Store, key: str) -> None:
    """Remove a record that nobody can read, by its key; raises `RefusedError` for every other one."""
    if not key.startswith(keys.ROOT):
        raise RefusedError(f"{key} is no key of tortie's; they begin with {keys.ROOT}")

    async def attempt() -> None:
        revisions = [each for prefix, each in _REVISION_OF.items() if key.startswith(prefix)]
        expected = {each: await revision(store, each) for each in revisions}
        entry = (await store.get([key])).get(key)
        if entry is None:
            raise RefusedError(f"there is no record {key}; `tortiectl ipam check` names those that cannot be read")
        if not _unreadable(key, entry):
            raise RefusedError(
                f"record {key} can be read, so it is deleted as what it is; see `tortiectl delete --help`"
            )
        operations: list[Operation] = [Delete(key, entry.version)]
        await store.commit([*operations, *(next_revision(each, expected[each]) for each in revisions)])

    await with_retries(attempt)


def _unreadable(key: str, entry: Entry) -> bool:
    """Tell whether nobody can make sense of a record, its key included."""
    try:
        if key.startswith(_RESOURCES):
            resource_in(key, entry.value)
        elif key.startswith(keys.DRAINS):
            decode_drain(key, entry.value)
    except MalformedRecord:
        return True
    found = inventory_of({key: entry}, now=0.0)
    index = (*found.summaries.values(), *found.shares.values())
    return bool(found.unreadable or found.junk or found.unreadable_blocks or found.misplaced_blocks) or None in index


def _cidr(name: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(name)
    except ValueError as error:
        raise RefusedError(f"{error}; a block is named by its range, as 10.244.7.64/26") from error

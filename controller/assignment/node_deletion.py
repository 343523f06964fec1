"""Take a node out of the cluster: what it held is free, what it owned is nobody's, its record is gone.

Broken off anywhere, it has freed some of the node's blocks and left the others whole; run again, it goes on.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from controller.assignment.fencing import renew_fence
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, share_cidr
from controller.errors import ConflictError, RefusedError, TransientError
from controller.ports import MAX_OPERATIONS, MAX_VALUE_BYTES, Check, Delete, Put
from ipam.plan import plan_removal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from controller.ports import Entry, Operation, Store
    from ipam.address import IPAddress

#: How many transactions in a row may meet a conflict before the deletion is given up.
MAX_CONFLICTS: Final = 20
_LONGEST_PAUSE_SECONDS: Final = 0.1


async def delete_node(store: Store, node: str) -> tuple[IPAddress, ...]:
    """Free every address the node holds and every block it owns, delete its share, endpoints, drain, last its record.

    Returns the addresses freed by this call. A node that does not exist is no error. The node's agent must be stopped:
    while it runs it claims blocks anew, and the deletion goes on until it finds none or gives up. Raises
    `RefusedError` for what cannot be a name, `TransientError` after many conflicts, `MalformedRecord` for a block that
    cannot be read, and what the store raises.
    """
    _check_name(node)
    # What its agent left under way would otherwise come after all of it was freed. And whoever may not do this to the
    # node, by Consul's access control lists, is refused before anything of it is freed.
    await renew_fence(store, keys.fence(node))
    freed: list[IPAddress] = []
    conflict_count = 0
    while True:
        share = await store.list(keys.share(node))
        try:
            if all(share_cidr(key) is None for key in share):
                records = (keys.fence(node), keys.endpoints(node), keys.drain(node), keys.node(node))
                await _remove_records(store, [*share, *records])
                return tuple(freed)
            freed += await _free_some(store, node, share)
        except ConflictError as conflict:
            conflict_count += 1
            if conflict_count == MAX_CONFLICTS:
                raise TransientError(
                    f"node {node}: {MAX_CONFLICTS} transactions were overtaken by other writers, the last because: "
                    f"{conflict}; stop the node's agent, then delete the node again"
                ) from conflict
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311  spreads retries, protects nothing


async def held_by(store: Store, node: str) -> tuple[IPAddress, ...]:
    """Return the addresses the node holds, in its own blocks and in others; raises what `delete_node` raises."""
    _check_name(node)
    cidrs = map(share_cidr, await store.list(keys.share(node)))
    entries = await store.get({keys.block(cidr) for cidr in cidrs if cidr is not None})
    blocks = [decode_block(key, entry.value) for key, entry in sorted(entries.items())]
    return tuple(address for block in blocks for address, holder in block.assignments() if holder.node == node)


def _check_name(node: str) -> None:
    if "/" in node or not node:
        # It would lead into the share of another node.
        raise RefusedError(f"{node!r} cannot be a node's name; `tortiectl get nodes` shows them")


async def _remove_records(store: Store, records: Sequence[str]) -> None:
    """Delete these keys in their order, whatever is under them and whether or not they exist."""
    for start in range(0, len(records), MAX_OPERATIONS):
        await store.commit([Delete(key, None) for key in records[start : start + MAX_OPERATIONS]])


async def _free_some(store: Store, node: str, share: Iterable[str]) -> list[IPAddress]:
    """Free as many of the share's blocks as fit into one transaction, at least one, and return their addresses."""
    freed: list[IPAddress] = []
    operations: list[Operation] = []
    for key, entry in await _blocks(store, share):
        addresses, more = _removal(node, key, entry)
        if operations and not _fits([*operations, *more]):
            break
        freed += addresses
        operations += more
    await store.commit(operations)
    return freed


async def _blocks(store: Store, share: Iterable[str]) -> Iterator[tuple[str, Entry | None]]:
    """Return the keys and entries of the blocks that share keys are about; None for a block that does not exist."""
    wanted = sorted({keys.block(cidr) for key in share if (cidr := share_cidr(key)) is not None})[:MAX_OPERATIONS]
    found = await store.get(wanted)
    return ((key, found.get(key)) for key in wanted)


def _removal(node: str, key: str, entry: Entry | None) -> tuple[tuple[IPAddress, ...], list[Operation]]:
    """Return the addresses of a block that the node holds, and the operations that take the node out of it."""
    cidr = keys.cidr_of(key)
    # Both share keys go whatever the block says: a deletion that left one behind would never end.
    share_keys = (keys.owned(node, cidr), keys.held(node, cidr))
    gone: list[Operation] = [Delete(share_key, None) for share_key in share_keys]
    if entry is None:
        return (), gone
    before = decode_block(key, entry.value)
    plan = plan_removal(before, node)
    after = plan.writes[before.cidr]
    if after == before:
        return (), [*gone, Check(key, entry.version)]
    changes = block_operations(before, after, version=entry.version, writer=None)
    return plan.addresses, [*gone, *(operation for operation in changes if operation.key not in share_keys)]


def _fits(operations: list[Operation]) -> bool:
    # Deleting a key at a version counts twice.
    counts = [2 if isinstance(operation, Delete) and operation.expected is not None else 1 for operation in operations]
    written_bytes = sum(len(operation.value) for operation in operations if isinstance(operation, Put))
    return sum(counts) <= MAX_OPERATIONS and written_bytes <= MAX_VALUE_BYTES

"""Repair what an audit found and nobody needs to be asked about.

Each repair rests on a reading of its own and is one transaction guarded by the block's version: what was repaired or
changed meanwhile is left alone, and a repair that breaks off has repaired some problems and touched no other.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from controller.assignment.inventory import inventory_of, share_key
from controller.assignment.operator_release import release_operations
from controller.assignment.retrying import until_committed
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, encode_share, encode_usage
from controller.ports import ABSENT, MAX_OPERATIONS, Check, Delete, Put
from ipam.audit import audit
from ipam.audit_index import shares_of
from ipam.inventory import ShareKey
from ipam.problem import ProblemKind
from ipam.release import kept
from ipam.request import ReleaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from controller.ports import Operation, Store, Version
    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.problem import Problem

#: Share keys written in one transaction, which also checks their block and writes its summary.
_SHARES_AT_ONCE: Final = MAX_OPERATIONS - 2


async def repair(store: Store, problems: Iterable[Problem], clock: Callable[[], float]) -> None:
    """Repair every problem that is repairable and still there; to see what is left, look again.

    Leaked addresses are released if handle, sequence and the missing link are still the same; blocks that nobody owns
    or uses are deleted; then summaries and share keys are written as their block is. `clock` gives seconds since the
    epoch. Raises `TransientError` after many conflicts on one block, and what the store raises.
    """
    by_block: dict[IPNetwork, list[Problem]] = {}
    for problem in problems:
        if problem.repairable and problem.cidr is not None:
            by_block.setdefault(problem.cidr, []).append(problem)
    for cidr, found in by_block.items():
        leaks = [problem for problem in found if problem.kind is ProblemKind.LEAKED]
        if leaks:
            await until_committed(f"block {cidr}", partial(_release, store, cidr, leaks, clock))
        if any(problem.kind is ProblemKind.UNUSED_BLOCK for problem in found):
            await until_committed(f"block {cidr}", partial(_delete_unused, store, cidr, clock))
        index = [problem for problem in found if problem.kind not in (ProblemKind.LEAKED, ProblemKind.UNUSED_BLOCK)]
        shares = [problem.subject for problem in index if isinstance(problem.subject, ShareKey)]
        # The summary goes along with the share keys, or alone if it is all that is wrong.
        for start in range(0, max(len(shares), 1) if index else 0, _SHARES_AT_ONCE):
            some = shares[start : start + _SHARES_AT_ONCE]
            await until_committed(f"block {cidr}", partial(_write_index, store, cidr, some))


async def _release(store: Store, cidr: IPNetwork, leaks: Sequence[Problem], clock: Callable[[], float]) -> None:
    nodes = {problem.node for problem in leaks if problem.node is not None}
    wanted = {keys.block(cidr), keys.IPAM_CONFIGURATION, *map(keys.node, nodes), *map(keys.endpoints, nodes)}
    entries = await store.get(wanted)
    inventory = inventory_of(entries, now=clock())
    there = {problem.identity for problem in audit(inventory)}
    requests = [
        ReleaseRequest(leak.address, leak.handle, leak.sequence)
        for leak in leaks
        if leak.address is not None and leak.identity in there
    ]
    if requests:
        await store.commit(release_operations(entries, inventory, cidr, requests))


async def _delete_unused(store: Store, cidr: IPNetwork, clock: Callable[[], float]) -> None:
    block, version = await _read(store, cidr)
    if block is not None and kept(block, clock()) is None:
        await store.commit(block_operations(block, None, version=version, writer=None))


async def _write_index(store: Store, cidr: IPNetwork, shares: Sequence[ShareKey]) -> None:
    """Write the block's summary and these of its share keys as the block is now."""
    block, version = await _read(store, cidr)
    operations: list[Operation] = [Check(keys.block(cidr), version)]
    if block is None:
        operations.append(Delete(keys.usage(cidr), None))
        operations += [Delete(share_key(share), None) for share in shares]
    else:
        operations.append(Put(keys.usage(cidr), encode_usage(block), None))
        valid = shares_of(block)
        operations += [
            Put(share_key(share), encode_share(block), None) if share in valid else Delete(share_key(share), None)
            for share in shares
        ]
    await store.commit(operations)


async def _read(store: Store, cidr: IPNetwork) -> tuple[Block | None, Version]:
    """Return the block and its version, None and ABSENT if there is none; raises `MalformedRecord`."""
    key = keys.block(cidr)
    entry = (await store.get([key])).get(key)
    return (None, ABSENT) if entry is None else (decode_block(key, entry.value), entry.version)

"""The operations that write a block: with it its summary and the share keys that say whose it is, always together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from controller.datamodel import keys
from controller.datamodel.blocks import encode_block, encode_share, encode_usage
from controller.ports import Delete, Put

if TYPE_CHECKING:
    from controller.ports import Operation, Version
    from ipam.block import Block

#: The most of MAX_OPERATIONS that a node's change to a block takes: the block (its deletion counts twice), its summary,
#: the share keys of the owner before and after, and the holder's.
OPERATIONS_PER_BLOCK: Final = 6


def block_operations(
    before: Block | None, after: Block | None, *, version: Version, writer: str | None
) -> list[Operation]:
    """Return what turns the block as read at this version into the block after; None stands for no block.

    Summary and share keys follow from the block and are guarded by its version, so they are written whatever they are:
    one that is wrong for whatever reason becomes right. `writer` is the node that knows of the change already; every
    other node whose share the change touches is told by its share key.
    """
    block = after or before
    if block is None:
        return []
    key = keys.block(block.cidr)
    own: Operation = Delete(key, version) if after is None else Put(key, encode_block(after), version)
    usage: Operation = (
        Delete(keys.usage(block.cidr), None)
        if after is None
        else Put(keys.usage(block.cidr), encode_usage(after), None)
    )
    return [own, usage, *_owner_operations(before, after, writer), *_holder_operations(before, after, writer)]


def _owner_operations(before: Block | None, after: Block | None, writer: str | None) -> list[Operation]:
    operations: list[Operation] = []
    owner_before = None if before is None else before.affinity
    owner_after = None if after is None else after.affinity
    if before is not None and owner_before is not None and owner_before != owner_after:
        operations.append(Delete(keys.owned(owner_before, before.cidr), None))
    if after is not None and owner_after is not None and (owner_after != owner_before or owner_after != writer):
        operations.append(Put(keys.owned(owner_after, after.cidr), encode_share(after), None))
    return operations


def _holder_operations(before: Block | None, after: Block | None, writer: str | None) -> list[Operation]:
    operations: list[Operation] = []
    held_before, held_after = _held_by_node(before), _held_by_node(after)
    for node in sorted(held_before.keys() | held_after.keys()):
        changed = held_before.get(node) != held_after.get(node)
        if node not in held_after and before is not None:
            operations.append(Delete(keys.held(node, before.cidr), None))
        elif after is not None and (node not in held_before or (changed and node != writer)):
            operations.append(Put(keys.held(node, after.cidr), encode_share(after), None))
    return operations


def _held_by_node(block: Block | None) -> dict[str, tuple[int, ...]]:
    """Return the ordinals that each node holds without owning the block."""
    if block is None:
        return {}
    return {node: block.ordinals_of_node(node) for node in block.holding_nodes() if node != block.affinity}

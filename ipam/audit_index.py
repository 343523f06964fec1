"""What is wrong with the records that follow from blocks: their summaries and the nodes' share keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.inventory import Relation, ShareKey
from ipam.problem import Problem, ProblemKind
from ipam.summary import BlockSummary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.block import Block
    from ipam.inventory import Inventory


def shares_of(block: Block) -> frozenset[ShareKey]:
    """Return the share keys that a block must have, and no others."""
    held = {ShareKey(node, Relation.HELD, block.cidr) for node in block.holding_nodes() if node != block.affinity}
    own = set() if block.affinity is None else {ShareKey(block.affinity, Relation.OWN, block.cidr)}
    return frozenset(held | own)


def share_problems(inventory: Inventory) -> Iterator[Problem]:
    """Yield the share keys that are missing, say what cannot be, or are too many."""
    expected: set[ShareKey] = set()
    for block in inventory.blocks.values():
        shares = shares_of(block)
        expected |= shares
        for share in shares:
            yield from _share_problems(share, block, inventory)
    unknown = inventory.unknown_contents()
    for share in inventory.shares.keys() - expected:
        if share.cidr not in unknown:
            what = "owns" if share.relation is Relation.OWN else "holds addresses of"
            text = (
                f"a share key says that node {share.node} {what} block {share.cidr}, and no block says so; the node "
                f"reads it in vain; remove the key with --fix"
            )
            yield Problem(
                ProblemKind.SHARE_WITHOUT_BLOCK, share, text, repairable=True, cidr=share.cidr, node=share.node
            )


def _share_problems(share: ShareKey, block: Block, inventory: Inventory) -> Iterator[Problem]:
    if share not in inventory.shares:
        what = "owns it" if share.relation is Relation.OWN else "holds addresses of it"
        text = (
            f"block {share.cidr} says that node {share.node} {what}, and the node's share key is missing, so its "
            f"agent knows nothing of it after a restart; write the key with --fix"
        )
        yield Problem(ProblemKind.SHARE_MISSING, share, text, repairable=True, cidr=share.cidr, node=share.node)
        return
    sequence = inventory.shares[share]
    if sequence is None or sequence > block.sequence:
        said = "cannot be read" if sequence is None else f"tells of change {sequence}"
        text = (
            f"the share key of node {share.node} for block {share.cidr} {said}, and the block is at change "
            f"{block.sequence}, so the node reads the block again and again; write the key with --fix"
        )
        yield Problem(ProblemKind.SHARE_WRONG, share, text, repairable=True, cidr=share.cidr, node=share.node)


def summary_problems(inventory: Inventory) -> Iterator[Problem]:
    """Yield the summaries that are missing, wrong or too many."""
    for cidr, block in inventory.blocks.items():
        if cidr not in inventory.summaries:
            text = f"the summary of block {cidr} is missing, so others take the block for free; write it with --fix"
            yield Problem(ProblemKind.SUMMARY_MISSING, cidr, text, repairable=True, cidr=cidr)
        elif inventory.summaries[cidr] != BlockSummary.of(block):
            text = (
                f"the summary of block {cidr} does not say what the block says, so others count it wrongly and may not "
                f"borrow of it; write it anew with --fix"
            )
            yield Problem(ProblemKind.SUMMARY_WRONG, cidr, text, repairable=True, cidr=cidr)
    for cidr in inventory.summaries.keys() - inventory.blocks.keys() - inventory.unknown_contents():
        text = (
            f"there is a summary of block {cidr} and no such block, so others take it for claimed; "
            f"remove the summary with --fix"
        )
        yield Problem(ProblemKind.SUMMARY_WITHOUT_BLOCK, cidr, text, repairable=True, cidr=cidr)

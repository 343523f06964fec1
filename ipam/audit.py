"""Find what is wrong with the address management of a cluster: from everything there is to a list of problems.

What cannot be judged is no problem: an address of a node that does not tell what it has wired, a block's summary when
the block cannot be read. One fault is told once, by its gravest effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.audit_addresses import address_problems
from ipam.audit_blocks import block_problems, pool_problems
from ipam.audit_index import share_problems, summary_problems
from ipam.problem import Problem, ProblemKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.inventory import Inventory


def audit(inventory: Inventory) -> tuple[Problem, ...]:
    """Return every problem, kind by kind in their order, each kind by address."""
    position = {kind: index for index, kind in enumerate(ProblemKind)}
    problems = (
        *address_problems(inventory),
        *pool_problems(inventory),
        *block_problems(inventory),
        *_record_problems(inventory),
        *share_problems(inventory),
        *summary_problems(inventory),
    )
    return tuple(sorted(problems, key=lambda problem: (position[problem.kind], problem.rank)))


def _record_problems(inventory: Inventory) -> Iterator[Problem]:
    for cidr, reason in inventory.unreadable_blocks.items():
        text = (
            f"the record of block {cidr} cannot be read ({reason}), so nobody can assign or release its addresses; "
            f"restore it from a copy of the store, or give it up with `tortiectl delete block {cidr} --force` once no "
            f"workload has an address of it"
        )
        yield Problem(ProblemKind.UNREADABLE_BLOCK, cidr, text)
    for cidr, described in inventory.misplaced_blocks.items():
        text = (
            f"under the key of block {cidr} lies the record of {described}, so nobody can use either by it; "
            f"move the record to its own key if there is none, then remove it here with `tortiectl delete block {cidr} "
            f"--force`"
        )
        yield Problem(ProblemKind.MISPLACED_BLOCK, cidr, text)
    for key, reason in inventory.unreadable.items():
        text = (
            f"the record {key} cannot be read ({reason}) and is left out by everybody; write it anew, or remove it "
            f"with `tortiectl delete record {key}`"
        )
        yield Problem(ProblemKind.UNREADABLE_RECORD, key, text)
    for key in inventory.junk:
        text = (
            f"the key {key} names no block, so nobody reads it, and listing blocks may fail on it; remove it with "
            f"`tortiectl delete record {key}`"
        )
        yield Problem(ProblemKind.JUNK_KEY, key, text)

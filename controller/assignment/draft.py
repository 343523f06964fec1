"""Many requests, one transaction: planned one after the other, each on what the ones before it leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from controller.assignment.fencing import MAX_FENCED_OPERATIONS
from controller.assignment.transaction import OPERATIONS_PER_BLOCK, block_operations
from controller.datamodel import keys
from controller.ports import MAX_VALUE_BYTES, Check, Put
from ipam.errors import MoreNeeded, Refused
from ipam.plan import Plan
from ipam.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.assignment.knowledge import Knowledge
    from controller.ports import Operation
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block

#: Decides one request on a view, at a time in epoch seconds; raises `Refused` and `MoreNeeded`.
Planner: TypeAlias = Callable[[View, float], Plan]
Outcome: TypeAlias = "tuple[IPAddress, ...] | Refused"


@dataclass(frozen=True, slots=True)
class Draft:
    """One transaction for the first `len(outcomes)` requests: their outcomes hold once it is committed.

    `missing` says what must be read before the request after them can be decided.
    """

    outcomes: tuple[Outcome, ...]
    writes: Mapping[IPNetwork, Block | None]
    operations: tuple[Operation, ...]
    missing: MoreNeeded | None = None


def draft(knowledge: Knowledge, planners: Sequence[Planner], now: float) -> Draft:
    """Return the transaction for as many of the requests, in their order, as fit into one and can be decided.

    It is for at least the first, or tells what is missing.
    """
    view = knowledge.view
    outcomes: list[Outcome] = []
    writes: dict[IPNetwork, Block | None] = {}
    rests_on: frozenset[IPNetwork] = frozenset()
    claims_from: frozenset[str] = frozenset()
    missing = None
    for planner in planners:
        try:
            plan = planner(view, now)
        except Refused as refusal:
            outcomes.append(refusal)
            continue
        except MoreNeeded as more:
            missing = more
            break
        touched = writes.keys() | plan.writes.keys()
        resting, claiming = rests_on | plan.rests_on, claims_from | plan.claims_from
        if (
            outcomes
            and OPERATIONS_PER_BLOCK * len(touched) + len(resting - touched) + len(claiming) > MAX_FENCED_OPERATIONS
        ):
            break
        outcomes.append(plan.addresses)
        writes |= plan.writes
        rests_on, claims_from = resting, claiming
        view = view.with_blocks(plan.writes)
    operations = _operations(knowledge, writes, rests_on, claims_from)
    written_bytes = sum(len(operation.value) for operation in operations if isinstance(operation, Put))
    if written_bytes > MAX_VALUE_BYTES and len(outcomes) > 1:
        return draft(knowledge, planners[: len(outcomes) // 2], now)
    return Draft(tuple(outcomes), writes, operations, missing)


def _operations(
    knowledge: Knowledge,
    writes: Mapping[IPNetwork, Block | None],
    rests_on: frozenset[IPNetwork],
    claims_from: frozenset[str],
) -> tuple[Operation, ...]:
    operations: list[Operation] = []
    for cidr, after in writes.items():
        before = knowledge.view.block_by_cidr.get(cidr)
        operations += block_operations(before, after, version=knowledge.version_of(cidr), writer=knowledge.view.node)
    # A block claimed or changed above guards itself.
    operations += [
        Check(keys.block(cidr), knowledge.version_of(cidr)) for cidr in sorted(rests_on - writes.keys(), key=str)
    ]
    operations += [Check(keys.pool(name), knowledge.pool_versions[name]) for name in sorted(claims_from)]
    return tuple(operations)

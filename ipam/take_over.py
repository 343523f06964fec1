"""Addresses that were assigned before it was known for which workload, and then become that workload's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ipam.plan import plan_assign

if TYPE_CHECKING:
    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.plan import Plan
    from ipam.request import AssignRequest
    from ipam.view import View


def plan_take_over(view: View, request: AssignRequest, lender: str, *, now: float) -> Plan:
    """Return the plan of `plan_assign`, but addresses asked for count as had if a handle that begins so lends them.

    Only what is held on this node is lent; it changes hands without having been free. `now` is in epoch seconds.
    """
    passed: dict[IPNetwork, Block | None] = {}
    holder = request.holder(node=view.node, at=now)
    for address in request.addresses:
        for cidr, block in view.block_by_cidr.items():
            if block.version != address.version or address not in cidr:
                continue
            ordinal = block.ordinal_of(address)
            present = block.holders.get(ordinal)
            if present is not None and present.node == view.node and present.handle.startswith(lender):
                passed[cidr], _ = block.release((ordinal,)).assign(holder, ordinal)
    plan = plan_assign(view.with_blocks(passed), request, now=now)
    return replace(plan, writes={**passed, **plan.writes})

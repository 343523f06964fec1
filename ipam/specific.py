"""Whether an address that was asked for by itself can be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.errors import AddressUnavailable

if TYPE_CHECKING:
    from ipam.block import Block
    from ipam.request import AssignRequest
    from ipam.view import View


def check_assignable(view: View, request: AssignRequest, block: Block, ordinal: int, now: float) -> None:
    """Raise `AddressUnavailable`, with the reason, unless the request may have this ordinal of the block."""
    address = block.address_at(ordinal)
    holder = block.holders.get(ordinal)
    if holder is not None:
        raise AddressUnavailable(
            f"{address} is already assigned to {holder.full_name} on node {holder.node} (handle {holder.handle}); "
            f"request another address or remove that workload"
        )
    if not block.has_room(now):
        raise AddressUnavailable(
            f"{address} lies in block {block.cidr}, whose record has no room for another workload beside "
            f"{block.in_use}; request an address of another block"
        )
    if view.configuration.strict_affinity and block.affinity not in (None, view.node):
        raise AddressUnavailable(
            f"{address} lies in block {block.cidr} of node {block.affinity}, and strict affinity lets only that node "
            f"assign it; run the workload there or request another address"
        )
    rest = block.resting.get(ordinal)
    if rest is not None and rest.until > now and not (request.sticky and rest.kept_for == request.full_name):
        kept_for = f", kept for {rest.kept_for}" if rest.kept_for else ""
        raise AddressUnavailable(
            f"{address} was released and rests for another {rest.until - now:.0f} s{kept_for}; "
            f"try again then or request another address"
        )

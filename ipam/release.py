"""What becomes of an address and of its block once nobody holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.block import Rest

if TYPE_CHECKING:
    from ipam.block import Block, Holder
    from ipam.configuration import IpamConfiguration


def rest_of(configuration: IpamConfiguration, holder: Holder, now: float) -> Rest | None:
    """Return how long an address that this holder gives back at this time rests; None if not at all."""
    remembered = holder.sticky and configuration.sticky_seconds > 0
    seconds = max(configuration.cooldown_seconds, configuration.sticky_seconds if remembered else 0)
    return Rest(now + seconds, holder.full_name if remembered else None) if seconds else None


def kept(block: Block, now: float) -> Block | None:
    """Return the block, or None when nothing is left to keep it for: no owner, no holder, no address that rests."""
    return None if block.affinity is None and block.is_empty(now) else block

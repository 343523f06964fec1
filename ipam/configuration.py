"""What an operator sets for the address management of the whole cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ipam.errors import InvalidConfiguration

#: The most blocks of one IP version a node may own, unless configured.
DEFAULT_MAX_BLOCKS_PER_NODE: Final = 20
#: The longest time that can be set, ten years: a slip of the keyboard must not keep addresses back for ever.
LONGEST_SECONDS: Final = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class IpamConfiguration:
    """The rules of assignment and release; raises `InvalidConfiguration` when they contradict each other.

    `strict_affinity`: a node takes addresses only from blocks it owns. `auto_allocate_blocks`: a node claims blocks as
    it needs them. `max_blocks_per_node` counts per IP version. A released address rests `cooldown_seconds` before
    anybody gets it. A sticky one rests `sticky_seconds` if that is longer, and a workload of the former one's name may
    have it back at once. `grace_seconds` is how long an assignment without a workload, or an unneeded empty block, is
    left alone.
    """

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_node: int = DEFAULT_MAX_BLOCKS_PER_NODE
    cooldown_seconds: int = 0
    sticky_seconds: int = 0
    grace_seconds: int = 900

    def __post_init__(self) -> None:
        """Check the rules against each other and their ranges."""
        if not self.strict_affinity and not self.auto_allocate_blocks:
            raise InvalidConfiguration(
                "strict affinity off and automatic blocks off contradict each other: addresses could then only be "
                "borrowed from blocks that nobody claims; switch one of them on"
            )
        if self.max_blocks_per_node < 1:
            raise InvalidConfiguration(
                f"max blocks per node is {self.max_blocks_per_node}; a node needs at least 1 to assign anything"
            )
        for name, seconds in (
            ("cooldown", self.cooldown_seconds),
            ("sticky", self.sticky_seconds),
            ("grace", self.grace_seconds),
        ):
            if not 0 <= seconds <= LONGEST_SECONDS:
                raise InvalidConfiguration(f"{name} seconds are {seconds}; set 0 to {LONGEST_SECONDS}")

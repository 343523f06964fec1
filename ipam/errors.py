"""What address management refuses.

IpamError
├── InvalidPool        a pool that breaks a rule: fix its definition
├── InvalidReservation a reservation that reserves nothing: name a range
├── InvalidSelector    a selector that cannot be evaluated: correct it
├── InvalidConfiguration   settings that contradict each other: change one of them
├── InvalidBlock       a block's record contradicts itself: restore it
├── MoreNeeded         a decision rests on blocks that were not read: read them and decide again
└── Refused            a request that cannot be had now; the message tells the user why and what to do
    ├── UnknownPool        a pool was asked for by a name that does not exist
    ├── PoolDisabled       a pool was asked for by name and is disabled
    ├── NoPool             no enabled, automatic pool fits the node and the family
    ├── AddressUnavailable an address was asked for that this workload cannot have
    └── PoolExhausted      every allowed pool is full, or what is left must not be used by this node
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipam.address import IPNetwork


class IpamError(Exception):
    """Root of everything address management raises."""


class InvalidPool(IpamError):
    """A pool's definition breaks a rule."""


class InvalidReservation(IpamError):
    """A reservation reserves nothing."""


class InvalidSelector(IpamError):
    """A selector cannot be evaluated."""


class InvalidConfiguration(IpamError):
    """Settings of address management contradict each other or are out of range."""


class MoreNeeded(IpamError):
    """A decision cannot be made on the view: it needs these blocks, or with none, the list of all."""

    def __init__(self, blocks: tuple[IPNetwork, ...] = ()) -> None:
        super().__init__(f"blocks to read first: {', '.join(map(str, blocks)) or 'the list of all'}")
        self.blocks = blocks


class InvalidBlock(IpamError):
    """A block loses an ordinal, lists one twice, or has a size no block has."""


class Refused(IpamError):
    """A request that cannot be satisfied; nothing was changed."""


class UnknownPool(Refused):
    """A pool was requested by a name that does not exist."""


class PoolDisabled(Refused):
    """A pool was requested by name, and it is disabled."""


class NoPool(Refused):
    """No pool qualifies for automatic assignment on the node."""


class AddressUnavailable(Refused):
    """An address was asked for by itself, and this workload cannot have it."""


class PoolExhausted(Refused):
    """No address is left in any pool that the request may use."""

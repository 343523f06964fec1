"""What address management refuses.

IpamError
├── InvalidPool        a pool that breaks a rule: fix its definition
├── PoolConflict       pools that overlap: change one of them
├── InvalidBlock       a block's record contradicts itself: restore it
└── Refused            a request that cannot be had now; the message tells the user why and what to do
    ├── UnknownPool        a pool was asked for by a name that does not exist
    ├── PoolDisabled       a pool was asked for by name and is disabled
    ├── NoPool             no enabled, automatic pool fits the node and the family
    └── PoolExhausted      every allowed pool is full
"""


class IpamError(Exception):
    """Root of everything address management raises."""


class InvalidPool(IpamError):
    """A pool's definition breaks a rule."""


class PoolConflict(IpamError):
    """A pool overlaps another one."""


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


class PoolExhausted(Refused):
    """No address is left in any pool that the request may use."""

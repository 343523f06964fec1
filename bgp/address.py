"""The address types every other module speaks in, and how many prefixes are made at once.

What is learned comes by the ten thousand, and each prefix is looked up in a dozen mappings before it is in the kernel.
So those that are learned are made in half the time and hashed once; they equal and hash like any other network.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class _IPv4Prefix(ipaddress.IPv4Network):
    """An IPv4 network that is hashed once."""

    __slots__ = ("known_hash",)
    known_hash: int

    def __hash__(self) -> int:
        try:
            return self.known_hash
        except AttributeError:
            self.known_hash = super().__hash__()
            return self.known_hash


class _IPv6Prefix(ipaddress.IPv6Network):
    """An IPv6 network that is hashed once."""

    __slots__ = ("known_hash",)
    known_hash: int

    def __hash__(self) -> int:
        try:
            return self.known_hash
        except AttributeError:
            self.known_hash = super().__hash__()
            return self.known_hash


def ipv4_prefix(number: int, length: int) -> ipaddress.IPv4Network:
    """Return the prefix of that length at that address; none but the first `length` bits may be set."""
    made = _IPv4Prefix.__new__(_IPv4Prefix)
    address = ipaddress.IPv4Address.__new__(ipaddress.IPv4Address)
    # What the constructors do besides checking what is known already.
    address._ip = number  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    made.network_address = address
    made.netmask, mask_number = _ipv4_mask(length)
    made._prefixlen = length  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    made.known_hash = number ^ mask_number  # a number of so few bits is its own hash
    return made


def ipv6_prefix(number: int, length: int) -> ipaddress.IPv6Network:
    """Return the prefix of that length at that address; none but the first `length` bits may be set."""
    return _IPv6Prefix((number, length))


@functools.cache
def _ipv4_mask(length: int) -> tuple[ipaddress.IPv4Address, int]:
    number = (1 << 32) - (1 << (32 - length))
    return ipaddress.IPv4Address(number), number

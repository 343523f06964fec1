"""The address types every other module speaks in, and how many prefixes are made at once.

What is learned comes by the ten thousand, and each prefix is looked up in a dozen mappings before it is in the kernel.
So those that are learned are made in half the time and hashed once; they equal and hash like any other network.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class _IPv4Prefix(ipaddress.IPv4Network):
    """An IPv4 network that is hashed once."""

    __slots__ = ("known_hash",)
    known_hash: int
    version = 4
    max_prefixlen = 32

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
    version = 6
    max_prefixlen = 128

    def __hash__(self) -> int:
        try:
            return self.known_hash
        except AttributeError:
            self.known_hash = super().__hash__()
            return self.known_hash


def _of_length(length: int) -> type[_IPv4Prefix]:
    """Return the class of the IPv4 prefixes of one length: what all have in common is the class's."""
    mask = ipaddress.IPv4Address((1 << 32) - (1 << (32 - length)))
    return type(f"_IPv4Prefix{length}", (_IPv4Prefix,), {"__slots__": (), "netmask": mask, "_prefixlen": length})


_IPV4_CLASSES: Final = tuple(map(_of_length, range(33)))


def ipv4_prefixes(numbers: Iterable[int], length: int) -> list[IPNetwork]:
    """Return the prefixes of that length at these addresses; none but the first `length` bits may be set."""
    prefix_class, address_class, new = _IPV4_CLASSES[length], ipaddress.IPv4Address, object.__new__
    mask_number = int(prefix_class.netmask)
    prefixes: list[IPNetwork] = []
    for number in numbers:
        # What the constructors do besides checking what is known already.
        address = new(address_class)
        address._ip = number  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        made = new(prefix_class)
        made.network_address = address
        made.known_hash = number ^ mask_number  # a number of so few bits is its own hash
        prefixes.append(made)
    return prefixes


def ipv6_prefixes(numbers: Iterable[int], length: int) -> list[IPNetwork]:
    """Return the prefixes of that length at these addresses; none but the first `length` bits may be set."""
    return [_IPv6Prefix((number, length)) for number in numbers]

"""Prefixes as BGP's messages carry them: a length in bits, and as many octets as it takes (RFC 4271, section 4.3).

The form is the shortest there is and is read fastest, so learned prefixes keep it until they reach the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bgp.address import ipv4_prefix, ipv6_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPNetwork

_WIDTH: Final = {4: 32, 6: 128}


class MalformedPrefixes(ValueError):
    """Octets that are no row of prefixes; the text says why."""


def split(version: int, data: bytes) -> list[bytes]:
    """Return each prefix of a row by itself, always in the same octets; raises `MalformedPrefixes`.

    Bits beyond the length mean nothing (RFC 4271, section 4.3) and are zero in what is returned.
    """
    width = _WIDTH[version]
    parts = []
    at, end = 0, len(data)
    while at < end:
        length = data[at]
        after = at + 1 + (length + 7 >> 3)
        if length > width or after > end:
            raise MalformedPrefixes(f"no IPv{version} prefix of {length} bits fits octets {at} to {end}")
        part = data[at:after]
        beyond = part[-1] & (1 << (-length & 7)) - 1 if length else 0
        parts.append(part[:-1] + bytes([part[-1] - beyond]) if beyond else part)
        at = after
    return parts


def prefixes(version: int, data: bytes) -> list[IPNetwork]:
    """Return the prefixes of a row in their order; raises `MalformedPrefixes`."""
    width = _WIDTH[version]
    make = ipv4_prefix if version == 4 else ipv6_prefix  # noqa: PLR2004 - the version of IP
    return [
        make(int.from_bytes(part[1:], "big") << width - 8 * (len(part) - 1), part[0]) for part in split(version, data)
    ]


def row(members: Iterable[IPNetwork]) -> bytes:
    """Return the row of these prefixes, which are all of one IP version."""
    parts = []
    for prefix in members:
        length = prefix.prefixlen
        parts.append(bytes([length]) + prefix.network_address.packed[: length + 7 >> 3])
    return b"".join(parts)

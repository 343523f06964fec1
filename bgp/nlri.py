"""Prefixes as BGP's messages carry them: a length in bits, and as many octets as it takes (RFC 4271, section 4.3).

The form is the shortest there is and is read fastest, so learned prefixes keep it until they reach the agent.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from bgp.address import ipv4_prefixes, ipv6_prefixes

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
    make = ipv4_prefixes if version == 4 else ipv6_prefixes  # noqa: PLR2004 - the version of IP
    return [
        prefix
        for length, part in _of_one_length(version, data)
        for prefix in make(_numbers(version, length, part), length)
    ]


def _of_one_length(version: int, data: bytes) -> Iterable[tuple[int, bytes]]:
    """Return the row as rows of prefixes of one length each: itself, if it is one, as most are."""
    if data:
        step = 1 + (data[0] + 7 >> 3)
        if data[0] <= _WIDTH[version] and data[::step] == data[:1] * (len(data) // step) and not len(data) % step:
            return [(data[0], data)]
    return [(part[0], part) for part in split(version, data)]


def _numbers(version: int, length: int, data: bytes) -> Iterable[int]:
    """Return the addresses of a row of prefixes of one length."""
    step = 1 + (length + 7 >> 3)
    if version == 4:  # noqa: PLR2004 - the version of IP
        return _short_numbers(length, data, step)
    mask = -1 << 8 * (step - 1) - length
    shift = _WIDTH[version] - 8 * (step - 1)
    return [(int.from_bytes(data[at + 1 : at + step], "big") & mask) << shift for at in range(0, len(data), step)]


def _short_numbers(length: int, data: bytes, step: int) -> Iterable[int]:
    """Do it for IPv4, an octet of all addresses at a time: as many come in one update as fit."""
    octets = bytearray(4 * (len(data) // step))
    for position in range(1, step):
        octets[position - 1 :: 4] = data[position::step]
    numbers = struct.unpack(f">{len(octets) // 4}I", octets)
    if length & 7:  # bits beyond the length mean nothing
        mask = (1 << 32) - (1 << 32 - length)
        return [number & mask for number in numbers]
    return numbers


def row(members: Iterable[IPNetwork]) -> bytes:
    """Return the row of these prefixes, which are all of one IP version."""
    parts = []
    for prefix in members:
        length = prefix.prefixlen
        parts.append(bytes([length]) + prefix.network_address.packed[: length + 7 >> 3])
    return b"".join(parts)

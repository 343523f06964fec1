"""A set of prefixes that answers in constant time whether it covers another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPNetwork


class PrefixSet:
    """Prefixes indexed by IP version and length; real sets of pools and blocks have very few lengths."""

    def __init__(self, prefixes: Iterable[IPNetwork]) -> None:
        self._by_length: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for prefix in prefixes:
            shift = prefix.max_prefixlen - prefix.prefixlen
            heads = self._by_length[prefix.version].setdefault(prefix.prefixlen, set())
            heads.add(int(prefix.network_address) >> shift)

    def covers(self, prefix: IPNetwork) -> bool:
        """Say whether the prefix is one of the set or lies inside one of it."""
        return self.covers_bits(prefix.version, int(prefix.network_address), prefix.prefixlen)

    def covers_bits(self, version: int, address: int, length: int) -> bool:
        """Say the same of a prefix by its numbers, which who asks several sets takes once."""
        width = 32 if version == 4 else 128  # noqa: PLR2004 - the version of IP and its addresses' bits
        # A plain loop: it runs for every learned route at every decision, and any() would take half as long again.
        for shorter, heads in self._by_length[version].items():
            if shorter <= length and address >> (width - shorter) in heads:
                return True
        return False

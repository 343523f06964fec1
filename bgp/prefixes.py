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
        address = int(prefix.network_address)
        return any(
            length <= prefix.prefixlen and address >> (prefix.max_prefixlen - length) in heads
            for length, heads in self._by_length[prefix.version].items()
        )

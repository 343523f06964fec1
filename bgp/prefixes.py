"""A set of prefixes that answers in constant time whether it covers another one."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPNetwork

#: Prefixes by length: how far an address is shifted to have that many bits, and what it must be then.
Heads: TypeAlias = tuple[tuple[int, AbstractSet[int]], ...]


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
        return is_inside(int(prefix.network_address), self.around(prefix.version, prefix.prefixlen))

    def around(self, version: int, length: int) -> Heads:
        """Return those of the set that can cover a prefix of that length, for `is_inside`."""
        width = 32 if version == 4 else 128  # noqa: PLR2004 - the version of IP and its addresses' bits
        return tuple(
            (width - shorter, heads) for shorter, heads in self._by_length[version].items() if shorter <= length
        )


def is_inside(address: int, heads: Heads) -> bool:
    """Say whether an address lies inside one of the prefixes."""
    # A plain loop: it runs for every learned route at every decision, and any() would take half as long again.
    for shift, found in heads:  # noqa: SIM110 - see above
        if address >> shift in found:
            return True
    return False

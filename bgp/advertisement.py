"""What a node announces: its blocks as aggregates, and the single addresses it holds in blocks of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgp.prefixes import PrefixSet
from bgp.route import Announcement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPNetwork
    from bgp.topology import Router

#: RFC 8326: a receiver gives the route the lowest preference, so that traffic moves away before it is withdrawn.
GRACEFUL_SHUTDOWN = (65535, 0)


def announcements(
    router: Router,
    *,
    blocks: Iterable[IPNetwork],
    addresses: Iterable[IPNetwork] = (),
    unexported: Iterable[IPNetwork] = (),
    communities: tuple[tuple[int, int], ...] = (),
) -> tuple[Announcement, ...]:
    """Return one announcement a prefix, ordered by prefix, each with the router's own address as next hop.

    `blocks` are the node's own; `addresses` the host prefixes it holds in blocks that are not its own; `unexported`
    the pools nothing may be announced from. A prefix of an IP version in which the router has no address is left out:
    nobody could be told a next hop for it.
    """
    hidden = PrefixSet(unexported)
    next_hops = {address.version: address for address in (router.ipv4, router.ipv6) if address is not None}
    prefixes = {prefix for prefix in (*blocks, *addresses) if not hidden.covers(prefix)}
    return tuple(
        Announcement(prefix=prefix, next_hop=next_hops[prefix.version], communities=communities)
        for prefix in sorted(prefixes, key=_order)
        if prefix.version in next_hops
    )


def _order(prefix: IPNetwork) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen

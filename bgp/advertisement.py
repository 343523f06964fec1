"""What a node announces: its blocks as aggregates, and the single addresses it holds in blocks of others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from bgp.filter import Action, verdict
from bgp.prefixes import PrefixSet
from bgp.route import Announcement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPNetwork
    from bgp.peer import Peer
    from bgp.topology import Router

Communities: TypeAlias = tuple[tuple[int, int], ...]

#: RFC 8326: a receiver gives the route the lowest preference, so that traffic moves away before it is withdrawn.
GRACEFUL_SHUTDOWN = (65535, 0)


def announcements(
    router: Router,
    *,
    blocks: Iterable[IPNetwork],
    addresses: Iterable[IPNetwork] = (),
    unexported: Iterable[IPNetwork] = (),
    communities_of: Iterable[tuple[IPNetwork, Communities]] = (),
    draining: bool = False,
) -> tuple[Announcement, ...]:
    """Return one announcement a prefix, ordered by prefix, each with the router's own address as next hop.

    `blocks` are the node's own; `addresses` the host prefixes it holds in blocks that are not its own; `unexported`
    the pools nothing may be announced from; `communities_of` the pools whose prefixes carry communities. A node that
    is `draining` asks for everything to be routed elsewhere, where there is an elsewhere (RFC 8326). A prefix of an IP
    version in which the router has no address is left out: nobody could be told a next hop for it.
    """
    hidden = PrefixSet(unexported)
    marked = [(PrefixSet([pool]), communities) for pool, communities in communities_of if communities]
    shutdown = (GRACEFUL_SHUTDOWN,) if draining else ()
    next_hops = {address.version: address for address in (router.ipv4, router.ipv6) if address is not None}
    prefixes = {prefix for prefix in (*blocks, *addresses) if not hidden.covers(prefix)}
    return tuple(
        Announcement(
            prefix=prefix,
            next_hop=next_hops[prefix.version],
            communities=(*next((found for pool, found in marked if pool.covers(prefix)), ()), *shutdown),
            local_preference=0 if draining else 100,
        )
        for prefix in sorted(prefixes, key=_order)
        if prefix.version in next_hops
    )


def outbound(announcement: Announcement, peer: Peer) -> Announcement | None:
    """Return the announcement as the peer is to be told of it, or None if its export rules reject it."""
    if verdict(peer.export_rules, announcement.prefix, announcement.communities) is Action.REJECT:
        return None
    if peer.next_hop_self and peer.local_address.version == announcement.prefix.version:
        return replace(announcement, next_hop=peer.local_address)
    return announcement


def _order(prefix: IPNetwork) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen

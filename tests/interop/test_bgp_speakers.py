"""Real speakers in network namespaces: what one announces the other learns, through every kind of restart."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from bgp.advertisement import announcements

if TYPE_CHECKING:
    from bgp.route import Announcement


def blocks(host: Any, *prefixes: str) -> tuple[Announcement, ...]:
    return announcements(host.router, blocks=[ipaddress.ip_network(prefix) for prefix in prefixes])


async def pair(network: Any) -> tuple[Any, Any]:
    """Start two speakers that peer, the first announcing two blocks, and wait until the second knows them."""
    first, second = network.host(), network.host()
    first.start()
    second.start()
    one, two = network.agent(first), network.agent(second)
    await one.want(network.peers(first, second), blocks(first, "10.20.0.0/26", "fd20::/122"))
    await two.want(network.peers(second, first), blocks(second, "10.20.1.0/26"))
    await two.until(lambda: two.learned() == {"10.20.0.0/26", "fd20::/122"}, "aware of both blocks")
    await one.until(lambda: one.learned() == {"10.20.1.0/26"}, "aware of the block")
    return one, two


async def test_blocks_announced_are_learned_with_their_next_hops(network: Any) -> None:
    """What one node announces, of both IP versions, the other learns; a change reaches it; a withdrawal removes it."""
    one, two = await pair(network)
    learned = {str(prefix): str(routes[0].next_hop) for prefix, routes in two.rib.routes().items()}
    assert learned == {"10.20.0.0/26": "10.7.0.1", "fd20::/122": "fd07::1"}
    await two.until(lambda: two.rib.settled(0), "settled by End-of-RIB")
    await one.want(network.peers(one.host, two.host), blocks(one.host, "10.20.5.0/26"))
    await two.until(lambda: two.learned() == {"10.20.5.0/26"}, "aware of the change")

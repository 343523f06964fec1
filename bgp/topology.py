"""The full mesh between nodes: who peers with whom, over which IP version, and which side connects.

Exactly one side of every session connects, because two speakers that both connect collide and close each other's
connections until one wins (RFC 4271, section 6.8).
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgp.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPAddress


@dataclass(frozen=True, slots=True)
class Router:
    """A node as BGP sees it: its name, its AS number, and the addresses other nodes reach it at (at least one).

    One with a `cluster_id` is a route reflector (RFC 4456): it is no part of the mesh.
    """

    name: str
    as_number: int
    ipv4: ipaddress.IPv4Address | None
    ipv6: ipaddress.IPv6Address | None
    cluster_id: str | None = None


def mesh_peers(node: Router, nodes: Iterable[Router]) -> tuple[Peer, ...]:
    """Return the node's session with every other node, ordered by address.

    A session runs over IPv4 when both sides have it, otherwise over IPv6, and carries both families. A node with which
    no IP version is shared is left out. Seen from the other side, exactly one of the two is passive. A record of a host
    that was renamed may name an address a second time: there is one session for each address, of the first name, and
    none with the node's own.
    """
    others = sorted((other for other in nodes if other.name != node.name), key=lambda other: other.name, reverse=True)
    by_address = {peer.address: peer for peer in (_peer(node, other) for other in others) if peer is not None}
    peers = (peer for peer in by_address.values() if peer.address not in (node.ipv4, node.ipv6))
    return tuple(sorted(peers, key=lambda peer: _order(peer.address)))


def router_id(router: Router) -> str:
    """Return the BGP identifier: the IPv4 address, or 32 bits that depend on the name alone (RFC 6286, never zero)."""
    if router.ipv4 is not None:
        return str(router.ipv4)
    digest = hashlib.sha256(router.name.encode()).digest()
    return str(ipaddress.IPv4Address(int.from_bytes(digest[:4]) or 1))


def _peer(node: Router, other: Router) -> Peer | None:
    pair = _shared(node, other)
    if pair is None:
        return None
    local, remote = pair
    return Peer(
        address=remote,
        local_address=local,
        local_as=node.as_number,
        peer_as=other.as_number,
        router_id=router_id(node),
        passive=int(local) > int(remote),
    )


def _shared(node: Router, other: Router) -> tuple[IPAddress, IPAddress] | None:
    if node.ipv4 is not None and other.ipv4 is not None:
        return node.ipv4, other.ipv4
    if node.ipv6 is not None and other.ipv6 is not None:
        return node.ipv6, other.ipv6
    return None


def _order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)

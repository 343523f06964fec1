"""Peers: whom this node speaks BGP with, as configured (what is observed of them is a session)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgp.address import IPAddress
    from bgp.filter import Rule


class PeerOrigin(Enum):
    """Why the peer is configured, in the words of `tortiectl node status`."""

    MESH = "node-to-node mesh"
    NODE = "node specific"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Peer:
    """One configured peer. Times are in seconds; AS numbers are four octets (RFC 6793).

    `passive` waits for the peer to connect. `restart_time_seconds` is announced in the graceful restart capability
    (RFC 4724, at most 4095). `password` is the TCP MD5 key (RFC 2385) or None. `ttl_security_hops` is how many hops
    away the peer may be (RFC 5082), None for no check. `next_hop_self`: routes are told with `local_address` as next
    hop where the IP version allows. Nothing is used of who announces more than `max_prefixes` through the peer
    (`bgp.limits`). `import_rules` and `export_rules` are tried in order on what the peer announces and is told.
    """

    address: IPAddress
    local_address: IPAddress
    local_as: int
    peer_as: int
    router_id: str
    origin: PeerOrigin = PeerOrigin.MESH
    passive: bool = False
    hold_time_seconds: int = 90
    restart_time_seconds: int = 120
    password: str | None = field(default=None, repr=False)
    ttl_security_hops: int | None = None
    next_hop_self: bool = False
    max_prefixes: int | None = None
    import_rules: tuple[Rule, ...] = ()
    export_rules: tuple[Rule, ...] = ()

"""Peers: whom this node speaks BGP with, as configured (what is observed of them is a session)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgp.address import IPAddress


class PeerOrigin(Enum):
    """Why the peer is configured, in the words of `tortiectl node status`."""

    MESH = "node-to-node mesh"
    NODE = "node specific"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Peer:
    """One configured peer. Times are in seconds; AS numbers are four octets (RFC 6793).

    `passive` waits for the peer to connect. `restart_time_seconds` is announced in the graceful restart capability
    (RFC 4724, at most 4095). `password` is the TCP MD5 key (RFC 2385) or None.
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

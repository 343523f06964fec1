"""Peers as ExaBGP's configuration file (ExaBGP 5, "Configuration: neighbor").

No routes are ever written into the file: ExaBGP loses withdrawals of configured routes when two reloads follow each
other. `manual-eor` keeps ExaBGP from sending End-of-RIB before the routes; `adj-rib-in` lets a restarted sidecar ask
for what was learned; with `adj-rib-out` off nothing is repeated behind the sidecar's back.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.peer import Peer

#: The name of the API process in ExaBGP's configuration.
PROCESS: Final = "tortie"
_MAX_AS = 2**32 - 1
_MIN_HOLD_SECONDS = 3
_MAX_HOLD_SECONDS = 65535
_MAX_RESTART_SECONDS = 4095
_MAX_PASSWORD_BYTES = 80
_MAX_TTL = 255
#: The most hops a peer may be away: with one more, a packet that anybody sent could have the TTL asked for.
_MAX_HOPS = 254


def render(command: str, peers: Iterable[Peer]) -> str:
    """Return the whole file: the API process, run as `command` (an absolute path and arguments), and the neighbours."""
    process = f"process {PROCESS} {{\n  run {command};\n  encoder json;\n  respawn true;\n}}\n"
    return process + "".join(_neighbour(peer) for peer in sorted(peers, key=_order))


def fingerprint(peer: Peer) -> str:
    """Return a short text that changes with anything ExaBGP is told of the peer.

    It is written as the neighbour's description, which ExaBGP reports but does not restart a session for: so it is
    known which version of a neighbour is loaded.
    """
    return hashlib.sha256(_settings(peer).encode()).hexdigest()[:16]


def refusal(peer: Peer) -> str:
    """Return why ExaBGP cannot be configured with the peer, or an empty text."""
    password_bytes = len((peer.password or "").encode())
    problems = (
        (peer.address.version != peer.local_address.version, "local and remote address differ in IP version"),
        (peer.address == peer.local_address, "the peer's address is this node's own"),
        (not 0 < peer.local_as <= _MAX_AS, f"local AS {peer.local_as} is not between 1 and {_MAX_AS}"),
        (not 0 < peer.peer_as <= _MAX_AS, f"peer AS {peer.peer_as} is not between 1 and {_MAX_AS}"),
        (not _is_identifier(peer.router_id), f"router id {peer.router_id!r} is not a non-zero IPv4 address"),
        (
            not _MIN_HOLD_SECONDS <= peer.hold_time_seconds <= _MAX_HOLD_SECONDS,
            f"hold time {peer.hold_time_seconds} is not between {_MIN_HOLD_SECONDS} and {_MAX_HOLD_SECONDS} seconds",
        ),
        (
            not 0 < peer.restart_time_seconds <= _MAX_RESTART_SECONDS,
            f"restart time {peer.restart_time_seconds} is not between 1 and {_MAX_RESTART_SECONDS} seconds",
        ),
        (
            peer.ttl_security_hops is not None and not 0 < peer.ttl_security_hops <= _MAX_HOPS,
            f"TTL security of {peer.ttl_security_hops} hops is not between 1 and {_MAX_HOPS}",
        ),
        (peer.local_address.is_unspecified, f"source address {peer.local_address} is not the address of an interface"),
        (peer.local_address.is_multicast, f"source address {peer.local_address} is a multicast address"),
        (peer.address.is_multicast, f"{peer.address} is a multicast address"),
        (peer.address.is_unspecified, f"{peer.address} is no peer's address"),
        (peer.password == "", "the password is empty; leave it out or set one"),
        (password_bytes > _MAX_PASSWORD_BYTES, f"the password is longer than {_MAX_PASSWORD_BYTES} bytes"),
    )
    return next((text for broken, text in problems if broken), "")


def _neighbour(peer: Peer) -> str:
    return f'neighbor {peer.address} {{\n  description "{fingerprint(peer)}";\n{_settings(peer)}}}\n'


def _settings(peer: Peer) -> str:
    lines = [
        f"router-id {peer.router_id};",
        f"local-address {peer.local_address};",
        f"local-as {peer.local_as};",
        f"peer-as {peer.peer_as};",
        f"hold-time {peer.hold_time_seconds};",
        f"passive {'true' if peer.passive else 'false'};",
        "adj-rib-out false;",
        "adj-rib-in true;",
        "manual-eor true;",
        *_password(peer),
        *_ttl_security(peer),
        "family { ipv4 unicast; ipv6 unicast; }",
        f"capability {{ graceful-restart {peer.restart_time_seconds}; }}",
        f"api {{ processes [ {PROCESS} ]; neighbor-changes; receive {{ parsed; update; }} }}",
    ]
    return "".join(f"  {line}\n" for line in lines)


def _password(peer: Peer) -> list[str]:
    """Return the MD5 key (RFC 2385) in base64, so that no character of it can mean anything to ExaBGP's parser."""
    if peer.password is None:
        return []
    encoded = base64.b64encode(peer.password.encode()).decode()
    return [f'md5-password "{encoded}";', "md5-base64 true;"]


def _ttl_security(peer: Peer) -> list[str]:
    """Return what is sent and what is taken: the highest TTL, and one lower for each router between (RFC 5082)."""
    if peer.ttl_security_hops is None:
        return []
    return [f"outgoing-ttl {_MAX_TTL};", f"incoming-ttl {_MAX_TTL + 1 - peer.ttl_security_hops};"]


def _is_identifier(text: str) -> bool:
    try:
        return int(ipaddress.IPv4Address(text)) > 0
    except ValueError:
        return False


def _order(peer: Peer) -> tuple[int, int]:
    return peer.address.version, int(peer.address)

"""The names and MAC addresses of workload links: the same container and interface always have the same; pure."""

from __future__ import annotations

import hashlib
from typing import Final

#: What the names of all our host links start with.
HOST_LINK_PREFIX: Final = "tor"
#: What the names of far ends start with that somebody else takes into a namespace, as long as they are with us.
LENT_LINK_PREFIX: Final = "tdk"
#: The MAC address of every host end, on every host.
HOST_MAC: Final = "ee:ee:ee:ee:ee:ee"


def host_link_name(container_id: str, interface: str) -> str:
    """Return the name of the link on the host, 15 characters (IFNAMSIZ less the closing zero)."""
    return HOST_LINK_PREFIX + _digest(container_id, interface)[:6].hex()


def container_mac(container_id: str, interface: str) -> str:
    """Return the MAC address of the link in the container: unicast and locally administered (IEEE 802, section 8.4)."""
    first, *rest = _digest(container_id, interface)[6:12]
    return ":".join(f"{byte:02x}" for byte in (first & 0xFC | 0x02, *rest))


def _digest(container_id: str, interface: str) -> bytes:
    # Neither name can hold a zero byte, so no two pairs are written alike.
    return hashlib.sha256(f"{container_id}\0{interface}".encode()).digest()

"""The address types every other module speaks in, and what two networks have in common."""

import ipaddress
from typing import TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def shared_offsets(network: IPNetwork, other: IPNetwork) -> range:
    """Return the addresses that both networks have, as offsets from the first one's start; empty if there is none."""
    if network.version != other.version:
        return range(0)
    start = int(other.network_address) - int(network.network_address)
    stop = start + (1 << (other.max_prefixlen - other.prefixlen))
    size = 1 << (network.max_prefixlen - network.prefixlen)
    return range(max(start, 0), min(stop, size)) if start < size and stop > 0 else range(0)

"""Published ports, internal networks and the sources that links may send from as one nftables table of ours; pure.

A table of ours can redirect and drop, but not save what another table drops; see `controller.kernel.forward_filters`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from controller.docker.ports import host_addresses
from controller.docker.sources import shared_sources
from controller.docker.values import Protocol
from controller.kernel.link_names import HOST_LINK_PREFIX
from controller.ports import SHARED_LINK_GROUP
from controller.reconcile.firewall import BEFORE_TRACKING, ipv6_guard

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from controller.docker.values import Endpoint, Network, Published
    from ipam.address import IPAddress

_FAMILY: Final = {4: "ip", 6: "ip6"}
_NFPROTO: Final = {4: "ipv4", 6: "ipv6"}
_ADDRESS: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
#: What a link sends from besides its addresses, to its neighbours alone (RFC 4291, section 2.5.6).
_LINK_LOCAL: Final = {4: "", 6: "ip6 saddr != fe80::/10 "}
_LOOPBACK: Final = ("ip daddr 127.0.0.0/8 return", "ip6 daddr ::1 return")
#: Shortly before dockerd's own (netfilter_ipv4.h: -100, 100 and 0): one order, whoever wrote first. In numbers, since
#: not every hook knows the names.
_DESTINATION: Final = -105
_SOURCE: Final = 95
_FILTER: Final = -5


def ruleset(endpoints: Collection[Endpoint], networks: Mapping[str, Network]) -> str:
    """Return what stands in the table for these endpoints, in the language of `nft -f`; empty if nothing needs to."""
    translated: list[str] = []
    hairpins: list[str] = []
    barred: list[str] = []
    for endpoint in sorted(endpoints, key=lambda each: each.endpoint_id):
        network = networks.get(endpoint.network_id)
        if network is not None and network.internal:
            barred += _barred(endpoint, network)
            continue
        for published in endpoint.published:
            translated += _translations(endpoint, published)
        if endpoint.published:
            # A container that calls itself at the host's address would refuse a packet from itself.
            hairpins.append(f'iifname "{endpoint.host_name}" oifname "{endpoint.host_name}" masquerade')
    ipv6 = any(address.version == 6 for each in endpoints for address in each.addresses)  # noqa: PLR2004  the IP version
    # The pools' table has it too, but only while one of them is of IPv6.
    guards = [ipv6_guard(HOST_LINK_PREFIX)] if ipv6 else []
    return _sources(guards, shared_sources(endpoints)) + _translating(translated, hairpins) + _filtering(barred)


def datagram_ports(endpoints: Iterable[Endpoint]) -> frozenset[tuple[IPAddress | None, int]]:
    """Return the ports of the host that UDP is published at, each with the one address of the host that is meant."""
    return frozenset(
        (host_addresses(published), published.host_port)
        for endpoint in endpoints
        for published in endpoint.published
        if published.protocol == Protocol.UDP
    )


def _sources(guards: list[str], addresses_by_link: Mapping[str, Iterable[IPAddress]]) -> str:
    """Return what drops what comes from links that may not send it.

    Beside the guards that is everything from a link of the group but from an address that is listed for that link.
    """
    place = f"filter hook prerouting priority {BEFORE_TRACKING}"
    if not addresses_by_link:
        return _chain("sources", place, guards) if guards else ""
    sets, rules = "", list(guards)
    for version, family in _FAMILY.items():
        allowed = [
            f'"{link}" . {address}'
            for link, addresses in addresses_by_link.items()
            for address in addresses
            if address.version == version
        ]
        listed = f"        elements = {{ {', '.join(allowed)} }}\n" if allowed else ""
        sets += f"    set sources{version} {{\n        type ifname . {_ADDRESS[version]}\n{listed}    }}\n"
        rules.append(
            f"iifgroup {SHARED_LINK_GROUP} {_LINK_LOCAL[version]}iifname . {family} saddr != @sources{version} drop"
        )
    return sets + _chain("sources", place, rules)


def _translating(translated: list[str], hairpins: list[str]) -> str:
    # None on a host that publishes nothing: it would have the kernel track every connection.
    if not translated:
        return ""
    return (
        _chain("prerouting", f"nat hook prerouting priority {_DESTINATION}", translated)
        # What is for loopback stays there: a container could not answer to it.
        + _chain("output", f"nat hook output priority {_DESTINATION}", [*_LOOPBACK, *translated])
        + _chain("postrouting", f"nat hook postrouting priority {_SOURCE}", hairpins)
    )


def _filtering(barred: list[str]) -> str:
    return _chain("forward", f"filter hook forward priority {_FILTER}", barred) if barred else ""


def _chain(name: str, place: str, rules: list[str]) -> str:
    lines = "".join(f"        {rule}\n" for rule in rules)
    return f"    chain {name} {{\n        type {place}; policy accept;\n{lines}    }}\n"


def _translations(endpoint: Endpoint, published: Published) -> Iterator[str]:
    protocol = published.protocol.name.lower()
    for address in endpoint.addresses:
        if published.host_address is not None and published.host_address.version != address.version:
            continue
        family = _FAMILY[address.version]
        meant = host_addresses(published)
        anywhere = f"fib daddr type local meta nfproto {_NFPROTO[address.version]}"
        where = anywhere if meant is None else f"{family} daddr {meant}"
        target = f"{_bracketed(address)}:{published.port}"
        yield f"{where} {protocol} dport {published.host_port} dnat {family} to {target}"


def _bracketed(address: IPAddress) -> str:
    return str(address) if address.version == 4 else f"[{address}]"  # noqa: PLR2004  the IP version


def _barred(endpoint: Endpoint, network: Network) -> Iterator[str]:
    """Yield the drops of everything that is forwarded between the endpoint and addresses outside its network's pool."""
    for version in (4, 6):
        own = [str(cidr) for cidr in network.cidrs if cidr.version == version]
        family, inside = _FAMILY[version], f"{{ {', '.join(own)} }}"
        if own:
            yield f'iifname "{endpoint.host_name}" {family} daddr != {inside} drop'
            yield f'oifname "{endpoint.host_name}" {family} saddr != {inside} drop'
        else:
            yield f'iifname "{endpoint.host_name}" meta nfproto {_NFPROTO[version]} drop'
            yield f'oifname "{endpoint.host_name}" meta nfproto {_NFPROTO[version]} drop'

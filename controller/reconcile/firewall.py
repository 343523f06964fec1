"""The packet filter that the pools ask for: who is masqueraded, and which sources a workload may send from; pure.

What leaves all pools from a pool with `nat_outgoing` gets the address of the uplink it leaves by; between pools
everybody sees everybody's own address. Other nodes' addresses are outside of the pools as any other is.

IPv4 sources are checked by each link's strict rp_filter. IPv6 has no such setting, so a rule asks the FIB the same: is
the link a packet came in by the one that leads back to its source (nft(8), "fib expressions")? It stands before
connection tracking, which a forged source must not fill. Links of a group of their own carry the addresses of several
links; who makes such ones has other rules for them (`controller.docker.ruleset`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from controller.ports import SHARED_LINK_GROUP

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ipam.address import IPNetwork
    from ipam.pool import Pool

_FAMILY: Final = {4: "ip", 6: "ip6"}
_ADDRESS: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
#: In numbers, since not every hook knows the names (netfilter_ipv4.h): `raw`, and shortly before `srcnat`, so that what
#: others masquerade at large does not decide what leaves a pool.
BEFORE_TRACKING: Final = -300
_SOURCE: Final = 99


def table_body(pools: Collection[Pool], link_prefix: str, present: str = "") -> str:
    """Return what stands in our table for these pools, in the language of `nft -f`; empty if nothing needs to.

    `link_prefix` is what the names of all workload links of a host start with. `present` is the table as it is: once
    it masquerades, its rules stay until the host boots, for nobody if no pool asks for it any more. With the last such
    rule the kernel would forget the connections that exist (net/netfilter/nft_masq.c gives tracking up).
    """
    links = f'"{link_prefix}*"'
    body = ""
    # None on a host that never masqueraded: it would have the kernel track every connection.
    if any(pool.nat_outgoing for pool in pools) or "masquerade" in present:
        for version in _FAMILY:
            of_version = [pool for pool in pools if pool.version == version]
            body += _set(f"masqueraded{version}", version, [pool.cidr for pool in of_version if pool.nat_outgoing])
            body += _set(f"pools{version}", version, [pool.cidr for pool in of_version])
        rules = [
            f"oifname != {links} {family} saddr @masqueraded{version} {family} daddr != @pools{version} masquerade"
            for version, family in _FAMILY.items()
        ]
        body += _chain("postrouting", f"nat hook postrouting priority {_SOURCE}", rules)
    if any(pool.version == 6 for pool in pools):  # noqa: PLR2004  the IP version
        body += _chain("prerouting", f"filter hook prerouting priority {BEFORE_TRACKING}", [ipv6_guard(link_prefix)])
    return body


def ipv6_guard(link_prefix: str) -> str:
    """Return the rule that drops what no link of a workload may send by IPv6, for a chain before tracking."""
    return (
        f'iifname "{link_prefix}*" iifgroup != {SHARED_LINK_GROUP} meta nfproto ipv6 fib saddr . iif oif missing drop'
    )


def _set(name: str, version: int, networks: Iterable[IPNetwork]) -> str:
    elements = ", ".join(sorted(map(str, networks)))
    listed = f"        elements = {{ {elements} }}\n" if elements else ""
    return f"    set {name} {{\n        type {_ADDRESS[version]}\n        flags interval\n{listed}    }}\n"


def _chain(name: str, place: str, rules: Iterable[str]) -> str:
    lines = "".join(f"        {rule}\n" for rule in rules)
    return f"    chain {name} {{\n        type {place}; policy accept;\n{lines}    }}\n"

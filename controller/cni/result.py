"""What a successful ADD answers, in the form each version of the CNI specification wants."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from controller.cni.previous_result import PreviousResult
    from ipam.address import IPAddress

_VERSIONS_WITH_FAMILY = frozenset({"0.3.1", "0.4.0"})
_VERSIONS_WITHOUT_MTU = frozenset({"0.3.1", "0.4.0", "1.0.0"})
_DEFAULT_ROUTE = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True, slots=True)
class CniResult:
    """A wired attachment.

    `sandbox` is the namespace's path as the runtime gave it; `addresses` at most one for each IP version; a gateway is
    the next hop of the default route in the container, None where the container has no address of that version.
    """

    host_interface: str
    host_mac: str
    container_interface: str
    container_mac: str
    sandbox: str
    addresses: tuple[IPAddress, ...]
    mtu_bytes: int
    gateway_ipv4: IPv4Address | None
    gateway_ipv6: IPv6Address | None


def encode_result(result: CniResult, cni_version: str, previous: PreviousResult | None = None) -> bytes:
    """Return the result as JSON of this version of the CNI specification ("Success", "ADD Success").

    What plugins before ours answered stays part of it, in front.
    """
    gateway_of = {4: str(result.gateway_ipv4), 6: str(result.gateway_ipv6)}
    before = {} if previous is None else previous.fields
    interfaces = [] if previous is None else [*previous.interfaces]
    inside = len(interfaces) + 1
    interfaces += _interfaces(result, cni_version)
    ips = [] if previous is None else [*previous.ips]
    routes = [] if previous is None else [*previous.routes]
    for address in result.addresses:
        gateway = gateway_of[address.version]
        ip: dict[str, object] = {
            "address": f"{address}/{address.max_prefixlen}",
            "gateway": gateway,
            "interface": inside,
        }
        if cni_version in _VERSIONS_WITH_FAMILY:
            ip["version"] = str(address.version)
        ips.append(ip)
        routes.append({"dst": _DEFAULT_ROUTE[address.version], "gw": gateway})
    fields = {
        "dns": {},
        **before,
        "cniVersion": cni_version,
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _interfaces(result: CniResult, cni_version: str) -> list[dict[str, object]]:
    ends: list[dict[str, object]] = [
        {"name": result.host_interface, "mac": result.host_mac},
        {"name": result.container_interface, "mac": result.container_mac, "sandbox": result.sandbox},
    ]
    if cni_version not in _VERSIONS_WITHOUT_MTU:
        for end in ends:
            end["mtu"] = result.mtu_bytes
    return ends

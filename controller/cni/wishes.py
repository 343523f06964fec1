"""What the caller of an ADD wants beyond its network configuration: certain addresses, a MAC address.

A wish is granted or refused, never passed over: another address than the one a container was started for, without
anybody being told, would be wrong.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING

from controller.cni.failures import CniFailure, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.cni.network_configuration import Unchecked
    from ipam.address import IPAddress


def wanted_addresses(args: Mapping[str, str], fields: Unchecked) -> tuple[IPAddress, ...]:
    """Return the addresses that `IP=` of CNI_ARGS and `runtimeConfig.ips` ask for, each once; raises `CniFailure`.

    Each may carry a prefix length, which says nothing here: a workload's address is always routed by itself. Runtimes
    name one address twice when they attach a container again.
    """
    found: dict[IPAddress, None] = {}
    for text in filter(None, args.get("IP", "").split(",")):
        address = _address(text)
        if address is None:
            raise CniFailure(
                ErrorCode.INVALID_ENVIRONMENT,
                f"CNI_ARGS asks for the address {text!r}, which is none",
                "write an IPv4 or IPv6 address, such as IP=10.244.0.7",
            )
        found[address] = None
    wish = _capability(fields, "ips")
    for item in wish if isinstance(wish, list) else [wish] if wish else []:
        address = _address(item)
        if address is None:
            raise CniFailure(
                ErrorCode.INVALID_CONFIG,
                f"runtimeConfig.ips asks for {json.dumps(item)}, which is no address",
                'write a list of addresses, such as ["10.244.0.7"]',
            )
        found[address] = None
    return tuple(found)


def refuse_other_mac(args: Mapping[str, str], fields: Unchecked, granted: str) -> None:
    """Raise `CniFailure` for a MAC address other than the one the container gets.

    Runtimes repeat the MAC address that a container has when they attach it again.
    """
    refusal = "a workload's MAC address follows from its container and cannot be chosen"
    mac = args.get("MAC")
    if mac and mac.lower() != granted:
        raise CniFailure(
            ErrorCode.INVALID_ENVIRONMENT,
            f"CNI_ARGS asks for the MAC address {mac}; {refusal}",
            "start the container without one",
        )
    wish = _capability(fields, "mac")
    if wish and str(wish).lower() != granted:
        raise CniFailure(
            ErrorCode.INVALID_CONFIG,
            f"runtimeConfig.mac asks for {json.dumps(wish)}; {refusal}",
            "start the container without it, or remove the capability mac from the network configuration",
        )


def _capability(fields: Unchecked, name: str) -> object:
    wishes = fields.get("runtimeConfig")
    return wishes.get(name) if isinstance(wishes, dict) else None


def _address(text: object) -> IPAddress | None:
    try:
        return ipaddress.ip_interface(text).ip if isinstance(text, str) else None
    except ValueError:
        return None

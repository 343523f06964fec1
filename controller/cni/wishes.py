"""What the caller of an ADD wants beyond its network configuration: certain addresses, a MAC address.

A wish is granted or refused, never passed over: another address than the one a container was started for, without
anybody being told, would be wrong.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from controller.cni.failures import CniFailure, ErrorCode, shown
from controller.kernel.link_names import HOST_MAC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.cni.network_configuration import Unchecked
    from ipam.address import IPAddress

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", re.ASCII)
_NO_MAC = "00:00:00:00:00:00"


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
                f"CNI_ARGS asks for the address {shown(text)}, which is none",
                "write an IPv4 or IPv6 address, such as IP=10.244.0.7",
            )
        found[address] = None
    wish = _capability(fields, "ips")
    for item in wish if isinstance(wish, list) else [wish] if wish else []:
        address = _address(item)
        if address is None:
            raise CniFailure(
                ErrorCode.INVALID_CONFIG,
                f"runtimeConfig.ips asks for {shown(item)}, which is no address",
                'write a list of addresses, such as ["10.244.0.7"]',
            )
        found[address] = None
    return tuple(found)


def wanted_mac(args: Mapping[str, str], fields: Unchecked) -> str | None:
    """Return the MAC address that `MAC=` of CNI_ARGS or `runtimeConfig.mac` asks for, None if neither does.

    It comes as `xx:xx:xx:xx:xx:xx` in lower case. Raises `CniFailure` for one that no container can have.
    """
    found: dict[str, None] = {}
    for where, wish, code in (
        ("CNI_ARGS", args.get("MAC"), ErrorCode.INVALID_ENVIRONMENT),
        ("runtimeConfig.mac", _capability(fields, "mac"), ErrorCode.INVALID_CONFIG),
    ):
        if not wish:
            continue
        asked = f"{where} asks for the MAC address {shown(wish)}"
        if not isinstance(wish, str) or _MAC.fullmatch(wish) is None:
            raise CniFailure(code, f"{asked}, which is none", "write six bytes, such as 02:00:5e:10:00:07")
        mac = wish.lower().replace("-", ":")
        if int(mac[:2], 16) & 1 or mac in {_NO_MAC, HOST_MAC}:
            rule = f"a container's is unicast, not {_NO_MAC}, and not {HOST_MAC}, which the host's end has"
            raise CniFailure(code, f"{asked}: {rule}", "ask for another one, such as 02:00:5e:10:00:07, or for none")
        found[mac] = None
    if len(found) > 1:
        raise CniFailure(
            ErrorCode.INVALID_CONFIG,
            f"CNI_ARGS and runtimeConfig.mac ask for different MAC addresses: {', '.join(found)}",
            "ask for one",
        )
    return next(iter(found), None)


def _capability(fields: Unchecked, name: str) -> object:
    wishes = fields.get("runtimeConfig")
    return wishes.get(name) if isinstance(wishes, dict) else None


def _address(text: object) -> IPAddress | None:
    try:  # a zone ("%eth0") is a part of no workload's address
        return ipaddress.ip_interface(text).ip if isinstance(text, str) and "%" not in text else None
    except ValueError:
        return None

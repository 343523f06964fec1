"""The `prevResult` of a network configuration: what the plugins of a list have answered so far.

An ADD gets one when another plugin stands before ours in the list, a CHECK gets the answer of the whole list.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.cni.failures import CniFailure, ErrorCode, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.cni.network_configuration import Unchecked
    from ipam.address import IPAddress


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """A previous result; `fields` is all of it, the others are its lists, empty where it has none."""

    fields: Unchecked
    interfaces: tuple[Mapping[str, object], ...]
    ips: tuple[Mapping[str, object], ...]
    routes: tuple[Mapping[str, object], ...]

    def inside(self, name: str) -> Mapping[str, object] | None:
        """Return the interface of this name in a container, if there is one."""
        found = (each for each in self.interfaces if each.get("name") == name and each.get("sandbox"))
        return next(found, None)

    def addresses_of(self, name: str) -> frozenset[IPAddress]:
        """Return the addresses of the interface of this name in a container, and those of no interface at all."""
        return frozenset(
            address
            for each in self.ips
            if self._belongs(each.get("interface"), name) and (address := _address(each.get("address"))) is not None
        )

    def _belongs(self, number: object, name: str) -> bool:
        if not isinstance(number, int):
            return True
        interface = self.interfaces[number] if 0 <= number < len(self.interfaces) else {}
        return interface.get("name") == name and bool(interface.get("sandbox"))


def parse_previous_result(fields: Unchecked) -> PreviousResult | None:
    """Return the checked `prevResult` of a network configuration, None without one; raises `CniFailure`."""
    previous = fields.get("prevResult")
    if previous is None:
        return None
    if not isinstance(previous, dict):
        raise _invalid("prevResult", previous, "must be an object")
    return PreviousResult(
        fields=previous,
        interfaces=_objects(previous, "interfaces"),
        ips=_objects(previous, "ips"),
        routes=_objects(previous, "routes"),
    )


def _objects(previous: Unchecked, key: str) -> tuple[dict[str, object], ...]:
    found = previous.get(key)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _invalid(f"prevResult.{key}", found, "must be a list of objects")
    return tuple(found)


def _address(text: object) -> IPAddress | None:
    try:
        return ipaddress.ip_interface(text).ip if isinstance(text, str) else None
    except ValueError:
        return None


def _invalid(key: str, value: object, rule: str) -> CniFailure:
    return CniFailure(
        ErrorCode.INVALID_CONFIG,
        f"{key} {shown(value)} {rule}",
        "the container runtime makes it of what the plugins answer",
    )

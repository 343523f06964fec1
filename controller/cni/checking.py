"""CHECK: everything about an attachment that is not as ADD left it, each fault by name; pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from controller.cni.failures import CniFailure, ErrorCode
from controller.kernel.link_inspection import Path
from controller.kernel.link_names import HOST_MAC
from controller.kernel.links import IPV4_GATEWAY, IPV6_GATEWAY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.cni.previous_result import PreviousResult
    from controller.kernel.link_inspection import LinkEnd, LinkState
    from ipam.address import IPAddress

_ATTACH_AGAIN: Final = "start the container again: DEL and ADD make the attachment anew"
_ATTACH_LAST: Final = (
    f"{_ATTACH_AGAIN}; where a network of another plugin brings a default route, let the container have that one first"
)
_AGENT_REPAIRS: Final = "the agent puts its routes right by itself; `tortiectl node status` tells what keeps it from it"
_DEFAULT: Final = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class Expected:
    """The attachment as it should be.

    `addresses` are those assigned to it and `families` the IP versions it should have; `exact_mtu` says whether both
    ends must have `mtu_bytes`, or the same MTU of at most that.
    """

    host_name: str
    container_name: str
    container_mac: str
    addresses: tuple[IPAddress, ...]
    families: tuple[int, ...]
    mtu_bytes: int
    exact_mtu: bool
    previous: PreviousResult | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: `what` is a word for it; then what is, what should be, and the way out."""

    what: str
    found: str
    expected: str
    way_out: str = _ATTACH_AGAIN

    def __str__(self) -> str:
        return f"{self.what}: is {self.found}, should be {self.expected}"


def report(expected: Expected, state: LinkState) -> CniFailure | None:
    """Return what a CHECK answers, None if everything is as it should be."""
    faults = tuple(_faults(expected, state))
    if not faults:
        return None
    ways_out = dict.fromkeys(fault.way_out for fault in faults)
    return CniFailure(ErrorCode.CHECK_FAILED, "; ".join(map(str, faults)), "; ".join(ways_out))


def _faults(expected: Expected, state: LinkState) -> Iterator[Fault]:
    yield from _assignment(expected)
    host, container = state.host.end, state.container.end
    if host is None or container is None or not _joined(host, container):
        yield Fault(
            "link",
            f"{expected.host_name} on the host {_seen(host)}, {expected.container_name} in the container "
            f"{_seen(container)}",
            "one pair of veth ends",
        )
    else:
        yield from _ends(expected, host, container)
        yield from _host(expected, state, host)
        yield from _container(expected, state, container)
    yield from _previous(expected, container)


def _assignment(expected: Expected) -> Iterator[Fault]:
    held = {address.version for address in expected.addresses}
    if held != set(expected.families):
        families = " and ".join(f"one IPv{version} address" for version in expected.families)
        yield Fault("assignment", _listed(expected.addresses), families)


def _joined(host: LinkEnd, container: LinkEnd) -> bool:
    return host.kind == container.kind == "veth" and (host.peer_index, container.peer_index) == (
        container.index,
        host.index,
    )


def _ends(expected: Expected, host: LinkEnd, container: LinkEnd) -> Iterator[Fault]:
    ends = ((expected.host_name, host, HOST_MAC), (expected.container_name, container, expected.container_mac))
    for name, end, mac in ends:
        if not end.up:
            yield Fault("state", f"{name} down", "up")
        if end.mac != mac:
            yield Fault("mac", f"{end.mac} of {name}", mac)
        if expected.exact_mtu and end.mtu_bytes != expected.mtu_bytes:
            yield Fault("mtu", f"{end.mtu_bytes} of {name}", str(expected.mtu_bytes))
    if not expected.exact_mtu and (host.mtu_bytes != container.mtu_bytes or container.mtu_bytes > expected.mtu_bytes):
        yield Fault(
            "mtu",
            f"{host.mtu_bytes} of {expected.host_name} and {container.mtu_bytes} of {expected.container_name}",
            f"the same for both, at most {expected.mtu_bytes}",
        )


def _host(expected: Expected, state: LinkState, end: LinkEnd) -> Iterator[Fault]:
    name = expected.host_name
    for setting, (found, wanted) in state.host.wrong_settings.items():
        yield Fault("sysctl", f"{setting}={found}", wanted)
    mac_of = {each.address: each.mac for each in state.host.neighbours if each.link_index == end.index}
    for address in expected.addresses:
        mac = mac_of.get(address)
        if mac != expected.container_mac:
            yield Fault("neighbour", f"{address} {_at(mac)} on {name}", f"permanent at {expected.container_mac}")
        path = state.host.path_to.get(address)
        if path != Path(ipaddress.ip_network(address), None, frozenset({end.index})):
            prefix = ipaddress.ip_network(address)
            yield Fault("hostroute", _way(path, end.index, name), f"{prefix} dev {name}", _AGENT_REPAIRS)


def _container(expected: Expected, state: LinkState, end: LinkEnd) -> Iterator[Fault]:
    side, name = state.container, expected.container_name
    if side.ipv6_off and any(address.version == 6 for address in expected.addresses):  # noqa: PLR2004  the IP version
        yield Fault("sysctl", f"net/ipv6/conf/{name}/disable_ipv6=1 in the container", "0")
    doors = {(each.address, each.link_index) for each in side.neighbours if each.mac == HOST_MAC}
    for address in expected.addresses:
        gateway: IPAddress = IPV4_GATEWAY if address.version == 4 else IPV6_GATEWAY  # noqa: PLR2004  the IP version
        if address not in side.addresses:
            yield Fault("address", f"{address} not on {name}", f"{address}/{address.max_prefixlen} on {name}")
        if (gateway, end.index) not in doors:
            yield Fault("neighbour", f"no permanent {gateway} at {HOST_MAC} on {name}", "there")
        way = side.way_from.get(address)
        if address in side.addresses and way != Path(_DEFAULT[address.version], gateway, frozenset({end.index})):
            yield Fault(
                "route",
                f"{_way(way, end.index, name)} from {address} in the container",
                f"{_DEFAULT[address.version]} via {gateway} dev {name}",
                _ATTACH_LAST,
            )


def _previous(expected: Expected, container: LinkEnd | None) -> Iterator[Fault]:
    """Compare with the result that the runtime remembers."""
    previous = expected.previous
    if previous is None:
        return
    interface = previous.inside(expected.container_name)
    if interface is None:
        yield Fault("prevResult", f"without interface {expected.container_name}", "the answer of its ADD")
    elif container is not None and str(interface.get("mac", "")).lower() != container.mac:
        yield Fault("prevResult", f"mac {interface.get('mac')}", f"{container.mac}, which the link has")
    found = previous.addresses_of(expected.container_name)
    if found != frozenset(expected.addresses):
        yield Fault("prevResult", f"address {_listed(found)}", f"{_listed(expected.addresses)}, as is assigned")


def _seen(end: LinkEnd | None) -> str:
    return "missing" if end is None else f"of kind {end.kind or 'none'}, index {end.index}, peer {end.peer_index}"


def _at(mac: str | None) -> str:
    return "not permanent" if mac is None else f"at {mac}"


def _way(path: Path | None, index: int, name: str) -> str:
    if path is None:
        return "none"
    links = ", ".join(name if number == index else f"link {number}" for number in sorted(path.link_indexes))
    gateway = "" if path.gateway is None else f" via {path.gateway}"
    return f"{path.prefix}{gateway} dev {links}"


def _listed(addresses: frozenset[IPAddress] | tuple[IPAddress, ...]) -> str:
    return ", ".join(sorted(map(str, addresses))) or "none"

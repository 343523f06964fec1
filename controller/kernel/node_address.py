"""Which of a host's addresses other nodes reach it at; pure but for what it asks of the kernel."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from controller.ports import InterfaceAddress
    from ipam.address import IPAddress

T = TypeVar("T")

METHODS: Final = "an address, default-route, interface=NAME (or a regular expression), cidr=CIDR or can-reach=ADDRESS"


class HostView(Protocol):
    """What the choice asks of the host."""

    def addresses(self) -> Sequence[InterfaceAddress]:
        """Return every address of the host."""
        ...

    def default_route_links(self, version: int) -> Sequence[int]:
        """Return the indexes of the links that default routes of this IP version lead out of, the best first."""
        ...

    def source_towards(self, destination: IPAddress) -> IPAddress | None:
        """Return the address the host sends from to that destination, or None if it has no route there."""
        ...


def chosen(method: str, version: int, host: HostView) -> InterfaceAddress:
    """Return the host's address of this IP version that the method names; of several the first in the kernel's order.

    One past its preferred lifetime is not chosen: it goes soon. Raises `RefusedError` that says what was looked for,
    what there is, and how to set it.
    """
    addresses = [candidate for candidate in host.addresses() if candidate.address.version == version]
    usable = [candidate for candidate in addresses if candidate.scope_global and not candidate.deprecated]
    for candidate in _matching(method, version, host, usable):
        return candidate
    listed = ", ".join(f"{candidate.address} on {candidate.interface}" for candidate in usable) or "none"
    raise RefusedError(
        f"no IPv{version} address of this host matches {method}; its addresses are: {listed}. "
        f"Set ipv{version}_address to {METHODS}"
    )


def _matching(
    method: str, version: int, host: HostView, usable: Iterable[InterfaceAddress]
) -> Iterable[InterfaceAddress]:
    name, _, argument = method.partition("=")
    if name == "default-route" and not argument:
        by_link = {candidate.link_index: candidate for candidate in reversed(list(usable))}
        return [by_link[index] for index in host.default_route_links(version) if index in by_link]
    if name == "interface":
        pattern = _pattern(argument, version)
        return [candidate for candidate in usable if pattern.fullmatch(candidate.interface)]
    if name == "cidr":
        network = _parsed(ipaddress.ip_network, method, argument, version)
        return [candidate for candidate in usable if candidate.address in network]
    if name == "can-reach":
        source = host.source_towards(_parsed(ipaddress.ip_address, method, argument, version))
        return [candidate for candidate in usable if candidate.address == source]
    literal = _parsed(ipaddress.ip_address, method, method, version)
    return [candidate for candidate in usable if candidate.address == literal]


def _pattern(argument: str, version: int) -> re.Pattern[str]:
    try:
        return re.compile(argument)
    except re.error as error:
        raise RefusedError(
            f"ipv{version}_address=interface={argument}: not a regular expression ({error}); "
            f"name the interface, such as interface=eth0"
        ) from error


def _parsed(parse: Callable[[str], T], method: str, argument: str, version: int) -> T:
    try:
        return parse(argument)
    except ValueError as error:
        raise RefusedError(f"ipv{version}_address={method}: {error}; set it to {METHODS}") from error

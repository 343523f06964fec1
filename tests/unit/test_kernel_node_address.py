"""The choice of a node's address, without a kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.errors import RefusedError
from controller.kernel.node_address import chosen
from controller.ports import InterfaceAddress

if TYPE_CHECKING:
    from ipam.address import IPAddress


def at(interface: str, index: int, text: str, *, scope_global: bool = True) -> InterfaceAddress:
    """Return an address with its subnet."""
    address = ip_address(text.partition("/")[0])
    return InterfaceAddress(interface, index, address, ip_network(text, strict=False), scope_global)


class Host:
    """A host of four addresses whose best default route leads out of the second link."""

    def addresses(self) -> list[InterfaceAddress]:
        """Return them in the kernel's order."""
        return [
            at("lo", 1, "127.0.0.1/8", scope_global=False),
            at("eth0", 2, "192.0.2.1/24"),
            at("eth1", 3, "198.51.100.1/24"),
            at("eth1", 3, "198.51.100.2/24"),
            at("eth1", 3, "2001:db8::1/64"),
        ]

    def default_route_links(self, version: int) -> list[int]:
        """Return a link without addresses first."""
        return [9, 3, 2] if version == 4 else []

    def source_towards(self, destination: IPAddress) -> IPAddress | None:
        """Know one way only."""
        return IPv4Address("192.0.2.1") if destination == IPv4Address("203.0.113.1") else None


@pytest.mark.parametrize(
    ("method", "version", "expected"),
    [
        ("default-route", 4, "198.51.100.1"),
        ("interface=eth0", 4, "192.0.2.1"),
        ("interface=eth.*", 6, "2001:db8::1"),
        ("cidr=198.51.100.2/31", 4, "198.51.100.2"),
        ("can-reach=203.0.113.1", 4, "192.0.2.1"),
        ("198.51.100.2", 4, "198.51.100.2"),
    ],
)
def test_each_method_finds_its_address(method: str, version: int, expected: str) -> None:
    """The method decides; of several addresses the first in the kernel's order is taken."""
    assert str(chosen(method, version, Host()).address) == expected


@pytest.mark.parametrize(
    ("method", "version"),
    [
        ("default-route", 6),
        ("interface=eth", 4),
        ("interface=lo", 4),
        ("cidr=10.0.0.0/8", 4),
        ("can-reach=203.0.113.2", 4),
        ("192.0.2.7", 4),
        ("127.0.0.1", 4),
    ],
)
def test_what_matches_nothing_is_refused(method: str, version: int) -> None:
    """The refusal says what was asked, what there is, and how to set it; loopback never stands for a node."""
    with pytest.raises(RefusedError) as caught:
        chosen(method, version, Host())
    text = str(caught.value)
    assert method in text
    assert ("192.0.2.1 on eth0" if version == 4 else "2001:db8::1 on eth1") in text
    assert f"Set ipv{version}_address to" in text


@pytest.mark.parametrize("method", ["interface=[", "cidr=192.0.2.1/24", "can-reach=host", "first-found", ""])
def test_what_is_no_method_is_refused(method: str) -> None:
    """A typing error names the setting and what it may be."""
    with pytest.raises(RefusedError, match="ipv4_address"):
        chosen(method, 4, Host())

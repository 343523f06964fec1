"""Which addresses a node is reached at, and how long they are waited for."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.agent import addressing
from controller.agent.addressing import find_node
from controller.errors import RefusedError
from controller.ports import InterfaceAddress
from controller.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

FOUR = InterfaceAddress("eth0", 2, ip_address("192.0.2.1"), ip_network("192.0.2.0/24"), scope_global=True)
SIX = InterfaceAddress("eth1", 3, ip_address("2001:db8::1"), ip_network("2001:db8::/64"), scope_global=True)


class Host:
    """What methods find here, by method and IP version; after `tries` in vain everything in `later` is there too."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], InterfaceAddress] = {}
        self.later: dict[tuple[str, int], InterfaceAddress] = {}
        self.tries = 0

    def choose(self, method: str, version: int) -> InterfaceAddress:
        """Return the address, as the kernel's adapter does."""
        if (method, version) in self.found:
            return self.found[method, version]
        self.tries -= 1
        if self.tries < 0:
            self.found |= self.later
        raise RefusedError(f"no IPv{version} address of this host matches {method}")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host without addresses, on which waiting takes no time."""
    host = Host()
    (tmp_path / "tortie.toml").touch()
    monkeypatch.setenv("TORTIE_CONFIG", str(tmp_path / "tortie.toml"))
    monkeypatch.setattr(addressing, "choose_node_address", host.choose)
    monkeypatch.setattr(addressing, "_PAUSE_SECONDS", 0)
    return host


def asked(ipv4: str = "auto", ipv6: str = "auto") -> Settings:
    """Return settings that ask for these addresses."""
    return Settings(node_name="n1", as_number=64999, ipv4_address=ipv4, ipv6_address=ipv6)


async def test_a_reflector_is_known_by_its_cluster_id(host: Host) -> None:
    """The other nodes leave it out of their mesh."""
    host.found = {("default-route", 4): FOUR}
    settings = Settings(node_name="n1", cluster_id="192.0.2.99")
    assert (await find_node(settings))[0].cluster_id == "192.0.2.99"
    assert (await find_node(asked()))[0].cluster_id is None


async def test_auto_takes_what_default_routes_lead_to(host: Host) -> None:
    """Both families, and the interfaces they are on."""
    host.found = {("default-route", 4): FOUR, ("default-route", 6): SIX}
    node, interfaces = await find_node(asked())
    assert (node.name, node.as_number) == ("n1", 64999)
    assert (node.ipv4, node.ipv6) == (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    assert sorted(interfaces) == ["eth0", "eth1"]


async def test_auto_does_without_a_family_that_has_no_default_route(host: Host) -> None:
    """And does not wait for it."""
    host.found = {("default-route", 4): FOUR}
    node, interfaces = await find_node(asked())
    assert (node.addresses, interfaces) == ((FOUR.address,), ("eth0",))


async def test_none_takes_no_address_though_there_is_one(host: Host) -> None:
    """The operator's word counts."""
    host.found = {("default-route", 4): FOUR, ("default-route", 6): SIX}
    assert (await find_node(asked(ipv4="none")))[0].addresses == (SIX.address,)


async def test_an_address_that_was_asked_for_is_waited_for(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Though the other family is there already; the log says what is missing and how long it is looked for."""
    host.found = {("default-route", 6): SIX}
    host.later = {("interface=eth0", 4): FOUR}
    host.tries = 3
    with caplog.at_level(logging.WARNING):
        node, _ = await find_node(asked(ipv4="interface=eth0"))
    assert node.addresses == (FOUR.address, SIX.address)
    assert len(caplog.records) == 4
    assert vars(caplog.records[0])["reason"] == "no IPv4 address of this host matches interface=eth0"
    assert "seconds_left" in vars(caplog.records[0])


async def test_an_address_that_never_comes_ends_the_wait(host: Host) -> None:
    """With what the last look at the host found."""
    host.found = {("default-route", 6): SIX}
    host.tries = 1000
    with pytest.raises(RefusedError, match="no IPv4 address of this host matches interface=eth0"):
        await find_node(asked(ipv4="interface=eth0"))
    assert host.tries == 1000 - 30


@pytest.mark.usefixtures("host")
async def test_a_host_without_any_address_says_what_to_set() -> None:
    """Both settings are named with their values, and the way out."""
    with pytest.raises(
        RefusedError, match=r"ipv4_address=auto and ipv6_address=auto .* add a default route or set one"
    ):
        await find_node(asked())


async def test_the_node_has_the_labels_that_are_set(host: Host) -> None:
    """Pools select it by them."""
    host.found = {("default-route", 4): FOUR}
    node, _ = await find_node(Settings(node_name="n1", labels={"rack": "a"}))
    assert node.labels == {"rack": "a"}

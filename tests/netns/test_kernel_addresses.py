"""The host's addresses against the real kernel, in a namespace."""

from __future__ import annotations

import resource
import socket
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.errors import KernelRefused, KernelUnavailable, RefusedError
from controller.kernel import addresses
from controller.kernel.addresses import choose_node_address, interface_addresses, uplink_mtu
from controller.kernel.link_messages import RTM_NEWADDR, RTM_NEWLINK
from controller.kernel.netlink import HEADER, NLM_F_DUMP_INTR, NLMSG_DONE, NetlinkSocket, messages
from controller.ports import InterfaceAddress

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("host")


def test_addresses_come_with_link_and_subnet() -> None:
    """Each address is told with the interface, its index and the subnet, of both families."""
    index = socket.if_nametoindex("up0")
    found = interface_addresses()
    for address, network in (("192.0.2.1", "192.0.2.0/24"), ("2001:db8::1", "2001:db8::/64")):
        assert InterfaceAddress("up0", index, ip_address(address), ip_network(network), scope_global=True) in found


def test_loopback_is_not_global() -> None:
    """Nobody else reaches 127.0.0.1 or ::1."""
    found = [one for one in interface_addresses() if one.interface == "lo"]
    assert {str(one.address) for one in found} == {"127.0.0.1", "::1"}
    assert not any(one.scope_global for one in found)


def test_a_point_to_point_address_is_the_own_end(ip: Callable[[str], str]) -> None:
    """The other end's address is not ours; the subnet is where it lies."""
    ip("address add 198.51.100.1 peer 198.51.100.2/32 dev far0")
    (found,) = [one for one in interface_addresses() if one.interface == "far0" and one.address.version == 4]
    assert (str(found.address), str(found.network)) == ("198.51.100.1", "198.51.100.2/32")


def test_a_secondary_address_comes_after_the_primary(ip: Callable[[str], str]) -> None:
    """The first stands for the node, unless the other is named."""
    ip("address add 192.0.2.9/24 dev up0")
    found = [str(one.address) for one in interface_addresses() if one.interface == "up0" and one.address.version == 4]
    assert found == ["192.0.2.1", "192.0.2.9"]
    assert str(choose_node_address("interface=up0", 4).address) == "192.0.2.1"
    assert str(choose_node_address("192.0.2.9", 4).address) == "192.0.2.9"


def test_a_temporary_address_does_not_count(ip: Callable[[str], str], set_sysctl: Callable[[str, str], None]) -> None:
    """It changes daily; the lasting one of its subnet counts."""
    set_sysctl("ipv6/conf/up0/use_tempaddr", "2")
    ip("address add 2001:db8:2::1/64 dev up0 mngtmpaddr nodad")
    assert "temporary" in ip("address show dev up0")
    assert [str(one.address) for one in interface_addresses() if "2001:db8:2:" in str(one.address)] == ["2001:db8:2::1"]


def test_an_address_past_its_preferred_lifetime_counts_until_it_goes(ip: Callable[[str], str]) -> None:
    """Its subnet is reached as before, in both families; only as a node's address it is not chosen any more."""
    for address in ("192.0.2.1/24", "2001:db8::1/64"):
        ip(f"address change {address} dev up0 valid_lft 3600 preferred_lft 0")
    found = {str(one.network) for one in interface_addresses() if one.deprecated}
    assert found == {"192.0.2.0/24", "2001:db8::/64"}
    with pytest.raises(RefusedError, match="its addresses are: none"):
        choose_node_address("interface=up0", 4)


def test_a_tentative_address_does_not_count(ip: Callable[[str], str]) -> None:
    """It may be somebody else's."""
    ip("link set far0 down")
    ip("address add 2001:db8:1::1/64 dev far0")
    assert "tentative" in ip("address show dev far0")
    assert not [one for one in interface_addresses() if str(one.address) == "2001:db8:1::1"]


class InterruptedOnce(NetlinkSocket):
    """A socket that loses the first answer of each kind, as of a dump during which the kernel's table changed."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[int] = []

    def _received(self) -> bytes:
        datagram = super()._received()
        kind, flags, sequence, _ = next(messages(datagram))
        if kind in {NLMSG_DONE, *self.lost}:
            return datagram
        self.lost.append(kind)
        return HEADER.pack(HEADER.size, kind, flags | NLM_F_DUMP_INTR, sequence, 0)


def test_an_interrupted_dump_hides_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kernel says was not of one instant is asked for again."""
    expected = interface_addresses()
    asked = InterruptedOnce()
    monkeypatch.setattr(addresses, "NetlinkSocket", lambda: asked)
    assert interface_addresses() == expected
    assert asked.lost == [RTM_NEWLINK, RTM_NEWADDR]


def test_a_lack_of_descriptors_is_an_error_that_passes() -> None:
    """The agent, which reads these now and then, goes on and asks again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    questions: tuple[Callable[[], object], ...] = (
        interface_addresses,
        lambda: uplink_mtu(["up0"]),
        lambda: choose_node_address("can-reach=192.0.2.9", 4),
    )
    for ask in questions:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(KernelUnavailable, match="Too many open files"):
                ask()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        ask()


def test_the_best_default_route_decides(ip: Callable[[str], str]) -> None:
    """With two default routes the one of the lower metric names the link."""
    ip("address add 198.51.100.1/24 dev far0")
    ip("route add default via 198.51.100.9 metric 200")
    ip("route add default via 192.0.2.9 metric 100")
    ip("-6 route add default via 2001:db8::9")
    assert str(choose_node_address("default-route", 4).address) == "192.0.2.1"
    assert str(choose_node_address("default-route", 6).address) == "2001:db8::1"


def test_an_ecmp_default_route_counts(ip: Callable[[str], str]) -> None:
    """A default route of several paths names the links of its paths."""
    ip("route add default nexthop via 192.0.2.9 nexthop via 192.0.2.8")
    assert str(choose_node_address("default-route", 4).address) == "192.0.2.1"


def test_a_default_route_is_found_behind_many_others(ip: Callable[[str], str]) -> None:
    """A host full of containers has it in a later datagram of the dump: the kernel puts it last for IPv6."""
    ip("route add default via 192.0.2.9")
    ip("-6 route add default via 2001:db8::9")
    for number in range(1, 200):
        ip(f"route add 10.0.0.{number}/32 dev up0")
        ip(f"-6 route add fd00::{number:x}/128 dev up0")
    assert str(choose_node_address("default-route", 4).address) == "192.0.2.1"
    assert str(choose_node_address("default-route", 6).address) == "2001:db8::1"


def test_can_reach_asks_the_routing_table(ip: Callable[[str], str]) -> None:
    """The address is the one the host would send from; no route is a refusal that lists what there is."""
    ip("route add 203.0.113.0/24 via 192.0.2.9")
    assert str(choose_node_address("can-reach=203.0.113.5", 4).address) == "192.0.2.1"
    with pytest.raises(RefusedError, match=r"192\.0\.2\.1 on up0"):
        choose_node_address("can-reach=198.18.0.1", 4)


def test_the_smallest_mtu_counts(ip: Callable[[str], str]) -> None:
    """A workload's packet fits through every uplink; an interface that is not there is named."""
    ip("link set far0 mtu 1400")
    assert uplink_mtu(["up0"]) == 1500
    assert uplink_mtu(["up0", "far0"]) == 1400
    with pytest.raises(KernelRefused, match="nowhere0"):
        uplink_mtu(["nowhere0"])

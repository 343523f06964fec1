"""CHECK names every single thing that is not as ADD left it, and nothing else."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from controller.cni.checking import Expected, report
from controller.cni.failures import ErrorCode
from controller.cni.previous_result import parse_previous_result
from controller.kernel.link_inspection import ContainerSide, HostSide, LinkEnd, LinkState, Neighbour, Path
from controller.kernel.link_names import HOST_MAC
from controller.kernel.links import IPV4_GATEWAY, IPV6_GATEWAY

if TYPE_CHECKING:
    from collections.abc import Callable

FOUR, SIX = ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fd00::7")
MAC = "02:00:00:00:00:01"
HOST, INSIDE = LinkEnd(9, 2, "veth", HOST_MAC, 1400, True), LinkEnd(2, 9, "veth", MAC, 1400, True)
STATE = LinkState(
    HostSide(
        HOST,
        frozenset({Neighbour(9, FOUR, MAC), Neighbour(9, SIX, MAC), Neighbour(4, FOUR, "02:00:00:00:00:02")}),
        {address: Path(ipaddress.ip_network(address), None, frozenset({9})) for address in (FOUR, SIX)},
        {},
    ),
    ContainerSide(
        INSIDE,
        frozenset({FOUR, SIX, ipaddress.ip_address("fe80::1")}),
        frozenset({Neighbour(2, IPV4_GATEWAY, HOST_MAC), Neighbour(2, IPV6_GATEWAY, HOST_MAC)}),
        {
            FOUR: Path(ipaddress.ip_network("0.0.0.0/0"), IPV4_GATEWAY, frozenset({2})),
            SIX: Path(ipaddress.ip_network("::/0"), IPV6_GATEWAY, frozenset({2})),
        },
        False,
    ),
)
RESULT: dict[str, Any] = {
    "interfaces": [{"name": "eth0", "mac": HOST_MAC}, {"name": "eth0", "mac": MAC.upper(), "sandbox": "/run/netns/x"}],
    "ips": [
        {"address": "10.0.0.7/32", "interface": 1},
        {"address": "fd00::7/128"},
        {"address": "192.0.2.1/24", "interface": 0},
    ],
}
EXPECTED = Expected("torx", "eth0", MAC, (FOUR, SIX), (4, 6), 1400, True, parse_previous_result({"prevResult": RESULT}))


def faults(expected: Expected, state: LinkState) -> list[str]:
    """Return what is reported, fault by fault."""
    failure = report(expected, state)
    if failure is None:
        return []
    assert failure.code is ErrorCode.CHECK_FAILED
    assert failure.details
    return failure.message.split("; ")


def without(found: frozenset[Any], condition: Callable[[Any], bool]) -> frozenset[Any]:
    """Return all but those for which it is so."""
    kept = frozenset(each for each in found if not condition(each))
    assert kept != found
    return kept


def host(**changes: Any) -> LinkState:  # noqa: ANN401  fields of several types
    """Return the state with another host's side."""
    return replace(STATE, host=replace(STATE.host, **changes))


def inside(**changes: Any) -> LinkState:  # noqa: ANN401  fields of several types
    """Return the state with another container's side."""
    return replace(STATE, container=replace(STATE.container, **changes))


def test_an_attachment_as_it_should_be_is_passed() -> None:
    """Also with what others have added, and without a remembered result."""
    assert faults(EXPECTED, STATE) == []
    assert faults(replace(EXPECTED, previous=None), STATE) == []
    assert faults(replace(EXPECTED, mtu_bytes=1500, exact_mtu=False), STATE) == []


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        (host(end=None), "link: is torx on the host missing, eth0 in the container of kind veth, index 2, peer 9"),
        (inside(end=None), "link: is torx on the host of kind veth, index 9, peer 2, eth0 in the container missing"),
        (inside(end=replace(INSIDE, peer_index=8)), "index 2, peer 8, should be one pair of veth ends"),
        (inside(end=replace(INSIDE, kind="bridge")), "of kind bridge"),
        (host(end=replace(HOST, up=False)), "state: is torx down, should be up"),
        (inside(end=replace(INSIDE, up=False)), "state: is eth0 down, should be up"),
        (host(end=replace(HOST, mac=MAC)), f"mac: is {MAC} of torx, should be {HOST_MAC}"),
        (host(end=replace(HOST, mtu_bytes=1500)), "mtu: is 1500 of torx, should be 1400"),
        (inside(end=replace(INSIDE, mtu_bytes=1300)), "mtu: is 1300 of eth0, should be 1400"),
        (
            host(wrong_settings={"net/ipv4/conf/torx/rp_filter": ("0", "1")}),
            "sysctl: is net/ipv4/conf/torx/rp_filter=0, should be 1",
        ),
        (
            host(neighbours=without(STATE.host.neighbours, lambda each: each == Neighbour(9, FOUR, MAC))),
            f"neighbour: is 10.0.0.7 not permanent on torx, should be permanent at {MAC}",
        ),
        (host(path_to={**STATE.host.path_to, SIX: None}), "hostroute: is none, should be fd00::7/128 dev torx"),
        (
            host(path_to={**STATE.host.path_to, FOUR: Path(ipaddress.ip_network("10.0.0.0/26"), None, frozenset({1}))}),
            "hostroute: is 10.0.0.0/26 dev link 1, should be 10.0.0.7/32 dev torx",
        ),
        (inside(ipv6_off=True), "sysctl: is net/ipv6/conf/eth0/disable_ipv6=1 in the container, should be 0"),
        (inside(addresses=frozenset({SIX})), "address: is 10.0.0.7 not on eth0, should be 10.0.0.7/32 on eth0"),
        (
            inside(way_from={**STATE.container.way_from, SIX: None}),
            "route: is none from fd00::7 in the container, should be ::/0 via fe80::ecee:eeff:feee:eeee dev eth0",
        ),
    ],
)
def test_each_fault_is_named_alone(state: LinkState, fault: str) -> None:
    """What is, what should be, and no other word about it."""
    (found,) = faults(EXPECTED, state)
    assert fault in found


def test_a_missing_gateway_neighbour_is_named() -> None:
    """Without it the container would ask for its gateway, and nobody answers."""
    doors = without(STATE.container.neighbours, lambda each: each.address == IPV4_GATEWAY)
    (found,) = faults(EXPECTED, inside(neighbours=doors))
    assert found == f"neighbour: is no permanent 169.254.1.1 at {HOST_MAC} on eth0, should be there"


def test_a_mac_address_that_changed_is_named_wherever_it_counts() -> None:
    """The link and the remembered result say different things, and each is told."""
    found = faults(EXPECTED, inside(end=replace(INSIDE, mac="02:00:00:00:00:09")))
    assert [each.partition(":")[0] for each in found] == ["mac", "prevResult"]


def test_each_address_answers_by_its_own_link() -> None:
    """A container of several networks has several default routes; each address needs its own, whoever has the other."""
    ways = {
        FOUR: Path(ipaddress.ip_network("0.0.0.0/0"), IPV4_GATEWAY, frozenset({7})),
        SIX: Path(ipaddress.ip_network("::/0"), IPV6_GATEWAY, frozenset({2, 7})),
    }
    doors = STATE.container.neighbours | {Neighbour(7, IPV4_GATEWAY, HOST_MAC), Neighbour(7, IPV6_GATEWAY, HOST_MAC)}
    four, six = faults(EXPECTED, inside(way_from=ways, neighbours=doors))
    way = "0.0.0.0/0 via 169.254.1.1 dev"
    assert four == f"route: is {way} link 7 from 10.0.0.7 in the container, should be {way} eth0"
    way = f"::/0 via {IPV6_GATEWAY} dev"
    assert six == f"route: is {way} eth0, link 7 from fd00::7 in the container, should be {way} eth0"


@pytest.mark.parametrize("mtus", [(1400, 1300), (1600, 1600)])
def test_without_an_mtu_of_the_networks_own_both_ends_agree_and_fit(mtus: tuple[int, int]) -> None:
    """Uplinks may have changed since; only what is too large for them now, or unequal, is a fault."""
    state = replace(
        STATE,
        host=replace(STATE.host, end=replace(HOST, mtu_bytes=mtus[0])),
        container=replace(STATE.container, end=replace(INSIDE, mtu_bytes=mtus[1])),
    )
    (found,) = faults(replace(EXPECTED, mtu_bytes=1500, exact_mtu=False), state)
    assert found == f"mtu: is {mtus[0]} of torx and {mtus[1]} of eth0, should be the same for both, at most 1500"


def test_addresses_that_are_not_assigned_any_more_are_named() -> None:
    """The assignment counts, whatever the kernel and the runtime still have."""
    found = faults(replace(EXPECTED, addresses=(FOUR,)), STATE)
    assert found == [
        "assignment: is 10.0.0.7, should be one IPv4 address and one IPv6 address",
        "prevResult: is address 10.0.0.7, fd00::7, should be 10.0.0.7, as is assigned",
    ]


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        ({**RESULT, "interfaces": []}, "prevResult: is without interface eth0"),
        ({**RESULT, "ips": [{"address": "10.0.0.8/32"}, {"address": 4}]}, "prevResult: is address 10.0.0.8"),
    ],
)
def test_a_remembered_result_of_another_attachment_is_named(result: dict[str, Any], fault: str) -> None:
    """The runtime's view of the container must be the node's."""
    found = faults(replace(EXPECTED, previous=parse_previous_result({"prevResult": result})), STATE)
    assert found[0].startswith(fault)

"""What dockerd sends becomes values, or an error that names the value, the rule and the way out."""

from __future__ import annotations

import ipaddress
import json

import pytest

from controller.docker.requests import (
    Fields,
    parse_address_request,
    parse_bindings,
    parse_endpoint,
    parse_network,
    parse_pool_request,
)
from controller.docker.values import Binding, Protocol
from controller.errors import RefusedError

NETWORK, ENDPOINT = "a" * 64, "b" * 64


def fields(**members: object) -> Fields:
    """Return a request with these members."""
    return Fields.of(json.dumps(members).encode())


@pytest.mark.parametrize("body", [b"", b" \n", b"null", b"{}"])
def test_a_body_may_be_missing(body: bytes) -> None:
    """Nothing is then said of anything."""
    assert Fields.of(body).text("PoolID") == ""
    assert Fields.of(body).inside("Options").each("com.docker.network.portmap") == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"7", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    """Whatever it is."""
    with pytest.raises(RefusedError):
        Fields.of(body)


def test_a_pool_is_asked_for_by_cidr_or_by_name() -> None:
    """Or neither, and never both."""
    space = "tortie-local"
    assert parse_pool_request(fields(AddressSpace=space)).cidr is None
    by_cidr = parse_pool_request(fields(AddressSpace=space, Pool="fd00::/64", V6=True))
    assert (by_cidr.version, by_cidr.cidr) == (6, ipaddress.ip_network("fd00::/64"))
    assert parse_pool_request(fields(AddressSpace=space, Options={"pool": "blue"})).name == "blue"
    with pytest.raises(RefusedError, match="both name a pool"):
        parse_pool_request(fields(AddressSpace=space, Pool="10.0.0.0/16", Options={"pool": "blue"}))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"AddressSpace": "other"}, "'other'"),
        ({"AddressSpace": "tortie-local", "SubPool": "10.0.0.0/24"}, "--ip-range 10.0.0.0/24"),
        ({"AddressSpace": "tortie-local", "Pool": "10.0.0.1/16"}, "Pool is '10.0.0.1/16'"),
        ({"AddressSpace": "tortie-local", "Pool": "10.0.0.0/16", "V6": True}, "not of IPv6"),
        ({"AddressSpace": 7}, "AddressSpace is 7"),
        ({"AddressSpace": "tortie-local", "V6": 1}, "V6 is 1"),
        ({"AddressSpace": "tortie-local", "Options": []}, "Options is \\[\\]"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(members: dict[str, object], words: str) -> None:
    """The message names the value."""
    with pytest.raises(RefusedError, match=words):
        parse_pool_request(fields(**members))


def test_a_gateway_of_ones_own_is_refused() -> None:
    """It would be none of the host's."""
    options = {"RequestAddressType": "com.docker.network.gateway"}
    assert parse_address_request(fields(PoolID="x", Options=options)).gateway
    with pytest.raises(RefusedError, match=r"--gateway 10\.0\.0\.1"):
        parse_address_request(fields(PoolID="x", Address="10.0.0.1", Options=options))


def test_a_network_of_another_address_driver_is_refused() -> None:
    """Its addresses would be known to nobody."""
    data = [{"AddressSpace": "LocalDefault", "Pool": "172.21.0.0/16"}]
    with pytest.raises(RefusedError, match="--ipam-driver tortie"):
        parse_network(fields(NetworkID=NETWORK, IPv4Data=data), 0)


def test_a_network_has_pools_an_mtu_and_may_be_internal() -> None:
    """An internal one names its pool; dockerd writes some truths as texts."""
    data = [{"AddressSpace": "tortie-local", "Pool": "10.0.0.0/16"}]
    generic = {"com.docker.network.driver.mtu": "1400", "com.example.unknown": "1"}
    options = {"com.docker.network.internal": "true", "com.docker.network.generic": generic}
    network = parse_network(fields(NetworkID=NETWORK, IPv4Data=data, IPv6Data=[], Options=options), 3)
    assert (network.internal, network.mtu_bytes, network.number) == (True, 1400, 3)
    data = [{"AddressSpace": "tortie-local", "Pool": "0.0.0.0/0"}]
    with pytest.raises(RefusedError, match="--subnet"):
        parse_network(fields(NetworkID=NETWORK, IPv4Data=data, Options=options), 3)


@pytest.mark.parametrize("version", [4, 6])
def test_addresses_to_be_spared_are_refused(version: int) -> None:
    """They would be given to containers all the same; the message names what spares them."""
    spared = {"router": {"IP": "10.244.0.1", "Mask": "//8AAA=="}}
    for addresses in ({}, None, spared):
        data = [{"AddressSpace": "tortie-local", "Pool": "10.244.0.0/16", "AuxAddresses": addresses}]
        request = fields(NetworkID=NETWORK, **{f"IPv{version}Data": data})
        if addresses:
            with pytest.raises(RefusedError, match=r"--aux-address router is not served.*Reservation"):
                parse_network(request, 3)
        else:
            assert parse_network(request, 3).number == 3


@pytest.mark.parametrize("mtu", ["0", "67", "65536", "big", "-1"])
def test_an_mtu_that_no_link_has_is_refused(mtu: str) -> None:
    """The message names the option."""
    options = {"com.docker.network.generic": {"com.docker.network.driver.mtu": mtu}}
    with pytest.raises(RefusedError, match=r"driver\.mtu"):
        parse_network(fields(NetworkID=NETWORK, Options=options), 0)


def test_an_endpoint_has_an_address_of_each_version_and_maybe_a_mac() -> None:
    """Prefix lengths do not matter, nor does the case of the MAC address."""
    interface = {"Address": "10.0.0.7/16", "AddressIPv6": "fd00::7/64", "MacAddress": "02:42:AC:11:65:43"}
    request = parse_endpoint(fields(NetworkID=NETWORK, EndpointID=ENDPOINT, Interface=interface))
    assert request.addresses == (ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fd00::7"))
    assert request.mac == "02:42:ac:11:65:43"


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        ({}, "needs one"),
        ({"Address": "10.0.0.7", "AddressIPv6": "10.0.0.8"}, "one of each IP version"),
        ({"Address": "10.0.0.300"}, "Interface.Address is '10.0.0.300'"),
        ({"Address": "10.0.0.7", "MacAddress": "01:00:5e:00:00:01"}, "none of a single host"),
        ({"Address": "10.0.0.7", "MacAddress": "x"}, "'x'"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(interface: dict[str, object], words: str) -> None:
    """The message names the value."""
    with pytest.raises(RefusedError, match=words):
        parse_endpoint(fields(NetworkID=NETWORK, EndpointID=ENDPOINT, Interface=interface))


@pytest.mark.parametrize("identifier", ["", "a/b", "../x", "a" * 65, "ä"])
def test_an_id_that_dockerd_does_not_make_is_refused(identifier: str) -> None:
    """It becomes part of a handle."""
    interface = {"Address": "10.0.0.7"}
    with pytest.raises(RefusedError, match="1 to 64 letters and digits"):
        parse_endpoint(fields(NetworkID=NETWORK, EndpointID=identifier, Interface=interface))


def test_ports_are_published_one_by_one_in_a_range_or_anywhere() -> None:
    """0 is any port of the host."""
    asked = [
        {"Proto": 6, "Port": 80, "HostIP": "192.0.2.1", "HostPort": 8080, "HostPortEnd": 8090},
        {"Proto": 17, "Port": 53},
    ]
    assert parse_bindings(fields(Options={"com.docker.network.portmap": asked})) == (
        Binding(Protocol.TCP, 80, ipaddress.ip_address("192.0.2.1"), 8080, 8090),
        Binding(Protocol.UDP, 53, None, 0, 0),
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"Proto": 1, "Port": 80},
        {"Proto": 6, "Port": 0},
        {"Proto": 6, "Port": 65536},
        {"Proto": 6, "Port": "80"},
        {"Proto": 6, "Port": 80, "HostPort": 9, "HostPortEnd": 8},
        {"Proto": 6, "Port": True},
    ],
)
def test_a_port_that_cannot_be_published_is_refused(asked: dict[str, object]) -> None:
    """No such protocol, no such port, no such range."""
    with pytest.raises(RefusedError):
        parse_bindings(fields(Options={"com.docker.network.portmap": [asked]}))

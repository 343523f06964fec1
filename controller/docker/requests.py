"""What dockerd asks, as values; pure. Raises `RefusedError` that names the value, the rule and the way out.

The requests are those of libnetwork's remote drivers (its docs/remote.md and docs/ipam.md). A body may be missing, and
what is not known is ignored, since every release of dockerd adds to it.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from controller.docker.values import Binding, Network, Protocol
from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.address import IPAddress, IPNetwork

ADDRESS_SPACES: Final = ("tortie-local", "tortie-global")
_PORT_MAP: Final = "com.docker.network.portmap"
_GENERIC: Final = "com.docker.network.generic"
_INTERNAL: Final = "com.docker.network.internal"
_MTU: Final = "com.docker.network.driver.mtu"
_REQUEST_TYPE: Final = "RequestAddressType"
_GATEWAY: Final = "com.docker.network.gateway"
_MIN_MTU_BYTES: Final = 68
_MAX_PORT: Final = 65535
_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """A pool for one IP version: by its CIDR, by its name, or whichever fits; at most one of the two is set."""

    version: int
    cidr: IPNetwork | None
    name: str | None


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """An address out of a pool; without `address` any. `gateway`: it is not for a container."""

    pool_id: str
    address: IPAddress | None
    gateway: bool


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """A container's attachment to a network before it has a link; `mac` is None unless the user set one."""

    network_id: str
    endpoint_id: str
    addresses: tuple[IPAddress, ...]
    mac: str | None


class Fields:
    """The object of a request, read with checks; an absent member, null and an empty text are one."""

    def __init__(self, members: Mapping[str, Any], where: str = "") -> None:
        self._members = members
        self._where = where

    @classmethod
    def of(cls, body: bytes) -> Fields:
        """Return the members of a body; without one there are none."""
        if not body.strip():
            return cls({})
        try:
            members = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"request {body[:80]!r} is no JSON ({error}); send an object") from error
        if members is None:
            return cls({})
        if not isinstance(members, dict):
            raise RefusedError(f"request {body[:80]!r} is no JSON object; send one")
        return cls(members)

    def text(self, name: str) -> str:
        """Return a text, empty if it is absent."""
        value = self._members.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def flag(self, name: str) -> bool:
        """Return a truth value, false if it is absent; dockerd writes some of them as texts."""
        value = self._members.get(name)
        if isinstance(value, bool) or value is None:
            return bool(value)
        if isinstance(value, str) and value.lower() in ("", "true", "false"):
            return value.lower() == "true"
        raise self._wrong(name, value, "true or false")

    def number(self, name: str, *, most: int) -> int:
        """Return a number from 0, 0 if it is absent."""
        value = self._members.get(name)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self._wrong(name, value, f"a number from 0 to {most}")
        return value

    def inside(self, name: str) -> Fields:
        """Return the members of an object, none if it is absent."""
        value = self._members.get(name)
        if value is None:
            return Fields({}, f"{self._where}{name}.")
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return Fields(value, f"{self._where}{name}.")

    def names(self) -> tuple[str, ...]:
        """Return the names of all members."""
        return tuple(self._members)

    def each(self, name: str) -> list[Fields]:
        """Return the objects of a list, none if it is absent."""
        value = self._members.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(name, value, "a list of objects")
        return [Fields(item, f"{self._where}{name}[{number}].") for number, item in enumerate(value)]

    def identifier(self, name: str) -> str:
        """Return what names a network or an endpoint."""
        value = self.text(name)
        if not _ID.fullmatch(value):
            raise self._wrong(name, value, "1 to 64 letters and digits, as dockerd makes them")
        return value

    def address(self, name: str) -> IPAddress | None:
        """Return an address, None if it is absent; a prefix length behind it does not matter."""
        value = self.text(name)
        if not value:
            return None
        try:
            return ipaddress.ip_interface(value).ip
        except ValueError as error:
            raise self._wrong(name, value, "an address such as 192.0.2.1 or 2001:db8::1") from error

    def network(self, name: str) -> IPNetwork | None:
        """Return a CIDR, None if it is absent."""
        value = self.text(name)
        if not value:
            return None
        try:
            return ipaddress.ip_network(value)
        except ValueError as error:
            raise self._wrong(name, value, f"a CIDR without host bits, as 10.65.0.0/16 ({error})") from error

    def _wrong(self, name: str, value: object, rule: str) -> RefusedError:
        return RefusedError(f"{self._where}{name} is {value!r}; it must be {rule}")


def parse_pool_request(fields: Fields) -> PoolRequest:
    """Return what `IpamDriver.RequestPool` asks for."""
    space = fields.text("AddressSpace")
    if space not in ADDRESS_SPACES:
        raise RefusedError(f"address space {space!r} is not ours; leave it to dockerd, which was told {ADDRESS_SPACES}")
    if fields.text("SubPool"):
        raise RefusedError(
            f"--ip-range {fields.text('SubPool')} is not served: every host takes its own blocks of a pool; "
            f"leave it out, or create a smaller pool"
        )
    version = 6 if fields.flag("V6") else 4
    cidr = fields.network("Pool")
    name = fields.inside("Options").text("pool") or None
    if cidr is not None and cidr.version != version:
        raise RefusedError(f"subnet {cidr} is not of IPv{version}, for which a pool is asked; correct --subnet")
    if cidr is not None and name is not None:
        raise RefusedError(f"--subnet {cidr} and --ipam-opt pool={name} both name a pool; give one of them")
    return PoolRequest(version, cidr, name)


def parse_address_request(fields: Fields) -> AddressRequest:
    """Return what `IpamDriver.RequestAddress` asks for."""
    gateway = fields.inside("Options").text(_REQUEST_TYPE) == _GATEWAY
    address = fields.address("Address")
    if gateway and address is not None:
        raise RefusedError(
            f"--gateway {address} is not served: every container's gateway is a link-local address of its own host; "
            f"leave --gateway out"
        )
    return AddressRequest(fields.text("PoolID"), address, gateway)


def parse_network(fields: Fields, gateway_number: int) -> Network:
    """Return the network that `NetworkDriver.CreateNetwork` describes, with this number among the host's networks."""
    options = fields.inside("Options")
    generic = options.inside(_GENERIC)
    networks = []
    for each in (*fields.each("IPv4Data"), *fields.each("IPv6Data")):
        if each.text("AddressSpace") not in ADDRESS_SPACES:
            raise RefusedError(
                f"the addresses come from another IPAM driver (address space {each.text('AddressSpace')!r}); "
                f"create the network with --ipam-driver tortie"
            )
        if spared := each.inside("AuxAddresses").names():
            raise RefusedError(
                f"--aux-address {', '.join(spared)} is not served: pools are the cluster's, and dockerd cannot spare "
                f"addresses of one; leave it out, and have them spared with a Reservation (`tortiectl apply`)"
            )
        cidr = each.network("Pool")
        if cidr is not None:
            networks.append(cidr)
    internal = options.flag(_INTERNAL)
    if internal and any(cidr.prefixlen == 0 for cidr in networks):
        raise RefusedError(
            "an internal network is one that reaches its own pool alone, and this one names no pool; "
            "add --subnet with a pool's CIDR, or --ipam-opt pool=NAME"
        )
    return Network(fields.identifier("NetworkID"), tuple(networks), internal, _mtu_bytes(generic), gateway_number)


def parse_endpoint(fields: Fields) -> EndpointRequest:
    """Return what `NetworkDriver.CreateEndpoint` asks for."""
    interface = fields.inside("Interface")
    found = (interface.address("Address"), interface.address("AddressIPv6"))
    addresses = tuple(address for address in found if address is not None)
    endpoint_id = fields.identifier("EndpointID")
    if not addresses or len({address.version for address in addresses}) != len(addresses):
        texts = [interface.text("Address"), interface.text("AddressIPv6")]
        raise RefusedError(f"endpoint {endpoint_id} has the addresses {texts}; it needs one, or one of each IP version")
    mac = interface.text("MacAddress").lower() or None
    if mac is not None and (not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1):
        raise RefusedError(f"MAC address {mac!r} is none of a single host; write one such as 02:42:0a:41:00:01")
    return EndpointRequest(fields.identifier("NetworkID"), endpoint_id, addresses, mac)


def parse_bindings(fields: Fields) -> tuple[Binding, ...]:
    """Return the ports that `ProgramExternalConnectivity` publishes."""
    return tuple(_binding(each) for each in fields.inside("Options").each(_PORT_MAP))


def _binding(fields: Fields) -> Binding:
    number = fields.number("Proto", most=255)
    try:
        protocol = Protocol(number)
    except ValueError as error:
        raise RefusedError(f"protocol {number} has no ports that are published; use tcp, udp or sctp") from error
    port = fields.number("Port", most=_MAX_PORT)
    first = fields.number("HostPort", most=_MAX_PORT)
    last = fields.number("HostPortEnd", most=_MAX_PORT) or first
    if port == 0 or last < first:
        raise RefusedError(f"port {port} is published at {first}-{last}; give a port from 1, and a range that ascends")
    return Binding(protocol, port, fields.address("HostIP"), first, last)


def _mtu_bytes(generic: Fields) -> int:
    text = generic.text(_MTU)
    if not text:
        return 0
    if not text.isdecimal() or not _MIN_MTU_BYTES <= int(text) <= _MAX_PORT:
        raise RefusedError(f"{_MTU}={text!r}; write a number of bytes from {_MIN_MTU_BYTES} to {_MAX_PORT}")
    return int(text)

"""Which port of the host each published port gets."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from controller.docker.values import Protocol, Published
from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from controller.docker.values import Binding
    from ipam.address import IPAddress

#: Where a port is looked for when none is asked for: the dynamic ports (RFC 6335, section 6).
_DYNAMIC_PORTS: Final = (49152, 65535)
_TYPES: Final = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


def check_reachable(bindings: Iterable[Binding], addresses: Collection[IPAddress]) -> None:
    """Raise `RefusedError` for a binding by which nobody would reach a container with these addresses."""
    versions = {address.version for address in addresses}
    for binding in bindings:
        wanted = binding.host_address
        what = f"port {binding.port}/{binding.protocol.name.lower()} cannot be published at {wanted}"
        if wanted is not None and wanted.is_loopback:
            raise RefusedError(
                f"{what}, a loopback address, to which no container can answer; leave the address out or name another "
                f"one of the host's, or have the host's processes call the container at its own address"
            )
        if wanted is not None and wanted.version not in versions:
            raise RefusedError(
                f"{what}, because the container has no IPv{wanted.version} address; leave the address out, or give "
                f"the container a network with a pool of IPv{wanted.version}"
            )


def publish(
    bindings: Iterable[Binding],
    published_by_endpoint: Mapping[str, Iterable[Published]],
    usable: Callable[[Published], str | None],
) -> tuple[Published, ...]:
    """Return the bindings with a host port each, the first of their range that nobody else has.

    `usable` returns why a port cannot be had although no endpoint has it, or None. Raises `RefusedError` that says who
    has the port.
    """
    taken = [(each, endpoint) for endpoint, published in published_by_endpoint.items() for each in published]
    chosen: list[Published] = []
    for binding in bindings:
        first, last = binding.first_host_port, binding.last_host_port
        if (first, last) == (0, 0):
            first, last = _DYNAMIC_PORTS
        reason = ""
        for host_port in range(first, last + 1):
            wanted = Published(binding.protocol, binding.port, binding.host_address, host_port)
            holder = next((endpoint for each, endpoint in taken if each.excludes(wanted)), None)
            reason = usable(wanted) or "" if holder is None else f"endpoint {holder[:12]} has it"
            if not reason:
                chosen.append(wanted)
                taken.append((wanted, "asked for"))
                break
        else:
            where = first if first == last else f"any of {first} to {last}"
            raise RefusedError(
                f"port {where}/{binding.protocol.name.lower()} of the host cannot be published: {reason}; "
                f"choose another one, or end what has it"
            )
    return tuple(chosen)


def occupied(published: Published) -> str | None:
    """Return why the host does not have the port to give, or None; for SCTP it is not asked."""
    if published.protocol not in _TYPES:
        return None
    addresses = ["0.0.0.0", "::"] if published.host_address is None else [str(published.host_address)]
    for address in addresses:
        reason = _bound(_TYPES[published.protocol], address, published.host_port)
        if reason is not None:
            return reason
    return None


def _bound(kind: socket.SocketKind, address: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, kind | socket.SOCK_CLOEXEC) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has ended counts no more
            probe.bind((address, port))
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT or (error.errno == errno.EADDRNOTAVAIL and address == "::"):
            return None  # a host without IPv6
        return f"the host says of {address}:{port}: {error.strerror}"
    return None


def host_addresses(published: Published) -> IPAddress | None:
    """Return the one address of the host that is meant, None if it is not one alone."""
    address = published.host_address
    return None if address is None or address.is_unspecified else address

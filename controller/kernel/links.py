"""The workloads' links: a veth pair each, wired so that neither side ever asks for a neighbour."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused, RefusedError, TortieError
from controller.kernel import link_messages as message
from controller.kernel.container_routes import (
    default_route_alone,
    ensure_way_back,
    is_alone,
    question,
    remove_own_ways,
)
from controller.kernel.link_names import HOST_LINK_PREFIX, HOST_MAC
from controller.kernel.namespaces import check_namespace, entered
from controller.kernel.netlink import NetlinkSocket, attributes
from controller.kernel.route_messages import RT_SCOPE_UNIVERSE
from controller.kernel.sysctls import guard_ipv6, switch_ipv6
from controller.ports import RULED_LINK_GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.kernel.link_messages import LinkFacts
    from controller.kernel.netlink import Request
    from controller.ports import WorkloadLink
    from ipam.address import IPAddress

log = logging.getLogger(__name__)

#: Every workload's gateway, on every host: link-local (RFC 3927), and for IPv6 what HOST_MAC makes (RFC 4291, app. A).
IPV4_GATEWAY: Final = ipaddress.IPv4Address("169.254.1.1")
IPV6_GATEWAY: Final = ipaddress.IPv6Address("fe80::ecee:eeff:feee:eeee")
_LOOPBACK_INDEX: Final = 1  # in every namespace
#: As many calls are carried out at once; others wait for one of them.
_CALLS_AT_ONCE: Final = 72


class KernelLinks:
    """The port `Links` in the namespace it was opened in; many threads may call at once.

    Removing a link waits until every CPU has let go of it (some 25 ms, rcu_barrier in net/core/dev.c). Removals that
    wait at the same time wait together, as those of one batch of messages would not.
    """

    def __init__(self, *, timeout_seconds: float = 5.0, calls_at_once: int = _CALLS_AT_ONCE) -> None:
        self._timeout_seconds = timeout_seconds
        self._calls_at_once = calls_at_once
        self._sockets: SimpleQueue[NetlinkSocket] = SimpleQueue()
        for _ in range(calls_at_once):
            self._sockets.put(NetlinkSocket(timeout_seconds=timeout_seconds))

    def close(self) -> None:
        """Close the sockets; the links stay."""
        for _ in range(self._calls_at_once):
            self._sockets.get().close()

    def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link, its addresses, routes and neighbours as described, and return the host link's index."""
        check_namespace(namespace_descriptor)
        with self._own_socket() as host:
            created = self._ensure_pair(host, namespace_descriptor, link)
            ipv6 = any(address.version == 6 for address in link.addresses)  # noqa: PLR2004  the IP version
            try:
                index = _index_of(link.host_name)
                guard_ipv6(link.host_name, ipv6=ipv6)
                host.require(f"setting up {link.host_name}", list(_host_side(index, link, created=created)))
                with entered(namespace_descriptor):
                    with_rules = self._set_up_container(link, ipv6=ipv6, created=created)
                if with_rules:
                    host.require(f"marking {link.host_name}", [message.group(index, RULED_LINK_GROUP)])
            except (TortieError, OSError):
                if created:
                    _remove(host, link.host_name)
                raise
            return index

    def unwire(self, host_name: str, namespace_descriptor: int | None = None) -> None:
        """Remove the link, and with the workload's namespace what the link leaves there."""
        if not host_name.startswith(HOST_LINK_PREFIX):
            raise RefusedError(f"link {host_name} is not ours: our links start with {HOST_LINK_PREFIX}")
        with self._own_socket() as host:
            if namespace_descriptor is not None:
                present = _find(host, host_name)
                if present is None:
                    return
                if present.group == RULED_LINK_GROUP:
                    self._remove_rules(namespace_descriptor, present)
            _remove(host, host_name)

    def list(self) -> dict[str, int]:
        """Return the index of every workload link of ours on this host, by its host name."""
        with self._own_socket() as host:
            found = map(message.link_facts, host.dump(message.RTM_GETLINK, message.veth_query()))
            return {facts.name: facts.index for facts in found if message.is_workload_link(facts)}

    @contextmanager
    def _own_socket(self) -> Iterator[NetlinkSocket]:
        """Have a socket that nobody else uses meanwhile."""
        mine = self._sockets.get()
        try:
            yield mine
        finally:
            self._sockets.put(mine)

    def _ensure_pair(self, host: NetlinkSocket, descriptor: int, link: WorkloadLink) -> bool:
        """Have the pair, and return whether it is new; a pair of this name that leads elsewhere gives way."""
        if _create(host, descriptor, link):
            return True
        present = _find(host, link.host_name)
        if present is not None:
            if self._leads_to(descriptor, link.container_name, present):
                return False
            _remove(host, link.host_name)
            if _create(host, descriptor, link):
                return True
        raise RefusedError(
            f"interface {link.container_name} exists in the workload's namespace already and is not ours; "
            f"give this attachment another interface name"
        )

    def _leads_to(self, descriptor: int, container_name: str, host_end: LinkFacts) -> bool:
        with entered(descriptor):
            inside = NetlinkSocket(timeout_seconds=self._timeout_seconds)
        with closing(inside):
            return _are_joined(host_end, _find(inside, container_name))

    def _remove_rules(self, descriptor: int, host_end: LinkFacts) -> None:
        """Remove the rules for the link from its namespace, if that is there; nothing else can be done about them."""
        try:
            check_namespace(descriptor)
            with entered(descriptor), closing(NetlinkSocket(timeout_seconds=self._timeout_seconds)) as inside:
                if _are_joined(host_end, _find(inside, socket.if_indextoname(host_end.peer_index))):
                    remove_own_ways(inside, host_end.peer_index)
        except (TortieError, OSError) as error:
            log.debug("rules of a link stay", extra={"link": host_end.name, "reason": str(error)})

    def _set_up_container(self, link: WorkloadLink, *, ipv6: bool, created: bool) -> bool:
        """Set up the end of the namespace that this thread is in, and tell whether that took rules.

        One that was just created has no surplus.
        """
        index = _index_of(link.container_name)
        gateways = {address: _gateway(address) for address in link.addresses}
        with closing(NetlinkSocket(timeout_seconds=self._timeout_seconds)) as inside:
            switch_ipv6(link.container_name, on=ipv6)
            surplus = () if created else _surplus_addresses(inside, index, link)
            requests = [*surplus, *_container_side(index, link, created=created)]
            what = f"setting up {link.container_name} behind {link.host_name}"
            return not is_alone(what, requests, inside.exchange(requests)) and ensure_way_back(inside, index, gateways)


def _create(host: NetlinkSocket, descriptor: int, link: WorkloadLink) -> bool:
    """Create the pair; false if either name is taken: the kernel does not say which."""
    request = message.new_veth(link, HOST_MAC, descriptor)
    for refusal in host.exchange([request]):
        if refusal.error_number == errno.EEXIST:
            return False
        raise KernelRefused(f"creating link {link.host_name}", refusal.error_number, refusal.text)
    return True


def _remove(host: NetlinkSocket, name: str) -> None:
    for refusal in host.exchange([message.link_removal(name)]):
        if refusal.error_number != errno.ENODEV:
            raise KernelRefused(f"removing link {name}", refusal.error_number, refusal.text)


def _index_of(name: str) -> int:
    """Return the index of a link in the namespace that this thread is in; unlike netlink this takes no turn for it."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise KernelRefused(f"link {name}", errno.ENODEV, "it went away while it was being set up") from error


def _find(asked: NetlinkSocket, name: str) -> LinkFacts | None:
    body = asked.get(message.RTM_GETLINK, message.link_query(name))
    return None if body is None else message.link_facts(body)


def _are_joined(host_end: LinkFacts, container_end: LinkFacts | None) -> bool:
    """Tell whether these are the two ends of one link."""
    return (
        container_end is not None
        and container_end.kind == host_end.kind == "veth"
        and container_end.peer_index == host_end.index
        and host_end.peer_index == container_end.index
    )


def _host_side(index: int, link: WorkloadLink, *, created: bool) -> Iterator[Request]:
    """Yield what the host's end needs; neighbours come after the link is up, which would drop them."""
    if not created:
        yield message.link_up(index, HOST_MAC, link.mtu_bytes)
    yield message.ipv4_guard(index)
    for address in link.addresses:
        yield message.permanent_neighbour(index, address, link.container_mac)


def _container_side(index: int, link: WorkloadLink, *, created: bool) -> Iterator[Request]:
    """Yield what the container's end needs, each step resting on those before it.

    Whether anybody else has a default route is asked for one IP version, IPv4 if the workload has it: the answer stands
    for both, since a network that brings a default route brings one for each version that it has.
    """
    yield message.up(_LOOPBACK_INDEX)
    yield message.up(index) if created else message.link_up(index, link.container_mac, link.mtu_bytes)
    for version in sorted({address.version for address in link.addresses})[:1]:
        yield question(version)
    for address in link.addresses:
        gateway = _gateway(address)
        yield message.host_address(index, address)
        yield message.permanent_neighbour(index, gateway, HOST_MAC)
        yield default_route_alone(index, gateway)


def _gateway(address: IPAddress) -> IPAddress:
    return IPV4_GATEWAY if address.version == 4 else IPV6_GATEWAY  # noqa: PLR2004  the IP version


def _surplus_addresses(inside: NetlinkSocket, index: int, link: WorkloadLink) -> Iterator[Request]:
    """Yield the removal of global addresses that are left from another assignment."""
    for body in inside.dump(message.RTM_GETADDR, message.address_query(index)):
        _, prefix_length, _, scope, _ = message.IFADDRMSG.unpack_from(body)
        found = dict(attributes(body, message.IFADDRMSG.size))
        address = ipaddress.ip_address(found.get(message.IFA_LOCAL) or found[message.IFA_ADDRESS])
        if scope == RT_SCOPE_UNIVERSE and address not in link.addresses:
            yield message.address_removal(index, address, prefix_length)

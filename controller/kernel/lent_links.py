"""Links whose far end somebody else takes into a namespace and sets up; all we can see to is our own end.

The host's end has the workload's gateways for addresses and answers for them at once. Answering by proxy instead would
need a route that covers the gateway, and a random delay goes before each answer (net/ipv4/arp.c, proxy_delay).

Each link takes the addresses alone whose routes lead out of it. A link that carries those of others beside its own is
`shared`: the kernel no longer asks, and rules for the links of that group do.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from controller.errors import KernelRefused, TortieError
from controller.kernel import link_messages as message
from controller.kernel.link_names import HOST_MAC, LENT_LINK_PREFIX
from controller.kernel.netlink import NetlinkSocket, Request, attribute, attributes, nested
from controller.kernel.sysctls import guard_ipv6
from controller.ports import SHARED_LINK_GROUP

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from controller.kernel.link_messages import LinkFacts
    from controller.ports import WorkloadLink
    from ipam.address import IPAddress

_OWN_NAMESPACE: Final = "/proc/thread-self/ns/net"
# include/uapi/linux/rtnetlink.h, if_link.h and ip.h; RTM_NEWLINK for a link that is gone may mean its group.
_RTM_SETLINK: Final = 19
_IFLA_AF_SPEC: Final = 26
_IFLA_GROUP: Final = 27
_IFLA_INET_CONF: Final = 1
_IPV4_DEVCONF_RP_FILTER: Final = 8
_NUMBER: Final = struct.Struct("=I")
_NO_GROUP: Final = 0
_STRICT: Final = 1
#: Not "off": of this setting and the one for all links the larger counts (Documentation/networking/ip-sysctl.rst).
_LOOSE: Final = 2


class _Check(NamedTuple):
    """How the sources of what comes by a link are checked."""

    name: str
    group: int
    mode: int


class LentLinks:
    """Makes such links in the namespace it was opened in; calls from several threads take turns."""

    def __init__(self, *, timeout_seconds: float = 5.0) -> None:
        self._socket = NetlinkSocket(timeout_seconds=timeout_seconds)
        self._lock = Lock()

    def close(self) -> None:
        """Close the socket; the links stay."""
        with self._lock:
            self._socket.close()

    def lend(self, link: WorkloadLink, gateways: tuple[IPAddress, ...]) -> int:
        """Have the pair with both ends here and ours set up, and return the host link's index.

        A pair whose far end has been taken away already gives way to a new one. On an error nothing of a new link is
        left. Raises `KernelRefused`.
        """
        with self._lock:
            host_end = self._ensure_pair(link)
            ipv6 = any(address.version == 6 for address in link.addresses)  # noqa: PLR2004  the IP version
            try:
                guard_ipv6(link.host_name, ipv6=ipv6)
                requests = list(_host_side(host_end.index, link, gateways))
                self._socket.require(f"setting up {link.host_name}", requests)
            except (TortieError, OSError):
                self._remove(link.host_name)
                raise
            return host_end.index

    def share(self, host_names: Collection[str]) -> None:
        """Have the kernel take anything by those of the links that are there.

        Rules that list what may come by the links of the group must be there before.
        """
        with self._lock:
            others = [each.name for each in self._checks() if each != _Check(each.name, SHARED_LINK_GROUP, _LOOSE)]
            for name in set(host_names).intersection(others):
                self._set(_group(name, SHARED_LINK_GROUP), _check(name, _LOOSE))

    def keep_shared(self, host_names: Collection[str]) -> None:
        """Have the kernel take by every other link the addresses alone whose routes lead out of it."""
        with self._lock:
            shared = [each.name for each in self._checks() if each.group == SHARED_LINK_GROUP]
            for name in set(shared).difference(host_names):
                self._set(_check(name, _STRICT), _group(name, _NO_GROUP))

    def untaken(self) -> frozenset[str]:
        """Return the names of the far ends that are here: not taken yet, or given back."""
        with self._lock:
            found = map(message.link_facts, self._socket.dump(message.RTM_GETLINK, message.veth_query()))
            return frozenset(facts.name for facts in found if facts.name.startswith(LENT_LINK_PREFIX))

    def _checks(self) -> list[_Check]:
        dumped = self._socket.dump(message.RTM_GETLINK, message.veth_query())
        return [_check_of(body) for body in dumped if message.is_workload_link(message.link_facts(body))]

    def _set(self, *requests: Request) -> None:
        for refusal in self._socket.exchange(requests):
            if refusal.error_number != errno.ENODEV:  # it went away meanwhile
                raise KernelRefused("setting which sources a link takes", refusal.error_number, refusal.text)

    def _ensure_pair(self, link: WorkloadLink) -> LinkFacts:
        present, far = self._find(link.host_name), self._find(link.container_name)
        if (
            present is not None
            and far is not None
            and (present.peer_index, far.peer_index) == (far.index, present.index)
        ):
            return present
        for name in (link.host_name, link.container_name):
            self._remove(name)
        own = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._socket.require(f"creating link {link.host_name}", [message.new_veth(link, HOST_MAC, own)])
        finally:
            os.close(own)
        made = self._find(link.host_name)
        if made is None:
            raise KernelRefused(f"link {link.host_name}", errno.ENODEV, "it went away while it was being set up")
        return made

    def _find(self, name: str) -> LinkFacts | None:
        body = self._socket.get(message.RTM_GETLINK, message.link_query(name))
        return None if body is None else message.link_facts(body)

    def _remove(self, name: str) -> None:
        for refusal in self._socket.exchange([message.link_removal(name)]):
            if refusal.error_number != errno.ENODEV:
                raise KernelRefused(f"removing link {name}", refusal.error_number, refusal.text)


def _host_side(index: int, link: WorkloadLink, gateways: tuple[IPAddress, ...]) -> Iterator[Request]:
    """Yield what our end needs; neighbours come after the link is up, which would drop them."""
    yield message.link_up(index, HOST_MAC, link.mtu_bytes)
    yield message.ipv4_guard(index)
    yield _group(link.host_name, _NO_GROUP)
    for gateway in gateways:
        yield message.gateway_address(index, gateway)
    for address in link.addresses:
        yield message.permanent_neighbour(index, address, link.container_mac)


def _check_of(body: bytes) -> _Check:
    found = dict(attributes(body, message.IFINFOMSG.size))
    specific = dict(attributes(found.get(_IFLA_AF_SPEC, b""), 0))
    settings = dict(attributes(specific.get(int(socket.AF_INET), b""), 0)).get(_IFLA_INET_CONF, b"")
    # All of them one after the other, the first being number 1.
    offset = (_IPV4_DEVCONF_RP_FILTER - 1) * _NUMBER.size
    modes = _NUMBER.unpack_from(settings, offset) if len(settings) >= offset + _NUMBER.size else (_STRICT,)
    facts = message.link_facts(body)
    return _Check(facts.name, facts.group, modes[0])


def _group(name: str, group: int) -> Request:
    return _setting(name, attribute(_IFLA_GROUP, _NUMBER.pack(group)))


def _check(name: str, mode: int) -> Request:
    """Return the request that sets a link's reverse path check."""
    check = nested(_IFLA_INET_CONF, attribute(_IPV4_DEVCONF_RP_FILTER, _NUMBER.pack(mode)))
    return _setting(name, nested(_IFLA_AF_SPEC, nested(int(socket.AF_INET), check)))


def _setting(name: str, setting: bytes) -> Request:
    head = message.IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(message.IFLA_IFNAME, name.encode() + b"\0")
    return Request(_RTM_SETLINK, 0, head + setting)

"""Links whose far end somebody else takes into a namespace and sets up; all we can see to is our own end.

The host's end has the workload's gateways for addresses and answers for them at once. Answering by proxy instead would
need a route that covers the gateway, and a random delay goes before each answer (net/ipv4/arp.c, proxy_delay).
"""

from __future__ import annotations

import errno
import os
from threading import Lock
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused, TortieError
from controller.kernel import link_messages as message
from controller.kernel.link_names import HOST_MAC, LENT_LINK_PREFIX
from controller.kernel.netlink import NetlinkSocket
from controller.kernel.sysctls import guard_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.kernel.link_messages import LinkFacts
    from controller.kernel.netlink import Request
    from controller.ports import WorkloadLink
    from ipam.address import IPAddress

_OWN_NAMESPACE: Final = "/proc/thread-self/ns/net"


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
            try:
                guard_ipv6(link.host_name)
                requests = list(_host_side(host_end.index, link, gateways))
                self._socket.require(f"setting up {link.host_name}", requests)
            except (TortieError, OSError):
                self._remove(link.host_name)
                raise
            return host_end.index

    def untaken(self) -> frozenset[str]:
        """Return the names of the far ends that are here: not taken yet, or given back."""
        with self._lock:
            found = map(message.link_facts, self._socket.dump(message.RTM_GETLINK, message.veth_query()))
            return frozenset(facts.name for facts in found if facts.name.startswith(LENT_LINK_PREFIX))

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
    for gateway in gateways:
        yield message.gateway_address(index, gateway)
    for address in link.addresses:
        yield message.permanent_neighbour(index, address, link.container_mac)

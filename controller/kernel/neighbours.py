"""Which addresses are really wired on this host: the permanent neighbours of the workload links, from the kernel alone.

Wiring a workload sets one permanent neighbour on the host's end of its link for each of its addresses; it goes away
with the link.
"""

from __future__ import annotations

from collections import defaultdict
from threading import Lock
from typing import TYPE_CHECKING

from controller.kernel import link_messages as message
from controller.kernel.netlink import NetlinkSocket

if TYPE_CHECKING:
    from ipam.address import IPAddress


class KernelEndpoints:
    """Reads the workload links of the namespace it was opened in; calls from several threads take turns."""

    def __init__(self, *, timeout_seconds: float = 5.0) -> None:
        self._socket = NetlinkSocket(timeout_seconds=timeout_seconds)
        self._lock = Lock()

    def close(self) -> None:
        """Close the socket."""
        with self._lock:
            self._socket.close()

    def read(self) -> dict[str, tuple[IPAddress, ...]]:
        """Return every workload link of ours by its host name, with the addresses wired to it, IPv4 first.

        A link that goes away or is being made meanwhile may be there without its addresses. Raises `KernelRefused` and
        `KernelUnavailable`.
        """
        with self._lock:
            links = self._socket.dump(message.RTM_GETLINK, message.veth_query())
            # The kernel can filter neighbours by link, not by state; a dump for each link would cost more than it saves
            # (net/core/neighbour.c, neigh_valid_dump_req).
            neighbours = self._socket.dump(message.RTM_GETNEIGH, message.neighbour_query())
        addresses_of: defaultdict[int, list[IPAddress]] = defaultdict(list)
        for index, address in filter(None, map(message.permanent_neighbour_of, neighbours)):
            addresses_of[index].append(address)
        return {
            facts.name: tuple(sorted(addresses_of[facts.index], key=lambda address: (address.version, int(address))))
            for facts in map(message.link_facts, links)
            if message.is_workload_link(facts)
        }

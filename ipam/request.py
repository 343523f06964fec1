"""What is asked of address management, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ipam.block import Holder
from ipam.errors import Refused

if TYPE_CHECKING:
    from ipam.address import IPAddress

_IP_VERSIONS: Final = (4, 6)


@dataclass(frozen=True, slots=True)
class AssignRequest:
    """One address of each of these IP versions for one workload, all or none.

    `handle` names the workload's whole set of addresses: asking again under the same handle gives the same addresses.
    `pools` are the names of the pools to take them from, in order of preference; empty means every enabled, automatic
    pool that fits the node. Raises `Refused` when it asks for nothing.
    """

    handle: str
    workload: str
    namespace: str
    interface: str
    versions: tuple[int, ...]
    pools: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could never be answered."""
        if not self.handle:
            raise Refused("a request without a handle could never be released; name the workload's addresses")
        if not self.versions or any(version not in _IP_VERSIONS for version in self.versions):
            raise Refused(f"handle {self.handle} asks for IP versions {self.versions}; ask for 4, 6 or both")

    def holder(self, *, node: str, at: float) -> Holder:
        """Return the attribute set of an address that this request gets on a node, at this time in epoch seconds."""
        return Holder(self.handle, node, self.workload, self.namespace, self.interface, at)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The addresses a handle holds of the IP versions it asked for, IPv4 first."""

    handle: str
    addresses: tuple[IPAddress, ...]

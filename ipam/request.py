"""What is asked of address management, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ipam.block import Holder
from ipam.errors import Refused

if TYPE_CHECKING:
    from ipam.address import IPAddress
    from ipam.block import Block

_IP_VERSIONS: Final = (4, 6)


@dataclass(frozen=True, slots=True)
class AssignRequest:
    """One address of each of these IP versions for one workload, all or none.

    `handle` names the workload's whole set of addresses: asking again under the same handle gives the same addresses.
    `pools` are the names of the pools to take them from, in order of preference; empty means every enabled, automatic
    pool that fits the node. `addresses` are those to have and no others, at most one of each version. `sticky` lets the
    workload get an address back that was remembered for its name, and have its own remembered after its release.
    `renew` makes what the handle holds already count as assigned now, so that nobody who saw it without a link before
    releases it. Raises `Refused` when it asks for nothing or contradicts itself.
    """

    handle: str
    workload: str
    namespace: str
    interface: str
    versions: tuple[int, ...]
    pools: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    sticky: bool = False
    renew: bool = False

    def __post_init__(self) -> None:
        """Refuse what could never be answered."""
        if not self.handle:
            raise Refused("a request without a handle could never be released; name the workload's addresses")
        if not self.versions or any(version not in _IP_VERSIONS for version in self.versions):
            raise Refused(f"handle {self.handle} asks for IP versions {self.versions}; ask for 4, 6 or both")
        asked = [address.version for address in self.addresses]
        if len(asked) != len(set(asked)) or not set(asked) <= set(self.versions):
            raise Refused(
                f"handle {self.handle} asks for {', '.join(map(str, self.addresses))} and for IP versions "
                f"{self.versions}; ask for at most one address of each of these versions"
            )

    @property
    def full_name(self) -> str:
        """The namespace and the name of the workload, by which a sticky address is remembered."""
        return f"{self.namespace}/{self.workload}"

    def address(self, version: int) -> IPAddress | None:
        """Return the address of this IP version that is asked for, if one is."""
        return next((address for address in self.addresses if address.version == version), None)

    def holder(self, *, node: str, at: float) -> Holder:
        """Return the attribute set of an address that this request gets on a node, at this time in epoch seconds."""
        return Holder(self.handle, node, self.workload, self.namespace, self.interface, at, self.sticky)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The addresses a handle holds of the IP versions it asked for, IPv4 first."""

    handle: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """An address to free, if it is still held as it was: under this handle, at this sequence of its ordinal.

    None stands for any handle, any sequence.
    """

    address: IPAddress
    handle: str | None = None
    sequence: int | None = None

    def fits(self, block: Block, ordinal: int) -> bool:
        """Tell whether the ordinal is held and is still what this request is about."""
        holder = block.holders.get(ordinal)
        return (
            holder is not None
            and self.handle in (None, holder.handle)
            and self.sequence in (None, block.ordinal_sequence.get(ordinal))
        )

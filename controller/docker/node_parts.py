"""What the drivers need of the node's parts: addresses, links, routes and the packet filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from controller.ports import KernelRoute, WorkloadLink
    from ipam.address import IPAddress
    from ipam.block import Holder
    from ipam.request import Assignment, AssignRequest, ReleaseRequest


class Addresses(Protocol):
    """Assigns and releases addresses by handle, and knows who holds what on this node."""

    async def assign(self, request: AssignRequest) -> Assignment:
        """Return the addresses of the handle, committed; the same when asked again."""
        ...

    async def take_over(self, request: AssignRequest, lender: str) -> Assignment:
        """As `assign`, but the addresses asked for are had too from handles that begin with `lender`."""
        ...

    async def release(self, handle: str) -> tuple[IPAddress, ...]:
        """Free what the handle holds and return it; nothing is no error."""
        ...

    async def release_addresses(self, requests: Sequence[ReleaseRequest]) -> tuple[IPAddress, ...]:
        """Free those of the addresses that are still held as the requests say, and return them."""
        ...

    def holders(self) -> Mapping[IPAddress, Holder]:
        """Return the holder of every address held on this node."""
        ...


class LinkWork(Protocol):
    """Makes and removes links without holding the event loop, and knows which there are."""

    async def make(self, host_name: str, make: Callable[[], int]) -> int:
        """Make a link of this name and return the index that `make` returns."""
        ...

    async def unwire(self, host_name: str) -> None:
        """Remove the link; one that is gone is no error."""
        ...

    @property
    def index_of(self) -> Mapping[str, int]:
        """The index of each link that exists, by its name."""
        ...


class Lending(Protocol):
    """Makes links whose far end stays with us until dockerd takes it; may take its time."""

    def lend(self, link: WorkloadLink, gateways: tuple[IPAddress, ...]) -> int:
        """Have the link and return the host link's index."""
        ...

    def share(self, host_names: Collection[str]) -> None:
        """Let those of the links that are there carry what rules for links of their group list."""
        ...

    def keep_shared(self, host_names: Collection[str]) -> None:
        """Let every other link carry its own addresses alone."""
        ...

    def untaken(self) -> frozenset[str]:
        """Return the names of the far ends that are with us: not taken yet, or given back."""
        ...


class RouteWork(Protocol):
    """Puts routes into the kernel without holding the event loop."""

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Add the routes to those the kernel has; raises `KernelRefused` if it refuses one."""
        ...


class PacketFilter(Protocol):
    """The host's packet filter."""

    async def apply(self, ruleset: str, datagram_ports: Collection[tuple[IPAddress | None, int]] = ()) -> None:
        """Make our table be as the text says, all at once; it publishes these ports of UDP."""
        ...

    async def let_through(self, version: int) -> None:
        """Have dockerd's filter of this IP version let our links through."""
        ...

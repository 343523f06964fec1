"""What the backend needs of the node's parts: addresses, links and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from controller.ports import KernelRoute, WorkloadLink
    from ipam.address import IPAddress
    from ipam.block import Holder
    from ipam.request import Assignment, AssignRequest


class Addresses(Protocol):
    """Assigns and releases addresses by handle."""

    async def assign(self, request: AssignRequest) -> Assignment:
        """Return the addresses of the handle, committed; the same when asked again."""
        ...

    async def release(self, handle: str) -> tuple[IPAddress, ...]:
        """Free what the handle holds and return it; nothing is no error."""
        ...

    async def probe(self, request: AssignRequest) -> None:
        """Raise what `assign` would raise at present; nothing is assigned."""
        ...

    def holders(self) -> Mapping[IPAddress, Holder]:
        """Return the holder of every address that workloads of this node hold."""
        ...


class LinkWork(Protocol):
    """Wires and unwires workloads without holding the event loop."""

    async def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link as described and return the host link's index."""
        ...

    async def unwire(self, host_name: str, namespace_descriptor: int | None = None) -> None:
        """Remove the link, and with the workload's namespace what the link leaves there; one that is gone is no error.

        The descriptor may be closed as soon as this returns.
        """
        ...

    @property
    def index_of(self) -> Mapping[str, int]:
        """The index of each link that exists, by its name."""
        ...


class RouteWork(Protocol):
    """Puts routes into the kernel without holding the event loop."""

    async def program(self, routes: Collection[KernelRoute]) -> None:
        """Add the routes to those the kernel has; raises `KernelRefused` if it refuses one."""
        ...

"""What an ADD and a DEL do to a node: addresses, link and routes, in an order that leaves nothing half-done.

ADD assigns, wires, then routes; if a step after the assignment fails, all of it is undone and the caller told why. DEL
unwires before it releases: an address is not reusable while a link still has it. Calls for one container's interface
run one after the other, so that a DEL sees the end of the ADD whose answer came too late.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from controller.cni.failures import CniFailure, failure_of
from controller.cni.result import CniResult
from controller.errors import TransientError
from controller.kernel.link_names import HOST_MAC, container_mac, host_link_name
from controller.kernel.links import IPV4_GATEWAY, IPV6_GATEWAY
from controller.ports import WorkloadLink
from controller.reconcile.desired import workload_route
from ipam.request import AssignRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from controller.cni.request import CniRequest
    from controller.ports import KernelRoute
    from ipam.address import IPAddress
    from ipam.request import Assignment

log = logging.getLogger(__name__)


class Addresses(Protocol):
    """Assigns and releases addresses by handle."""

    async def assign(self, request: AssignRequest) -> Assignment:
        """Return the addresses of the handle, committed; the same when asked again."""
        ...

    async def release(self, handle: str) -> tuple[IPAddress, ...]:
        """Free what the handle holds and return it; nothing is no error."""
        ...


class LinkWork(Protocol):
    """Wires and unwires workloads without holding the event loop."""

    async def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link as described and return the host link's index."""
        ...

    async def unwire(self, host_name: str) -> None:
        """Remove the link; one that is gone is no error."""
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


@dataclass(slots=True)
class _Turn:
    """Whose turn it is for one link, and how many are interested."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    user_count: int = 0


class WorkloadBackend:
    """Carries out the calls of container runtimes on this node.

    `default_mtu_bytes` gives the MTU of a link whose network sets none; `obstacle` gives the reason why an ADD cannot
    succeed at present, or None.
    """

    def __init__(
        self,
        *,
        addresses: Addresses,
        links: LinkWork,
        routes: RouteWork,
        default_mtu_bytes: Callable[[], int],
        obstacle: Callable[[], str | None],
    ) -> None:
        self._addresses = addresses
        self._links = links
        self._routes = routes
        self._default_mtu_bytes = default_mtu_bytes
        self._obstacle = obstacle
        self._turn_of: dict[str, _Turn] = {}

    async def add(self, request: CniRequest, namespace_descriptor: int) -> CniResult:
        """Give the container its addresses, link and routes; on an error nothing new is left.

        A call repeated for a container that is attached already never takes away what works.
        """
        host_name = host_link_name(request.container_id, request.interface)
        async with self.alone(host_name):
            attached = host_name in self._links.index_of
            assignment = await self._addresses.assign(_assign_request(request, host_name, renew=not attached))
            link = WorkloadLink(
                host_name=host_name,
                container_name=request.interface,
                container_mac=container_mac(request.container_id, request.interface),
                addresses=assignment.addresses,
                mtu_bytes=request.config.mtu_bytes or self._default_mtu_bytes(),
            )
            try:
                index = await self._links.wire(namespace_descriptor, link)
                await self._routes.program([workload_route(address, index) for address in assignment.addresses])
            except Exception as error:
                if not attached:
                    await self._undo(request.handle, host_name, error)
                raise
        log.info("workload attached", extra=_fields(request, link.addresses))
        return _result(request, link)

    async def delete(self, request: CniRequest) -> None:
        """Remove the container's link, then release its addresses; what is gone already is success."""
        host_name = host_link_name(request.container_id, request.interface)
        async with self.alone(host_name):
            await self._links.unwire(host_name)
            released = await self._addresses.release(request.handle)
        log.info("workload detached", extra=_fields(request, released))

    async def status(self) -> None:
        """Return if an ADD could succeed now; raises `TransientError`."""
        obstacle = self._obstacle()
        if obstacle is not None:
            raise TransientError(obstacle)

    async def _undo(self, handle: str, host_name: str, cause: Exception) -> None:
        """Remove link and assignment; raises `CniFailure` that tells the cause and what is left if that fails too."""
        try:
            await self._links.unwire(host_name)
            await self._addresses.release(handle)
        except Exception as error:
            log.exception("failed attachment could not be undone", extra={"handle": handle, "link": host_name})
            failure = failure_of(cause)
            left = (
                f"link {host_name} or addresses of {handle} are left, because undoing failed: {error}; DEL frees them"
            )
            raise CniFailure(failure.code, failure.message, left) from cause

    @asynccontextmanager
    async def alone(self, host_name: str) -> AsyncGenerator[None, None]:
        """Hold back every other call for the same link."""
        turn = self._turn_of.setdefault(host_name, _Turn())
        turn.user_count += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.user_count -= 1
            if turn.user_count == 0:
                del self._turn_of[host_name]


def _assign_request(request: CniRequest, host_name: str, *, renew: bool) -> AssignRequest:
    return AssignRequest(
        handle=request.handle,
        workload=request.workload,
        namespace=request.namespace,
        interface=host_name,
        versions=request.config.ip_versions,
        pools=request.config.ipv4_pools + request.config.ipv6_pools,
        addresses=request.addresses,
        sticky=request.named,
        # What a container of before a reboot holds has no link yet, and a check may have told so.
        renew=renew,
    )


def _result(request: CniRequest, link: WorkloadLink) -> CniResult:
    versions = {address.version for address in link.addresses}
    return CniResult(
        host_interface=link.host_name,
        host_mac=HOST_MAC,
        container_interface=link.container_name,
        container_mac=link.container_mac,
        sandbox=request.namespace_path,
        addresses=link.addresses,
        mtu_bytes=link.mtu_bytes,
        gateway_ipv4=IPV4_GATEWAY if 4 in versions else None,  # noqa: PLR2004  the IP version
        gateway_ipv6=IPV6_GATEWAY if 6 in versions else None,  # noqa: PLR2004  the IP version
    )


def _fields(request: CniRequest, addresses: Sequence[IPAddress]) -> dict[str, object]:
    return {
        "handle": request.handle,
        "workload": request.workload,
        "namespace": request.namespace,
        "addresses": [str(address) for address in addresses],
    }

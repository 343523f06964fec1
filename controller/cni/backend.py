"""What the calls of runtimes do to a node: addresses, link and routes, in an order that leaves nothing half-done.

ADD assigns, wires, then routes; if a step after the assignment fails, all of it is undone and the caller told why. DEL
unwires before it releases: an address is not reusable while a link still has it. Calls for one container's interface
run one after the other, so that a DEL sees the end of the ADD whose answer came too late. GC is a DEL of each
attachment that is not in use any more; CHECK and STATUS change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from controller.cni.checking import Expected, report
from controller.cni.failures import CniFailure, ErrorCode, failure_of
from controller.cni.link_owners import LinkOwners
from controller.cni.result import CniResult
from controller.cni.valid_attachments import Attachment
from controller.errors import RefusedError, StoreUnavailable, TransientError
from controller.kernel.link_inspection import inspect_link
from controller.kernel.link_names import HOST_MAC
from controller.kernel.links import IPV4_GATEWAY, IPV6_GATEWAY
from controller.ports import WorkloadLink
from controller.reconcile.desired import workload_route
from ipam.request import AssignRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Sequence

    from controller.cni.request import CniRequest
    from controller.cni.workload_ports import Addresses, LinkWork, RouteWork
    from controller.kernel.link_inspection import LinkState
    from ipam.address import IPAddress

log = logging.getLogger(__name__)

_ROUTES_ADVICE: Final = "`tortiectl node status` names the routes; new containers might not be reached from everywhere"


@dataclass(slots=True)
class _Turn:
    """Whose turn it is for one link, and how many are interested."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    user_count: int = 0


class WorkloadBackend:
    """Carries out the calls of container runtimes on this node.

    `default_mtu_bytes` gives the MTU of a link whose network sets none; `obstacle` gives the reason why no ADD will
    succeed, or None; `outage` tells whether the store is away for now; `limitation` gives the reason why existing
    workloads are not all reached, or None; `inspect` reads how a link really is, in a thread.
    """

    def __init__(
        self,
        *,
        addresses: Addresses,
        links: LinkWork,
        routes: RouteWork,
        default_mtu_bytes: Callable[[], int],
        obstacle: Callable[[], str | None],
        outage: Callable[[], bool] = lambda: False,
        limitation: Callable[[], str | None] = lambda: None,
        inspect: Callable[[int, str, str, Collection[IPAddress]], LinkState] = inspect_link,
    ) -> None:
        self._addresses = addresses
        self._links = links
        self._routes = routes
        self._default_mtu_bytes = default_mtu_bytes
        self._obstacle = obstacle
        self._outage = outage
        self._limitation = limitation
        self._inspect = inspect
        self._turn_of: dict[str, _Turn] = {}
        self._owners = LinkOwners(addresses, links)

    async def add(self, request: CniRequest, namespace_descriptor: int) -> CniResult:
        """Give the container its addresses, link and routes; on an error nothing new is left.

        A call repeated for a container that is attached already never takes away what works, and one for another
        network by the same interface is refused.
        """
        host_name = request.host_name
        async with self.alone(host_name):
            attached = host_name in self._links.index_of
            owner = self._owners.owner(host_name)
            if owner not in {None, request.handle}:
                raise RefusedError(
                    f"interface {request.interface} of the container belongs to {owner} already; give this attachment "
                    "another interface name, or detach that one first"
                )
            assignment = await self._addresses.assign(_assign_request(request, host_name, renew=not attached))
            link = WorkloadLink(
                host_name=host_name,
                container_name=request.interface,
                container_mac=request.container_mac,
                addresses=assignment.addresses,
                mtu_bytes=request.config.mtu_bytes or self._default_mtu_bytes(),
            )
            self._owners.learn(host_name, request.handle)
            try:
                index = await self._links.wire(namespace_descriptor, link)
                await self._routes.program([workload_route(address, index) for address in assignment.addresses])
            except Exception as error:
                if not attached:
                    await self._undo(request.handle, host_name, error)
                raise
        log.info("workload attached", extra=_fields(request, link.addresses))
        return _result(request, link)

    async def delete(self, request: CniRequest, namespace_descriptor: int | None = None) -> None:
        """Remove the container's link, then release its addresses; what is gone already is success."""
        released = await self._detach(request.handle, request.host_name, namespace_descriptor)
        log.info("workload detached", extra=_fields(request, released))

    async def check(self, request: CniRequest, namespace_descriptor: int) -> None:
        """Return if the attachment is as ADD left it; raises `CniFailure` that names each fault."""
        async with self.alone(request.host_name):
            addresses = tuple(
                address for address, holder in self._addresses.holders().items() if holder.handle == request.handle
            )
            state = await asyncio.to_thread(
                self._inspect, namespace_descriptor, request.host_name, request.interface, addresses
            )
        failure = report(self._expected(request, addresses), state)
        if failure is not None:
            raise failure

    async def collect(self, request: CniRequest) -> None:
        """Detach what holds addresses on the network and is not named as valid; one that cannot be stops no other.

        An attachment under way is in nobody's list yet, and is left. Raises `CniFailure` that tells what is left.
        """
        if request.valid is None:
            log.info("garbage collection names no valid attachments", extra={"network": request.config.name})
            return
        failed: dict[str, Exception] = {}
        for handle, host_name in self._garbage(request.network_prefix, request.valid).items():
            if host_name in self._turn_of:
                continue
            try:
                released = await self._detach(handle, host_name)
            except Exception as error:  # noqa: BLE001  told below, once all others have been tried
                failed[handle] = error
            else:
                log.info("workload collected", extra={"handle": handle, "addresses": [*map(str, released)]})
        for handle, cause in failed.items():
            failure = failure_of(cause)
            message = f"{len(failed)} attachments could not be collected, the first {handle}: {failure.message}"
            raise CniFailure(failure.code, message, failure.details) from cause

    async def status(self, request: CniRequest) -> None:
        """Return if an ADD to the network could succeed, now or as soon as the store answers.

        A runtime that is told otherwise gives its node up, whose containers are then started elsewhere. So a store that
        is away is no reason: what exists goes on without it.

        Raises `TransientError` or what an assignment would, or `CniFailure` if existing containers suffer.
        """
        limitation = self._limitation()
        try:
            await self._require_room(request)
        except Exception as error:
            if limitation is None:
                raise
            failure = failure_of(error)
            reason = f"{failure.message}; besides, {limitation}"
            raise CniFailure(ErrorCode.LIMITED_CONNECTIVITY, reason, failure.details) from error
        if limitation is not None:
            raise CniFailure(ErrorCode.LIMITED_CONNECTIVITY, limitation, _ROUTES_ADVICE)

    async def _require_room(self, request: CniRequest) -> None:
        obstacle = self._obstacle()
        if obstacle is not None:
            raise TransientError(obstacle)
        if self._outage():
            return  # nobody knows how full the pools are
        with suppress(StoreUnavailable):
            await self._addresses.probe(_probe(request))

    async def _detach(
        self, handle: str, host_name: str, namespace_descriptor: int | None = None
    ) -> tuple[IPAddress, ...]:
        """Remove the link and release what the handle holds; a link that is another handle's by now stays."""
        async with self.alone(host_name):
            if self._owners.owner(host_name) in {None, handle}:
                await self._links.unwire(host_name, namespace_descriptor)
            return await self._addresses.release(handle)

    def _garbage(self, network_prefix: str, valid: frozenset[Attachment]) -> dict[str, str]:
        """Return the handles of this network that are not valid, each with the name of its link."""
        found = {}
        for holder in self._addresses.holders().values():
            if holder.handle.startswith(network_prefix):
                container_id, _, interface = holder.handle.removeprefix(network_prefix).partition("/")
                if Attachment(container_id, interface) not in valid:
                    found[holder.handle] = holder.interface
        return found

    def _expected(self, request: CniRequest, addresses: tuple[IPAddress, ...]) -> Expected:
        return Expected(
            host_name=request.host_name,
            container_name=request.interface,
            container_mac=request.container_mac,
            addresses=addresses,
            families=request.config.ip_versions,
            mtu_bytes=request.config.mtu_bytes or self._default_mtu_bytes(),
            exact_mtu=bool(request.config.mtu_bytes),
            previous=request.previous,
        )

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


def _probe(request: CniRequest) -> AssignRequest:
    return AssignRequest(
        handle=request.network_prefix,
        workload="",
        namespace="",
        interface="",
        versions=request.config.ip_versions,
        pools=request.config.ipv4_pools + request.config.ipv6_pools,
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

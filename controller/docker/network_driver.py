"""The network driver: networks, endpoints, their links and their published ports.

A container's link is made in `Join` and taken into the sandbox by dockerd, which sets it up as the answer says; from
then on it is a workload link as any other. `DeleteEndpoint` leaves the addresses held: dockerd releases them in a call
of its own right after, and freed twice they could be another container's the second time.

Every call may come again, late or not at all; what ends something succeeds where there is nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from controller.docker.filtering import Filtering
from controller.docker.join_answer import join_answer
from controller.docker.ports import check_reachable, occupied, publish
from controller.docker.requests import parse_bindings, parse_endpoint, parse_network
from controller.docker.sources import shared_sources
from controller.docker.values import REQUESTED, Endpoint, endpoint_mac, given_up, link_name
from controller.errors import RefusedError
from controller.kernel.sysctls import containers_check_strictly
from controller.ports import WorkloadLink
from controller.reconcile.desired import workload_route
from ipam.request import AssignRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from controller.docker.node_parts import Addresses, Lending, LinkWork, PacketFilter, RouteWork
    from controller.docker.requests import Fields
    from controller.docker.state import DriverState
    from controller.docker.values import Binding, Network, Published

log = logging.getLogger(__name__)

_STRICT_FIELDS: Final = {
    "reason": "net.ipv4.conf.all.rp_filter or net.ipv4.conf.default.rp_filter of the host is 1, and containers inherit "
    "it; run those of several networks with `--sysctl net.ipv4.conf.all.rp_filter=2`"
}


class NetworkDriver:
    """Answers the calls of `NetworkDriver`.

    `alone` holds back every other call for a link, by its name; `default_mtu_bytes` gives the MTU of networks that set
    none.
    """

    def __init__(
        self,
        *,
        addresses: Addresses,
        links: LinkWork,
        lending: Lending,
        routes: RouteWork,
        packet_filter: PacketFilter,
        state: DriverState,
        alone: Callable[[str], AbstractAsyncContextManager[None]],
        default_mtu_bytes: Callable[[], int],
    ) -> None:
        self._addresses = addresses
        self._links = links
        self._lending = lending
        self._routes = routes
        self._packet_filter = packet_filter
        self._state = state
        self._alone = alone
        self._default_mtu_bytes = default_mtu_bytes
        self._filtering = Filtering(packet_filter=packet_filter, lending=lending, state=state)
        self._choosing = asyncio.Lock()
        self._untaken: frozenset[str] = frozenset()

    async def create_network(self, fields: Fields) -> dict[str, object]:
        """Keep the network; one of this id that is there is kept as the call describes it."""
        network = await self._state.keep_network(fields.identifier("NetworkID"), partial(parse_network, fields))
        log.info("docker network created", extra=_network_fields(network))
        return {}

    async def delete_network(self, fields: Fields) -> dict[str, object]:
        """Forget the network, and end the endpoints that are left of it."""
        network_id = fields.identifier("NetworkID")
        for endpoint in list(self._state.endpoints.values()):
            if endpoint.network_id == network_id:
                await self._state.change_endpoint(endpoint.endpoint_id, given_up)
                await self._end(endpoint.endpoint_id)
        await self._state.forget_network(network_id)
        log.info("docker network deleted", extra={"network": network_id})
        return {}

    async def create_endpoint(self, fields: Fields) -> dict[str, object]:
        """Make the addresses the endpoint's, and return its MAC address unless the call has one."""
        request = parse_endpoint(fields)
        self._state.network(request.network_id)
        host_name = link_name(request.endpoint_id)
        mac = request.mac or endpoint_mac(request.endpoint_id)
        endpoint = Endpoint(request.network_id, request.endpoint_id, request.addresses, mac)
        async with self._alone(host_name):
            present = self._state.endpoints.get(endpoint.endpoint_id)
            if present is not None and _identity(present) != _identity(endpoint):
                raise RefusedError(
                    f"endpoint {endpoint.endpoint_id[:12]} exists with {', '.join(map(str, present.addresses))} and "
                    f"{present.mac}; delete it first"
                )
            await self._addresses.take_over(_assign_request(endpoint), REQUESTED)
            if present is None:
                await self._state.keep_endpoint(endpoint)
            try:
                await self._filtering.refresh()
            except BaseException:
                if present is None:
                    await self._state.forget_endpoint(endpoint.endpoint_id)
                raise
        return {"Interface": {} if request.mac else {"MacAddress": mac}}

    async def join(self, fields: Fields) -> dict[str, object]:
        """Make the endpoint's link and routes, and tell dockerd how to set up the end that it takes."""
        endpoint_id = fields.identifier("EndpointID")
        sandbox = fields.text("SandboxKey")
        async with self._alone(link_name(endpoint_id)):
            endpoint = self._state.endpoint(endpoint_id)
            network = self._state.network(endpoint.network_id)
            for address in endpoint.addresses:
                await self._packet_filter.let_through(address.version)
            try:
                await self._state.change_endpoint(endpoint_id, lambda each: replace(each, sandbox=sandbox))
                await self._filtering.refresh()
                await self._make_link(endpoint, network)
                shares = endpoint.host_name in shared_sources(self._state.endpoints.values())
                await self._filtering.refresh(new_link=shares)
            except Exception:
                await self._detach(endpoint_id)
                raise
        if shares and await asyncio.to_thread(containers_check_strictly):
            log.warning("container drops what comes by the network without its default route", extra=_STRICT_FIELDS)
        log.info("docker endpoint attached", extra=_endpoint_fields(endpoint))
        return join_answer(endpoint, network)

    async def leave(self, fields: Fields) -> dict[str, object]:
        """Remove the endpoint's link."""
        endpoint_id = fields.identifier("EndpointID")
        async with self._alone(link_name(endpoint_id)):
            await self._detach(endpoint_id)
        return {}

    async def delete_endpoint(self, fields: Fields) -> dict[str, object]:
        """Forget the endpoint and what it had; its addresses are free once dockerd has released them too."""
        await self._end(fields.identifier("EndpointID"))
        return {}

    async def publish(self, fields: Fields) -> dict[str, object]:
        """Have the ports of the call reach the endpoint, and no others."""
        bindings = parse_bindings(fields)
        endpoint_id = fields.identifier("EndpointID")
        async with self._alone(link_name(endpoint_id)):
            endpoint = self._state.endpoint(endpoint_id)
            check_reachable(bindings, endpoint.addresses)
            # Until what is chosen is kept, nobody else may choose it.
            async with self._choosing:
                published = self._choose(bindings, endpoint)
                await self._keep_published(endpoint_id, published)
            await self._apply_published(endpoint)
        if published:
            log.info("docker ports published", extra=_endpoint_fields(self._state.endpoint(endpoint_id)))
        return {}

    async def unpublish(self, fields: Fields) -> dict[str, object]:
        """Have no port reach the endpoint."""
        endpoint_id = fields.identifier("EndpointID")
        async with self._alone(link_name(endpoint_id)):
            endpoint = self._state.endpoints.get(endpoint_id)
            if endpoint is not None:
                await self._keep_published(endpoint_id, ())
                await self._apply_published(endpoint)
        return {}

    async def describe(self, _fields: Fields) -> dict[str, object]:
        """Return what dockerd shows of an endpoint beside what it knows itself: nothing."""
        return {"Value": {}}

    async def resync(self) -> None:
        """End and forget what dockerd has left behind, and make the packet filter right again."""
        await self._end_abandoned()
        held = {holder.handle for holder in self._addresses.holders().values()}
        for endpoint in list(self._state.endpoints.values()):
            async with self._alone(endpoint.host_name):
                if endpoint.handle not in held and endpoint.host_name not in self._links.index_of:
                    await self._state.forget_endpoint(endpoint.endpoint_id)
                    log.info("docker endpoint forgotten: nothing is left of it", extra=_endpoint_fields(endpoint))
        await self._filtering.repair()
        for version in {address.version for each in self._state.endpoints.values() for address in each.addresses}:
            await self._packet_filter.let_through(version)

    async def _end_abandoned(self) -> None:
        """End the endpoints whose links' far ends were with us the last time already.

        dockerd takes one at once, and gives it back when the container ends; if nobody answers then, it ends the
        endpoint for itself and never tells.
        """
        untaken = await asyncio.to_thread(self._lending.untaken)
        for endpoint in list(self._state.endpoints.values()):
            if endpoint.lent_name in untaken & self._untaken:
                log.warning("docker endpoint was abandoned and is ended", extra=_endpoint_fields(endpoint))
                await self._state.change_endpoint(endpoint.endpoint_id, given_up)
                await self._end(endpoint.endpoint_id)
        self._untaken = untaken

    async def _end(self, endpoint_id: str) -> None:
        host_name = link_name(endpoint_id)
        async with self._alone(host_name):
            await self._links.unwire(host_name)
            endpoint = await self._state.forget_endpoint(endpoint_id)
            if endpoint is None:
                return
            # After it is forgotten: from then on a release frees by itself.
            if endpoint.given_up:
                await self._addresses.release(endpoint.handle)
            await self._filtering.refresh()
        log.info("docker endpoint detached", extra=_endpoint_fields(endpoint))

    async def _make_link(self, endpoint: Endpoint, network: Network) -> None:
        link = WorkloadLink(
            host_name=endpoint.host_name,
            container_name=endpoint.lent_name,
            container_mac=endpoint.mac,
            addresses=endpoint.addresses,
            mtu_bytes=network.mtu_bytes or self._default_mtu_bytes(),
        )
        gateways = tuple(network.gateway(address.version) for address in endpoint.addresses)
        index = await self._links.make(link.host_name, partial(self._lending.lend, link, gateways))
        await self._routes.program([workload_route(address, index) for address in link.addresses])

    async def _detach(self, endpoint_id: str) -> None:
        """Have the endpoint without a link and in no container."""
        await self._links.unwire(link_name(endpoint_id))
        await self._state.change_endpoint(endpoint_id, lambda each: replace(each, sandbox=""))
        await self._filtering.refresh()

    def _choose(self, bindings: Iterable[Binding], endpoint: Endpoint) -> tuple[Published, ...]:
        others = {name: each.published for name, each in self._state.endpoints.items() if name != endpoint.endpoint_id}
        had = frozenset(endpoint.published)
        return publish(bindings, others, lambda wanted: None if wanted in had else occupied(wanted))

    async def _keep_published(self, endpoint_id: str, published: tuple[Published, ...]) -> None:
        await self._state.change_endpoint(endpoint_id, lambda each: replace(each, published=published))

    async def _apply_published(self, before: Endpoint) -> None:
        """Have the ports that are kept reach the endpoint; on an error it has those of before."""
        try:
            await self._filtering.refresh()
        except BaseException:
            await self._keep_published(before.endpoint_id, before.published)
            raise


def _identity(endpoint: Endpoint) -> tuple[object, ...]:
    return endpoint.network_id, frozenset(endpoint.addresses), endpoint.mac


def _assign_request(endpoint: Endpoint) -> AssignRequest:
    return AssignRequest(
        handle=endpoint.handle,
        workload=endpoint.endpoint_id[:12],
        namespace="docker",
        interface=endpoint.host_name,
        versions=tuple(address.version for address in endpoint.addresses),
        addresses=endpoint.addresses,
    )


def _network_fields(network: Network) -> dict[str, object]:
    return {
        "network": network.network_id,
        "pools": [str(cidr) for cidr in network.cidrs],
        "internal": network.internal,
        "gateway": str(network.ipv4_gateway),
    }


def _endpoint_fields(endpoint: Endpoint) -> dict[str, object]:
    return {
        "handle": endpoint.handle,
        "link": endpoint.host_name,
        "addresses": [str(address) for address in endpoint.addresses],
        "ports": [f"{each.host_port}:{each.port}/{each.protocol.name.lower()}" for each in endpoint.published],
    }

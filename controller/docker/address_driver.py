"""The IPAM driver: pools and addresses, before dockerd says for which endpoint they are.

A pool's id says everything about it, and dockerd keeps it, so nothing is remembered here. An address is held under a
handle of its own until `CreateEndpoint` takes it over; one that never gets there is collected, for its link never
comes to be.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Final

from controller.docker.requests import parse_address_request, parse_pool_request
from controller.docker.values import REQUESTED, endpoint_of_handle, given_up, link_name
from controller.errors import RefusedError, TortieError, TransientError
from controller.kernel.links import IPV4_GATEWAY, IPV6_GATEWAY
from ipam.errors import AddressUnavailable
from ipam.request import AssignRequest, ReleaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from controller.docker.leftovers import Leftovers
    from controller.docker.node_parts import Addresses
    from controller.docker.requests import Fields
    from controller.docker.state import DriverState
    from ipam.address import IPAddress
    from ipam.pool import Pool

log = logging.getLogger(__name__)

_ANY: Final = {4: "0.0.0.0/0", 6: "::/0"}
_GATEWAYS: Final = {4: f"{IPV4_GATEWAY}/32", 6: f"{IPV6_GATEWAY}/128"}
_GATEWAY_MEMBER: Final = "com.docker.network.gateway"
_ID_PARTS: Final = 3


class AddressDriver:
    """Answers the calls of `IpamDriver`; `pools` gives those there are, None while that is not known."""

    def __init__(
        self,
        *,
        addresses: Addresses,
        pools: Callable[[], Collection[Pool] | None],
        state: DriverState,
        leftovers: Leftovers,
    ) -> None:
        self._addresses = addresses
        self._pools = pools
        self._state = state
        self._leftovers = leftovers
        # How often each address was given to one who asked for it, and not released since.
        self._given: Counter[IPAddress] = Counter()

    async def request_pool(self, fields: Fields) -> dict[str, object]:
        """Return the id and CIDR of the pool that is asked for."""
        request = parse_pool_request(fields)
        pool = None
        if request.cidr is not None:
            pool = self._pool("the CIDR", str(request.cidr), lambda each: each.cidr == request.cidr)
        elif request.name is not None:
            pool = self._pool("the name", request.name, lambda each: each.name == request.name)
            if pool.version != request.version:
                raise RefusedError(
                    f"pool {pool.name} ({pool.cidr}) is not of IPv{request.version}; name the pools of each IP version "
                    f"with --subnet"
                )
        return {
            "PoolID": f"tortie/{request.version}/{'' if pool is None else pool.name}",
            "Pool": _ANY[request.version] if pool is None else str(pool.cidr),
            # Without it dockerd would ask for one out of the pool, and every address is a container's here.
            "Data": {_GATEWAY_MEMBER: _GATEWAYS[request.version]},
        }

    async def request_address(self, fields: Fields) -> dict[str, object]:
        """Return an address out of the pool, held by nobody's endpoint yet; the prefix is that of one address."""
        request = parse_address_request(fields)
        version, pool_name = _parse_pool_id(request.pool_id)
        if request.gateway:
            return {"Address": _GATEWAYS[version], "Data": {}}
        if request.address is not None and request.address.version != version:
            raise RefusedError(f"{request.address} is not of IPv{version}, as the pool {request.pool_id} is")
        # Asked for again, a certain address is had again; which one any other request got nobody can tell.
        token = secrets.token_hex(8) if request.address is None else str(request.address)
        wanted = AssignRequest(
            handle=REQUESTED + token,
            workload=token,
            namespace="docker",
            interface=link_name(REQUESTED + token),
            versions=(version,),
            pools=(pool_name,) if pool_name else (),
            addresses=() if request.address is None else (request.address,),
        )
        address = await self._assigned(wanted, request.address)
        log.info("address assigned to docker", extra={"address": str(address), "pool": pool_name})
        return {"Address": f"{address}/{address.max_prefixlen}", "Data": {}}

    async def release_address(self, fields: Fields) -> dict[str, object]:
        """Free an address once no endpoint has it; one that nobody holds, or that is not docker's, is left alone.

        Of several to whom it was given at once the last who releases it frees it: one of them may have it.
        """
        _parse_pool_id(fields.text("PoolID"))
        address = fields.address("Address")
        if address is not None and self._given[address] > 1:
            self._given[address] -= 1
            log.info("address stays: docker asked for it more than once", extra={"address": str(address)})
            return {}
        holder = None if address is None else self._addresses.holders().get(address)
        if address is None or holder is None:
            return {}
        self._given.pop(address, None)
        endpoint_id = endpoint_of_handle(holder.handle)
        # Its end may be on its way; or this is an old call come late, and the address is another container's now.
        if endpoint_id is not None and await self._state.change_endpoint(endpoint_id, given_up):
            return {}
        if endpoint_id is not None or holder.handle.startswith(REQUESTED):
            try:
                await self._addresses.release_addresses([ReleaseRequest(address, holder.handle)])
            except TortieError:
                self._leftovers.note_failure(holder.handle)
                raise
            log.info("address released by docker", extra={"address": str(address), "handle": holder.handle})
        return {}

    async def _assigned(self, wanted: AssignRequest, asked: IPAddress | None) -> IPAddress:
        """Return the address that is assigned; one that was asked for is had too where it was left behind."""
        if asked is not None and asked not in self._addresses.holders():
            self._given.pop(asked, None)  # it was collected from those it was given to
        try:
            assignment = await self._addresses.assign(wanted)
        except AddressUnavailable:
            if asked is None or not await self._leftovers.free(asked):
                raise
            assignment = await self._addresses.assign(wanted)
        [address] = assignment.addresses
        if asked is not None:
            self._given[address] += 1
        return address

    def _pool(self, what: str, wanted: str, fits: Callable[[Pool], bool]) -> Pool:
        pools = self._pools()
        if pools is None:
            raise TransientError("the pools are not known yet, because the store has not answered; try again")
        for pool in pools:
            if fits(pool):
                return pool
        there = ", ".join(f"{pool.name} ({pool.cidr})" for pool in pools) or "none"
        raise RefusedError(f"no pool has {what} {wanted}; there are: {there}. Name one of them, or create the pool")


def _parse_pool_id(pool_id: str) -> tuple[int, str]:
    """Return the IP version and the pool's name, empty for whichever fits."""
    parts = pool_id.split("/", _ID_PARTS - 1)
    if len(parts) != _ID_PARTS or parts[0] != "tortie" or parts[1] not in ("4", "6"):
        raise RefusedError(f"pool id {pool_id!r} is none of ours; create the network again")
    return int(parts[1]), parts[2]

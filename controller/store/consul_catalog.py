"""This cluster's nodes in Consul's catalog: each an instance of one service, with a check that its agent answers for.

Consul keeps services in two places. The Consul agent that was asked has the truth about those registered with it, and
repeats it to the catalog, which is what DNS, the UI and everybody else read. A check with a time to live (TTL) turns
critical by itself when nobody has reported within it. Sources:
https://developer.hashicorp.com/consul/api-docs/agent/service, .../agent/check and .../catalog. Beyond what they say:
- A report for a check that the Consul agent does not know is status 500 before version 1.11 and 404 since.
- Registering a service again keeps its check's output, and takes its state from the registration.
- A report that changes the output but not the state may reach the catalog minutes later (`check_update_interval`).
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from controller.errors import StoreUnavailable
from controller.store.consul_http import ConsulClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.store.consul_access import ConsulAccess

#: The name of a service that stands for none.
NO_SERVICE: Final = "none"
#: How long a state holds without a new report, in seconds; a restart of the agent must fit into it.
TTL_SECONDS: Final = 30
#: After how long without a good report Consul forgets a node by itself. A night, so that somebody has seen it.
_FORGOTTEN_AFTER: Final = "24h"
_CHECK_NAME: Final = "tortie-agent"
_NOT_FOUND: Final = 404


class Health(Enum):
    """The states of a check; Consul's DNS answers with all but those that are critical."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Instance:
    """One node as an instance of the service `name`; port 0 is none."""

    name: str
    node: str
    address: str
    port: int
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The instance's ID, also its check's; a Consul agent keeps IDs of services apart from those of others."""
        return instance_id(self.name, self.node)


def instance_id(service: str, node: str) -> str:
    """Return the ID of a node's instance of a service."""
    return f"{service}-{node}"


class ConsulCatalog:
    """Tells one Consul agent about nodes; for one event loop."""

    def __init__(self, access: ConsulAccess, *, timeout_seconds: float = 5.0) -> None:
        self._client = ConsulClient(access, timeout_seconds=timeout_seconds)

    async def register(self, instance: Instance, health: Health) -> None:
        """Make the instance known, in that state, whether or not it was; raises `StoreUnavailable`, `StoreDenied`."""
        check = {
            "CheckID": instance.identity,
            "Name": _CHECK_NAME,
            "TTL": f"{TTL_SECONDS}s",
            "Status": health.value,
            "DeregisterCriticalServiceAfter": _FORGOTTEN_AFTER,
        }
        service = {
            "ID": instance.identity,
            "Name": instance.name,
            "Tags": [instance.node],
            "Address": instance.address,
            "Port": instance.port,
            "Meta": dict(instance.meta),
            "Check": check,
        }
        await self._client.put("/v1/agent/service/register", [], json.dumps(service))

    async def report(self, instance: Instance, health: Health, output: str) -> bool:
        """Set the state of the instance's check and begin its TTL anew; return whether Consul knows the instance."""
        body = json.dumps({"Status": health.value, "Output": output})
        try:
            answer = await self._client.put(f"/v1/agent/check/update/{instance.identity}", [], body)
        except StoreUnavailable:
            # 500 stands for an unknown check as for an outage; the registration that follows tells them apart.
            return False
        return answer.status != _NOT_FOUND

    async def remove(self, service: str, node: str) -> bool:
        """Forget a node, wherever it is registered; return whether it was there.

        A Consul agent other than the one asked that still has it puts it back until its check has been critical for
        long. Raises `StoreUnavailable` and `StoreDenied`.
        """
        identity = instance_id(service, node)
        if not await self._places(service, identity):
            return False
        # Status 500 stands here for what is gone already, or another Consul agent's, as for an outage; what is left
        # afterwards tells them apart.
        with suppress(StoreUnavailable):
            await self._client.put(f"/v1/agent/service/deregister/{identity}", [], "")
        for place in await self._places(service, identity):
            with suppress(StoreUnavailable):
                await self._client.put("/v1/catalog/deregister", [], json.dumps({"Node": place, "ServiceID": identity}))
        if left := await self._places(service, identity):
            raise StoreUnavailable(f"Consul node {', '.join(left)} still has {identity}; try again")
        return True

    async def _places(self, service: str, identity: str) -> list[str]:
        """Return the Consul nodes at which the catalog has an instance."""
        listing = await self._client.get(f"/v1/catalog/service/{service}", [("consistent", "1")])
        try:
            return [row["Node"] for row in json.loads(listing.body) if row["ServiceID"] == identity]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(f"what answers is not Consul; it says {listing.body[:200]!r}") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

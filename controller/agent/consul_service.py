"""This node in Consul's own terms: a service with a check, so that its catalog, DNS and UI show the cluster's state.

What the agent says of itself is reported again and again, well within the check's time to live. When the agent is
gone, the check turns critical by itself; an agent that starts again within that time keeps the state it had, because
nothing is reported before it is ready or has had that long to become so. An instance that Consul does not know, after
it was restarted or wiped, is registered by the next report. Nothing else of the agent waits for any of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from controller.errors import TortieError
from controller.store.consul_catalog import NO_SERVICE, TTL_SECONDS, ConsulCatalog, Health, Instance
from controller.store.opening import consul_access

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.agent.api import Status
    from controller.agent.complaints import Complaints
    from controller.datamodel.records import Node
    from controller.settings import Settings

log = logging.getLogger(__name__)

#: How often the state is reported, in seconds: twice may fail before the check turns critical.
REPORT_SECONDS: Final = TTL_SECONDS / 3
#: How often an agent that starts looks whether it is ready, in seconds.
_LOOK_SECONDS: Final = 0.5
_UNLISTED: Final = "node could not be told to Consul's catalog yet"
_READY: Final = "ready"


class ConsulService:
    """Keeps one instance of the service and its check true."""

    def __init__(
        self, instance: Instance, catalog: ConsulCatalog, status: Callable[[], Status], complaints: Complaints
    ) -> None:
        self._instance = instance
        self._catalog = catalog
        self._status = status
        self._complaints = complaints
        self._registered = False

    async def run(self) -> None:
        """Report until cancelled; what is registered then stays, for the agent that may start next."""
        try:
            await self._first_readiness()
            while True:
                await self.iterate()
                await asyncio.sleep(REPORT_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311  spreads reports
        finally:
            await self._catalog.close()

    async def iterate(self) -> None:
        """Report once; register where Consul does not know the node, or may know it as it was before this start."""
        health, output = health_of(self._status())
        try:
            if not await self._catalog.report(self._instance, health, output):
                # Also where the report failed for another reason: it fails then again and tells why.
                await self._catalog.register(self._instance, _other_than(health))
                await self._catalog.report(self._instance, health, output)
                log.info("node registered with Consul", extra={"service": self._instance.identity})
            elif not self._registered:
                await self._catalog.register(self._instance, health)
            self._registered = True
            self._complaints.settle(_UNLISTED)
        except TortieError as error:
            self._complaints.tell(_UNLISTED, error)

    async def _first_readiness(self) -> None:
        """Return when the agent is ready, or as soon as it is late."""
        try:
            async with asyncio.timeout(TTL_SECONDS):
                while not self._status().ready:  # noqa: ASYNC110  readiness follows from many parts, none tells of it
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            log.debug("the agent is not ready yet; Consul is told so")


def consul_service(
    settings: Settings, node: Node, status: Callable[[], Status], complaints: Complaints
) -> ConsulService | None:
    """Return what keeps the node in Consul's catalog, None where it is not to be there; raises `RefusedError`."""
    if settings.store != "consul" or settings.consul_service == NO_SERVICE:
        return None
    catalog = ConsulCatalog(consul_access(settings), timeout_seconds=settings.store_timeout_seconds)
    return ConsulService(instance_of(settings, node), catalog, status, complaints)


def instance_of(settings: Settings, node: Node) -> Instance:
    """Return the node as an instance of the service: its first address, and the port of its metrics and health."""
    return Instance(
        name=settings.consul_service,
        node=node.name,
        address=str(node.addresses[0]),
        port=0 if settings.http_listen is None else settings.http_listen.port,
        meta={"version": version("tortie"), "as_number": str(node.as_number)},
    )


def _other_than(health: Health) -> Health:
    """Return a state in which a new check may begin: a report of the same state would leave its text behind."""
    return Health.WARNING if health is Health.CRITICAL else Health.CRITICAL


def health_of(status: Status) -> tuple[Health, str]:
    """Return the check's state and its text: what is wrong, one problem a line."""
    # That the catalog could not be told is over when this is read in it.
    problems = [problem for problem in status.problems if not problem.startswith(_UNLISTED)]
    if not status.ready:
        return Health.CRITICAL, "\n".join(problems)
    if problems:
        return Health.WARNING, "\n".join(problems)
    return Health.PASSING, f"{_READY}, {status.drain}" if status.drain else _READY

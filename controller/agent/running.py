"""The agent: runs its parts together, and tells them what store, kernel and speaker have to say.

Nothing is asked of the kernel or the speaker before the store's snapshot is known, so an agent that starts without a
store leaves everything as it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from functools import partial
from typing import TYPE_CHECKING

from controller.agent.addressing import find_node
from controller.agent.cluster import fold
from controller.agent.composition import Composition
from controller.agent.consul_service import consul_service
from controller.agent.metrics_instruments import Instruments
from controller.agent.metrics_store import TimedStore
from controller.agent.notify import notify
from controller.agent.web import WebServer
from controller.cni.server import serve
from controller.datamodel import keys
from controller.errors import TortieError
from controller.kernel.addresses import interface_addresses, uplink_mtu
from controller.kernel.lent_links import LentLinks
from controller.kernel.monitor import KernelChange
from controller.kernel.sysctls import enable_forwarding
from controller.ports import Interrupted
from controller.private_socket import listening
from controller.store.loss_guard import LossGuard
from controller.store.opening import StoreSettings, open_store

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from controller.agent.cluster import Cluster
    from controller.datamodel.records import Node
    from controller.ports import Store
    from controller.settings import Settings

log = logging.getLogger(__name__)

#: How long a failed step waits before it is tried again, in seconds.
_RETRY_SECONDS = 1.0
_BLOCKS_UNKNOWN = "own blocks are not known yet"
_NO_DOCKER = "dockerd is not served"
#: How often links and addresses are read anew without any hint, in seconds.
_RESYNC_SECONDS = 90.0


class Agent:
    """One host's agent; build it with `create`, then `run` it until cancelled."""

    def __init__(
        self, settings: Settings, node: Node, uplinks: tuple[str, ...], store: Store, instruments: Instruments
    ) -> None:
        self._uplinks = uplinks
        self._assigning = asyncio.Event()
        self._look = asyncio.Event()
        self._parts = Composition(settings, node, store, instruments, self._hinted)

    @classmethod
    async def create(cls, settings: Settings) -> Agent:
        """Find the node's addresses, let the kernel forward, and build the parts.

        Waits for an address that is not there yet; raises `RefusedError` for a setting that cannot be met.
        """
        store_settings = StoreSettings.of(settings)
        node, uplinks = await find_node(settings)
        await asyncio.to_thread(enable_forwarding)
        instruments = Instruments()
        store = TimedStore(open_store(store_settings, instruments.store_heard), instruments.store_asked)
        return cls(settings, node, uplinks, LossGuard(store), instruments)

    async def run(self) -> None:
        """Serve until cancelled; then close every connection and leave routes, links and sessions as they are.

        Raises `RefusedError` when another agent serves the CNI socket; what ends any part ends all of them.
        """
        try:
            with listening(self._parts.settings.cni_socket) as listener:
                await self._parts.api.start()
                await self._read_kernel()
                self._parts.monitor.start(asyncio.get_running_loop())
                await self._run_parts(listener)
        finally:
            await self._parts.close()

    async def _run_parts(self, listener: socket.socket) -> None:
        parts = self._parts
        settings = parts.settings
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(parts.registration.run(), name="registration")
            tasks.create_task(self._assign(), name="assignment")
            tasks.create_task(self._watch_cluster(), name="cluster")
            tasks.create_task(self._keep_looking(), name="kernel")
            tasks.create_task(self._listen(), name="speaker")
            tasks.create_task(parts.routing.run(), name="routing")
            tasks.create_task(parts.programmer.run(), name="programmer")
            tasks.create_task(parts.route_sync.run(), name="route sync")
            answering = serve(listener, settings.cni_socket, parts.workloads, witness=parts.instruments.cni_answered)
            tasks.create_task(answering, name="cni")
            if settings.docker_plugin_socket is not None:
                tasks.create_task(self._serve_docker(settings.docker_plugin_socket), name="docker")
            for what, listen, pages in (
                ("metrics and health", settings.http_listen, parts.pages_for_machines()),
                ("the status page", settings.status_page_listen, parts.pages_for_people()),
            ):
                if listen is not None and pages:
                    tasks.create_task(WebServer(what, listen, pages, parts.complaints).run(), name=what)
            if (service := consul_service(settings, parts.node, parts.status, parts.complaints)) is not None:
                tasks.create_task(service.run(), name="catalog")
            tasks.create_task(parts.watch.run(), name="watch")
            tasks.create_task(parts.publisher.run(), name="endpoints")
            tasks.create_task(self._collect(), name="collection")
            tasks.create_task(parts.way_out.run(), name="way out")
            tasks.create_task(self._announce_readiness(), name="readiness")

    async def _assign(self) -> None:
        """Start assigning as soon as the store answers, then follow the node's own share."""
        while True:
            try:
                await self._parts.assigner.start()
                break
            except TortieError as error:
                self._parts.complaints.tell(_BLOCKS_UNKNOWN, error)
            await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  spreads retries
        self._parts.complaints.settle(_BLOCKS_UNKNOWN)
        self._assigning.set()
        async for event in self._parts.store.watch(keys.share(self._parts.node.name)):
            if not isinstance(event, Interrupted):
                self._parts.assigner.observe_share(event)

    async def _watch_cluster(self) -> None:
        """Follow pools and nodes; what was known stays known while the store is away."""
        parts = self._parts
        cluster: Cluster | None = None
        async for event in parts.store.watch(keys.CLUSTER):
            if isinstance(event, Interrupted):
                log.warning("store is not reachable; everything stays as it is", extra={"reason": event.reason})
                parts.store_reason = event.reason
                parts.store_lost_at = parts.store_lost_at or time.time()
                continue
            if parts.store_reason is not None:
                log.info("store is reachable", extra={"kind": parts.settings.store})
            parts.store_reason = parts.store_lost_at = None
            cluster = fold(cluster, event)
            parts.assigner.set_rules(cluster.rules)
            parts.way_out.learn_pools(
                tuple(pool for pool, _ in cluster.pools.values()),
                complete=not any(key.startswith(keys.POOLS) for key in cluster.unread),
            )
            await self._assigning.wait()
            parts.routing.learn_cluster(cluster)
            parts.collector.learn_cluster(cluster)
            parts.registration.compare(cluster.nodes.get(parts.node.name))

    async def _collect(self) -> None:
        """Collect as soon as it is known what the node holds."""
        await self._assigning.wait()
        await self._parts.collector.run()

    async def _serve_docker(self, path: Path) -> None:
        """Serve dockerd as soon as it is known what the node holds; what keeps us from it keeps nothing else back."""
        await self._assigning.wait()
        complaints = self._parts.complaints
        lending = LentLinks()
        try:
            while True:
                try:
                    await self._parts.docker_plugin(path, lending).run(partial(complaints.settle, _NO_DOCKER))
                except TortieError as error:
                    complaints.tell(_NO_DOCKER, error)
                await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  spreads retries
        finally:
            lending.close()

    async def _listen(self) -> None:
        async for event in self._parts.speaker.events():
            self._parts.tally.count(event)
            self._parts.routing.learn_event(event)

    def _hinted(self, change: KernelChange) -> None:
        if change is not KernelChange.ADDRESSES:
            self._parts.programmer.kernel_changed()
        if change is not KernelChange.ROUTES:
            self._look.set()

    async def _keep_looking(self) -> None:
        """Read links and addresses again at every hint, and now and then without one."""
        while True:
            try:
                async with asyncio.timeout(_RESYNC_SECONDS * random.uniform(0.9, 1.1)):  # noqa: S311  jitter
                    await self._look.wait()
            except TimeoutError:
                log.debug("reading links and addresses without a hint")
            self._look.clear()
            try:
                await self._read_kernel()
            except TortieError as error:
                log.warning("links and addresses could not be read", extra={"reason": str(error)})
                await asyncio.sleep(_RETRY_SECONDS)
                self._look.set()

    async def _read_kernel(self) -> None:
        await self._parts.links.refresh()
        self._parts.routing.learn_interfaces(await asyncio.to_thread(interface_addresses))
        self._parts.mtu_bytes = self._parts.settings.mtu_bytes or await asyncio.to_thread(uplink_mtu, self._uplinks)

    async def _announce_readiness(self) -> None:
        """Tell systemd once the store's snapshot is known and the kernel has every route that follows from it."""
        await self._assigning.wait()
        await self._parts.programmer.in_sync.wait()
        log.info("ready", extra={"node": self._parts.node.name})
        notify("READY=1")

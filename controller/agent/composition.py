"""The agent: every part built once, connected, and run together; what one learns wakes the one decision.

Nothing is asked of the kernel or the speaker before the store's snapshot is known, so an agent that starts without a
store leaves everything as it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from bgp.peering import SessionTimes
from controller.agent import report, summary
from controller.agent.addressing import find_node
from controller.agent.api import ApiServer
from controller.agent.cluster import Cluster, fold
from controller.agent.collecting import Collector, present_moment
from controller.agent.complaints import Complaints
from controller.agent.consul_service import consul_service
from controller.agent.health import Health
from controller.agent.metrics import MetricsPage, Parts, Tally
from controller.agent.metrics_instruments import Instruments
from controller.agent.metrics_reach import Reach, WatchedAddresses, WatchedRoutes
from controller.agent.metrics_store import TimedStore
from controller.agent.notify import notify
from controller.agent.page import status_pages
from controller.agent.page_watch import Watch
from controller.agent.publishing import EndpointPublisher
from controller.agent.registration import Registration
from controller.agent.report import Known
from controller.agent.routing import Routing
from controller.agent.status import Observed, obstacle, status_of
from controller.agent.way_out import WayOut
from controller.agent.web import WebServer, for_nodes_only
from controller.assignment.assigner import Assigner
from controller.cni.backend import WorkloadBackend
from controller.cni.server import serve
from controller.datamodel import keys
from controller.docker.firewall import Firewall
from controller.docker.plugin import DockerPlugin
from controller.errors import TortieError
from controller.kernel.addresses import interface_addresses, uplink_mtu
from controller.kernel.connections import KernelConnections
from controller.kernel.forward_filters import open_forwarding
from controller.kernel.lent_links import LentLinks
from controller.kernel.links import KernelLinks
from controller.kernel.monitor import KernelChange, KernelMonitor
from controller.kernel.neighbours import KernelEndpoints
from controller.kernel.nftables import NftablesTable
from controller.kernel.routes import KernelFib
from controller.kernel.sysctls import enable_forwarding
from controller.ports import Interrupted
from controller.private_socket import listening
from controller.reconcile.links import WorkloadLinks
from controller.reconcile.programmer import RouteProgrammer
from controller.speaker.client import SidecarSpeaker
from controller.store.loss_guard import LossGuard
from controller.store.opening import StoreSettings, open_store

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from controller.agent.api import Status
    from controller.agent.web import Page
    from controller.datamodel.records import Node
    from controller.ports import Store
    from controller.settings import Settings
    from ipam.pool import Pool

log = logging.getLogger(__name__)

#: How long a failed step waits before it is tried again, in seconds.
_RETRY_SECONDS = 1.0
#: The name of our table of the packet filter.
_FILTER_TABLE = "tortie"
_BLOCKS_UNKNOWN = "own blocks are not known yet"
#: How often links and addresses are read anew without any hint, in seconds.
_RESYNC_SECONDS = 90.0


class Agent:
    """One host's agent; build it with `create`, then `run` it until cancelled."""

    def __init__(
        self, settings: Settings, node: Node, uplinks: tuple[str, ...], store: Store, instruments: Instruments
    ) -> None:
        self._settings = settings
        self._version = version("tortie")  # from a file
        self._node = node
        self._uplinks = uplinks
        self._store = store
        self._store_reason: str | None = "not reached yet"
        self._store_lost_at: float | None = time.time()
        self._complaints = Complaints()
        self._assigning = asyncio.Event()
        self._look = asyncio.Event()
        self._mtu_bytes = settings.mtu_bytes
        self._registration = Registration(store, node, self._complaints)
        self._instruments = instruments
        self._tally = Tally()
        self._assigner = Assigner(
            TimedStore(store, instruments.transaction_ended), node.name, time.time, labels=node.labels
        )
        self._fib = KernelFib()
        self._kernel_links = KernelLinks()
        self._links = WorkloadLinks(self._kernel_links)
        self._endpoints = KernelEndpoints()
        self._connections = KernelConnections()
        self._programmer = RouteProgrammer(self._fib, connections=self._connections)
        self._speaker = SidecarSpeaker(settings.bgp_socket)
        self._routing = Routing(
            node=node,
            times=SessionTimes(settings.hold_time_seconds, settings.restart_time_seconds),
            assigner=self._assigner,
            links=self._links,
            programmer=self._programmer,
            speaker=self._speaker,
        )
        self._reach = Reach(
            instruments.reachable_seconds.observe,
            announced=lambda: self._speaker.announced,
            decision=lambda: self._routing.decision,
        )
        self._workloads = WorkloadBackend(
            addresses=WatchedAddresses(self._assigner, self._reach),
            links=self._links,
            routes=WatchedRoutes(self._programmer, self._reach),
            default_mtu_bytes=lambda: self._mtu_bytes,
            obstacle=lambda: obstacle(self._observed()),
            limitation=self._limitation,
        )
        self._collector = Collector(
            node=node,
            addresses=self._assigner,
            read=self._endpoints.read,
            alone=self._workloads.alone,
            clock=present_moment,
            complaints=self._complaints,
        )
        self._publisher = EndpointPublisher(
            node=node.name, store=store, read=self._endpoints.read, clock=time.time, complaints=self._complaints
        )
        self._way_out = WayOut(
            table=NftablesTable(_FILTER_TABLE), open_forwarding=open_forwarding, complaints=self._complaints
        )
        self._assigner.on_change(self._routing.workloads_changed)
        self._links.on_change(self._routing.workloads_changed)
        self._links.on_change(self._publisher.mark)
        self._speaker.on_announced(self._reach.examine)
        # A link that others took away is seen only now and then; once its addresses are free, a check must know.
        self._collector.on_collected(self._publisher.mark)
        self._monitor = KernelMonitor(
            self._fib.port_id, self._hinted, self._programmer.routes_changed, self._links.learn_gone
        )
        self._api = ApiServer(settings.agent_socket, self.status)
        self._health = Health(self.status)
        self._metrics = MetricsPage(
            Parts(
                self._observed,
                self._assigner,
                self._collector,
                self._programmer,
                self._routing,
                self._speaker,
                self._reach,
                self._tally,
                instruments,
            )
        )
        self._watch = Watch(settings, node, self.status, lambda: self._routing.cluster, store)

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

        Raises `RefusedError` when another agent serves one of the sockets; what ends any part ends all of them.
        """
        try:
            with listening(self._settings.cni_socket) as listener:
                await self._api.start()
                await self._read_kernel()
                self._monitor.start(asyncio.get_running_loop())
                await self._run_parts(listener)
        finally:
            await self._close()

    async def _run_parts(self, listener: socket.socket) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._registration.run(), name="registration")
            tasks.create_task(self._assign(), name="assignment")
            tasks.create_task(self._watch_cluster(), name="cluster")
            tasks.create_task(self._keep_looking(), name="kernel")
            tasks.create_task(self._listen(), name="speaker")
            tasks.create_task(self._routing.run(), name="routing")
            tasks.create_task(self._programmer.run(), name="programmer")
            answering = serve(
                listener, self._settings.cni_socket, self._workloads, witness=self._instruments.cni_answered
            )
            tasks.create_task(answering, name="cni")
            if self._settings.docker_plugin_socket is not None:
                tasks.create_task(self._serve_docker(self._settings.docker_plugin_socket), name="docker")
            for what, listen, pages in (
                ("metrics and health", self._settings.http_listen, self._pages_for_machines()),
                ("the status page", self._settings.status_page_listen, self._pages_for_people()),
            ):
                if listen is not None and pages:
                    tasks.create_task(WebServer(what, listen, pages, self._complaints).run(), name=what)
            if (service := consul_service(self._settings, self._node, self.status, self._complaints)) is not None:
                tasks.create_task(service.run(), name="catalog")
            tasks.create_task(self._watch.run(), name="watch")
            tasks.create_task(self._publisher.run(), name="endpoints")
            tasks.create_task(self._collect(), name="collection")
            tasks.create_task(self._way_out.run(), name="way out")
            tasks.create_task(self._announce_readiness(), name="readiness")

    def _pages_for_machines(self) -> dict[str, Page]:
        """Return what Prometheus, probes and the other nodes read."""
        return {
            **self._health.pages,
            "/metrics": self._metrics.answer,
            report.PATH: for_nodes_only(report.report_page(self._known), self._routing.is_node),
            summary.PATH: for_nodes_only(summary.summary_page(self.status), self._routing.is_node),
        }

    def _pages_for_people(self) -> dict[str, Page]:
        """Return what a browser reads."""
        return status_pages(self._watch)

    def status(self) -> Status:
        """Return what `tortiectl node status` shows."""
        return status_of(self._observed())

    def _observed(self) -> Observed:
        cluster = self._routing.cluster or Cluster()
        return Observed(
            node=self._node,
            version=self._version,
            peer_names={
                **{peer.address: name for name, peer in cluster.peers.items()},
                **{address: node.name for node in cluster.nodes.values() for address in node.addresses},
            },
            store_kind=self._settings.store,
            store_reason=self._store_reason,
            complaints=self._complaints.sentences,
            speaker_reason=self._routing.speaker_lost,
            peers=self._routing.peering.peers,
            peer_problems=self._routing.peering.problems,
            sessions={session.peer: session for session in self._speaker.sessions},
            decision=self._routing.decision,
            routes_in_sync=self._programmer.in_sync.is_set(),
            route_failures=self._programmer.failures,
            foreign_routes=self._programmer.foreign,
            missing_addresses=self._routing.missing_addresses(),
            holders=self._assigner.holders(),
            pool_count=len(cluster.pools),
            malformed=cluster.malformed,
        )

    def _known(self) -> Known:
        return Known(
            taken_at=time.time(),
            observed=self._observed(),
            store_lost_at=self._store_lost_at,
            blocks=self._assigner.blocks(),
            pools=tuple(pool.cidr for pool in self._pools() or ()),
            learned=self._routing.learned(),
            refused=self._routing.refused(),
        )

    def _limitation(self) -> str | None:
        """Return why existing workloads may not all be reached, or None."""
        for failure in self._programmer.failures.values():
            return f"the kernel does not take the route to {failure.prefix}: {failure.reason}"
        return None

    async def _assign(self) -> None:
        """Start assigning as soon as the store answers, then follow the node's own share."""
        while True:
            try:
                await self._assigner.start()
                break
            except TortieError as error:
                self._complaints.tell(_BLOCKS_UNKNOWN, error)
            await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  spreads retries
        self._complaints.settle(_BLOCKS_UNKNOWN)
        self._assigning.set()
        async for event in self._store.watch(keys.share(self._node.name)):
            if not isinstance(event, Interrupted):
                self._assigner.observe_share(event)

    async def _watch_cluster(self) -> None:
        """Follow pools and nodes; what was known stays known while the store is away."""
        cluster = Cluster()
        async for event in self._store.watch(keys.CLUSTER):
            if isinstance(event, Interrupted):
                log.warning("store is not reachable; everything stays as it is", extra={"reason": event.reason})
                self._store_reason = event.reason
                self._store_lost_at = self._store_lost_at or time.time()
                continue
            if self._store_reason is not None:
                log.info("store is reachable", extra={"kind": self._settings.store})
            self._store_reason = self._store_lost_at = None
            cluster = fold(cluster, event)
            self._assigner.set_rules(cluster.rules)
            self._way_out.learn_pools(tuple(pool for pool, _ in cluster.pools.values()))
            await self._assigning.wait()
            self._routing.learn_cluster(cluster)
            self._collector.learn_cluster(cluster)
            self._registration.compare(cluster.nodes.get(self._node.name))

    async def _collect(self) -> None:
        """Collect as soon as it is known what the node holds."""
        await self._assigning.wait()
        await self._collector.run()

    async def _serve_docker(self, path: Path) -> None:
        """Serve dockerd as soon as it is known what the node holds."""
        await self._assigning.wait()
        lent_links = LentLinks()
        plugin = DockerPlugin(
            socket_path=path,
            state_path=self._settings.docker_state_path,
            addresses=self._assigner,
            pools=self._pools,
            links=self._links,
            lending=lent_links,
            routes=self._programmer,
            packet_filter=Firewall(),
            alone=self._workloads.alone,
            default_mtu_bytes=lambda: self._mtu_bytes,
        )
        try:
            await plugin.run()
        finally:
            lent_links.close()

    def _pools(self) -> tuple[Pool, ...] | None:
        cluster = self._routing.cluster
        return None if cluster is None else tuple(pool for pool, _ in cluster.pools.values())

    async def _listen(self) -> None:
        async for event in self._speaker.events():
            self._tally.count(event)
            self._routing.learn_event(event)

    def _hinted(self, change: KernelChange) -> None:
        if change is not KernelChange.ADDRESSES:
            self._programmer.kernel_changed()
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
        await self._links.refresh()
        self._routing.learn_interfaces(await asyncio.to_thread(interface_addresses))
        self._mtu_bytes = self._settings.mtu_bytes or await asyncio.to_thread(uplink_mtu, self._uplinks)

    async def _announce_readiness(self) -> None:
        """Tell systemd once the store's snapshot is known and the kernel has every route that follows from it."""
        await self._assigning.wait()
        await self._programmer.in_sync.wait()
        log.info("ready", extra={"node": self._node.name})
        notify("READY=1")

    async def _close(self) -> None:
        self._monitor.close()
        await self._api.stop()
        await self._assigner.close()
        await self._speaker.close()
        await self._store.close()
        self._links.close()
        self._programmer.close()
        self._kernel_links.close()
        self._endpoints.close()
        self._connections.close()
        self._fib.close()

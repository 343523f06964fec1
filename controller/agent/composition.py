"""Every part of the agent, built once and connected; what one learns wakes the one decision."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from bgp.peering import SessionTimes
from controller.agent import report, summary
from controller.agent.api import ApiServer
from controller.agent.cluster import Cluster
from controller.agent.collecting import Collector, present_moment
from controller.agent.complaints import Complaints
from controller.agent.health import Health
from controller.agent.metrics import PATH as METRICS_PATH
from controller.agent.metrics import MetricsPage, Parts, Tally
from controller.agent.metrics_reach import Reach, WatchedAddresses, WatchedRoutes
from controller.agent.metrics_store import TimedStore
from controller.agent.page import status_pages
from controller.agent.page_watch import Watch
from controller.agent.publishing import EndpointPublisher
from controller.agent.registration import Registration
from controller.agent.report import Known
from controller.agent.route_sync import RouteSync
from controller.agent.routing import Routing
from controller.agent.status import Observed, hindrances, lasting_obstacle, status_of
from controller.agent.way_out import WayOut
from controller.agent.web import for_nodes_only
from controller.assignment.assigner import Assigner
from controller.cni.backend import WorkloadBackend
from controller.datamodel import keys
from controller.docker.firewall import Firewall
from controller.docker.plugin import DockerPlugin
from controller.errors import MalformedRecord
from controller.kernel.connections import KernelConnections
from controller.kernel.forward_filters import open_forwarding
from controller.kernel.links import KernelLinks
from controller.kernel.monitor import KernelChange, KernelMonitor
from controller.kernel.neighbours import KernelEndpoints
from controller.kernel.nftables import NftablesTable
from controller.kernel.routes import KernelFib
from controller.kernel.wiring_process import WiringProcess
from controller.reconcile.links import WorkloadLinks
from controller.reconcile.programmer import RouteProgrammer
from controller.speaker.client import SidecarSpeaker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from controller.agent.api import Status
    from controller.agent.metrics_instruments import Instruments
    from controller.agent.web import Page
    from controller.datamodel.records import Node
    from controller.kernel.lent_links import LentLinks
    from controller.ports import Store
    from controller.settings import Settings
    from ipam.pool import Pool

#: The name of our table of the packet filter.
_FILTER_TABLE: Final = "tortie"


class Composition:
    """The parts of one host's agent.

    `store_reason` says why the store is not reached, None while it is, and `store_lost_at` since when; those and
    `mtu_bytes`, the MTU of new links, are kept up by whoever runs the parts. `hinted` hears of changes of the kernel.
    """

    def __init__(
        self,
        settings: Settings,
        node: Node,
        store: Store,
        instruments: Instruments,
        hinted: Callable[[KernelChange], None],
    ) -> None:
        self.settings = settings
        self._version = version("tortie")  # from a file
        self.node = node
        self.store = store
        self.store_reason: str | None = "not reached yet"
        self.store_lost_at: float | None = time.time()
        self.complaints = Complaints()
        self.mtu_bytes = settings.mtu_bytes
        self.registration = Registration(store, node, self.complaints)
        self.instruments = instruments
        self.tally = Tally()
        self.assigner = Assigner(
            TimedStore(store, instruments.transaction_ended), node.name, time.time, labels=node.labels
        )
        self._fib = KernelFib()
        self._kernel_links = KernelLinks()
        self._wiring = WiringProcess()
        self.links = WorkloadLinks(self._kernel_links, self._wiring)
        self._endpoints = KernelEndpoints()
        self._connections = KernelConnections()
        self.programmer = RouteProgrammer(self._fib, connections=self._connections)
        self.route_sync = RouteSync(self.programmer.in_sync, lambda: self.programmer.failures)
        self.speaker = SidecarSpeaker(settings.bgp_socket)
        self.routing = Routing(
            node=node,
            times=SessionTimes(settings.hold_time_seconds, settings.restart_time_seconds),
            assigner=self.assigner,
            links=self.links,
            programmer=self.programmer,
            speaker=self.speaker,
        )
        self._reach = Reach(
            instruments.reachable_seconds.observe,
            announced=lambda: self.speaker.announced,
            decision=lambda: self.routing.decision,
        )
        self.workloads = WorkloadBackend(
            addresses=WatchedAddresses(self.assigner, self._reach),
            links=self.links,
            routes=WatchedRoutes(self.programmer, self._reach),
            default_mtu_bytes=lambda: self.mtu_bytes,
            obstacle=lambda: lasting_obstacle(self.observed()),
            outage=lambda: self.store_reason is not None,
            limitation=self.route_sync.limitation,
        )
        self.collector = Collector(
            node=node,
            addresses=self.assigner,
            read=self._endpoints.read,
            alone=self.workloads.alone,
            clock=present_moment,
            complaints=self.complaints,
        )
        self.publisher = EndpointPublisher(
            node=node.name, store=store, read=self._endpoints.read, clock=time.time, complaints=self.complaints
        )
        self.way_out = WayOut(
            table=NftablesTable(_FILTER_TABLE), open_forwarding=open_forwarding, complaints=self.complaints
        )
        self.assigner.on_change(self.routing.workloads_changed)
        self.links.on_change(self.routing.workloads_changed)
        self.links.on_change(self.publisher.mark)
        self.speaker.on_announced(self._reach.examine)
        # A link that others took away is seen only now and then; once its addresses are free, a check must know.
        self.collector.on_collected(self.publisher.mark)
        self.monitor = KernelMonitor(self._fib.port_id, hinted, self.programmer.routes_changed, self.links.learn_gone)
        self._report = report.report_page(self.known)
        self._health = Health(lambda: hindrances(self.observed()))
        self._metrics = MetricsPage(
            Parts(
                self.observed,
                self.assigner,
                self.collector,
                self.programmer,
                self.routing,
                self.speaker,
                self._reach,
                self.tally,
                instruments,
            )
        )
        pages = {report.PATH: self._report, METRICS_PATH: self._metrics.answer}
        self.api = ApiServer(settings.agent_socket, self.status, pages)
        self.watch = Watch(settings, node, self.status, lambda: self.routing.cluster, store)

    def observed(self) -> Observed:
        """Return what the parts know at this moment."""
        cluster = self.routing.cluster or Cluster()
        return Observed(
            node=self.node,
            version=self._version,
            peer_names={
                **{peer.address: name for name, peer in cluster.peers.items()},
                **{address: node.name for node in cluster.nodes.values() for address in node.addresses},
            },
            store_kind=self.settings.store,
            store_reason=self.store_reason,
            complaints=self.complaints.sentences,
            speaker_reason=self.routing.speaker_lost,
            peers=self.routing.peering.peers,
            peer_problems=self.routing.peering.problems,
            sessions={session.peer: session for session in self.speaker.sessions},
            decision=self.routing.decision,
            routes_in_sync=self.programmer.in_sync.is_set(),
            route_failures=self.programmer.failures,
            foreign_routes=self.programmer.foreign,
            missing_addresses=self.routing.missing_addresses(),
            holders=self.assigner.holders(),
            pool_count=len(cluster.pools),
            malformed={**cluster.malformed, **self._unreadable_blocks()},
            unread=cluster.unread,
            leaves_speaker=self.routing.leaves_speaker,
        )

    def known(self) -> Known:
        """Return what a report of this node rests on, besides the kernel."""
        return Known(
            taken_at=time.time(),
            observed=self.observed(),
            store_lost_at=self.store_lost_at,
            blocks=self.assigner.blocks(),
            pools=tuple(pool.cidr for pool in self.pools() or ()),
            learned=self.routing.learned(),
            refused=self.routing.refused(),
        )

    def _unreadable_blocks(self) -> dict[str, str]:
        """Return the key of each block of this node whose record cannot be read, with the reason."""
        unreadable = map(keys.block, self.assigner.unreadable_blocks())
        return {key: str(MalformedRecord(key, "the log tells why")) for key in unreadable}

    def pools(self) -> tuple[Pool, ...] | None:
        """Return the pools, None before they are known."""
        cluster = self.routing.cluster
        return None if cluster is None else tuple(pool for pool, _ in cluster.pools.values())

    def pages_for_machines(self) -> dict[str, Page]:
        """Return what Prometheus, probes and the other nodes read."""
        return {
            **self._health.pages,
            METRICS_PATH: self._metrics.answer,
            report.PATH: for_nodes_only(self._report, self.routing.is_node),
            summary.PATH: for_nodes_only(summary.summary_page(self.status), self.routing.is_node),
        }

    def pages_for_people(self) -> dict[str, Page]:
        """Return what a browser reads."""
        return status_pages(self.watch)

    def docker_plugin(self, path: Path, lending: LentLinks) -> DockerPlugin:
        """Return the plugin that serves dockerd on a socket; `lending` is the caller's to close."""
        return DockerPlugin(
            socket_path=path,
            state_path=self.settings.docker_state_path,
            addresses=self.assigner,
            pools=self.pools,
            links=self.links,
            lending=lending,
            routes=self.programmer,
            packet_filter=Firewall(),
            alone=self.workloads.alone,
            default_mtu_bytes=lambda: self.mtu_bytes,
        )

    def status(self) -> Status:
        """Return what `tortiectl node status` shows."""
        return status_of(self.observed())

    async def close(self) -> None:
        """Close every connection and descriptor; what the kernel and the speaker have stays."""
        self.monitor.close()
        await self.api.stop()
        await self.assigner.close()
        await self.speaker.close()
        await self.store.close()
        self._wiring.close()
        self.links.close()
        self.programmer.close()
        self._kernel_links.close()
        self._endpoints.close()
        self._connections.close()
        self._fib.close()

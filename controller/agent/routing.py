"""The one place that decides: whatever changes, the whole desired state is computed anew and handed on.

It owns the Adj-RIB-In and what is known of the cluster; others feed it and read what it decided.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from bgp.events import SessionUp, SpeakerLost, SpeakerSnapshot
from bgp.peering import Peering
from bgp.rib import AdjRibIn
from controller.agent.decision import DrainPhase, Knowledge, decide, peers_of
from controller.agent.refusals import Refusals
from controller.agent.selection import Selection
from controller.agent.workloads import HeldBlocks

if TYPE_CHECKING:
    from bgp.events import SpeakerEvent
    from bgp.peering import SessionTimes
    from bgp.policy import Rejection
    from bgp.route import LearnedRoute
    from controller.agent.cluster import Cluster
    from controller.agent.decision import Decision
    from controller.assignment.assigner import Assigner
    from controller.datamodel.records import Node
    from controller.ports import InterfaceAddress, Speaker
    from controller.reconcile.links import WorkloadLinks
    from controller.reconcile.programmer import RouteProgrammer
    from ipam.address import IPAddress, IPNetwork

log = logging.getLogger(__name__)

#: A decision is followed by a rest as long as it worked, within these bounds, for nothing else runs meanwhile: updates
#: and workloads that come in a flood cost half of one CPU at most, and are decided on together.
_SHORTEST_REST_SECONDS = 0.001
_LONGEST_REST_SECONDS = 1.0
#: How long workloads that came or went wait for others, to be decided on together: nobody waits for that decision.
_GATHERING_SECONDS = 0.05


class Routing:
    """Turns what is known into desired routes, peers and announcements, as often as something changes.

    Nothing is handed on before the store's snapshot is known (`learn_cluster`), so that an agent without a store leaves
    routes and sessions as it found them.
    """

    def __init__(
        self,
        *,
        node: Node,
        times: SessionTimes,
        assigner: Assigner,
        links: WorkloadLinks,
        programmer: RouteProgrammer,
        speaker: Speaker,
    ) -> None:
        self._node = node
        self._times = times
        self._assigner = assigner
        self._links = links
        self._programmer = programmer
        self._speaker = speaker
        self._rib = AdjRibIn()
        self._interfaces: tuple[InterfaceAddress, ...] = ()
        self._dirty = asyncio.Event()
        self._gathering: asyncio.TimerHandle | None = None
        self._holdings: object = None
        self._refusals = Refusals()
        self._selection = Selection()
        self._held_blocks = HeldBlocks(node.name)
        self.cluster: Cluster | None = None
        self.peering = Peering(())
        self.decision: Decision | None = None
        self.speaker_lost: str | None = "not connected yet"
        # The peers that had a session when the speaker was first heard, or came up since; None before that.
        self._speaking: frozenset[IPAddress] | None = None
        self._has_told_speaker = False

    @property
    def leaves_speaker(self) -> bool:
        """Whether the speaker goes on as it was before the agent started, because records cannot be read."""
        return self.decision is not None and self.decision.leaves_speaker and not self._has_told_speaker

    def mark(self) -> None:
        """Take note that something a decision rests on has changed."""
        self._dirty.set()

    def workloads_changed(self) -> None:
        """Take note that workloads came or went; what is to be announced because of it is decided on at once.

        Their own routes do not wait for a decision: one came with `RouteProgrammer.program`, or went with its link.
        """
        if self._announced_blocks() != self._holdings:
            self.mark()
        elif self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHERING_SECONDS, self.mark)

    def learn_cluster(self, cluster: Cluster) -> None:
        """Take in the cluster as of now."""
        self.cluster = cluster
        self.peering = peers_of(self._node, cluster, self._times)
        self._rib.configure(self.peering.peers, time.monotonic())
        self.mark()

    def learn_interfaces(self, interfaces: tuple[InterfaceAddress, ...]) -> None:
        """Take in the addresses of the host's interfaces as of now."""
        if interfaces != self._interfaces:
            self._interfaces = interfaces
            self.mark()

    def missing_addresses(self) -> tuple[IPAddress, ...]:
        """Return those addresses of this node that no interface has any more."""
        present = {interface.address for interface in self._interfaces}
        return tuple(address for address in self._node.addresses if address not in present)

    def learned(self) -> dict[IPNetwork, tuple[LearnedRoute, ...]]:
        """Return every route of every configured peer, by prefix."""
        return self._rib.routes()

    def learned_counts(self) -> dict[IPAddress, int]:
        """Return how many prefixes each configured peer announces."""
        return self._rib.route_counts()

    def stale_count(self) -> int:
        """Return how many routes are kept although their session ended."""
        return self._rib.stale_count()

    def refused(self) -> tuple[tuple[IPNetwork, IPAddress, Rejection], ...]:
        """Return each prefix with each peer whose route for it was refused at the last decision, and why."""
        return tuple(self._selection.refused())

    def is_node(self, address: IPAddress) -> bool:
        """Tell whether the address is one of the cluster's nodes', this one included."""
        nodes = () if self.cluster is None else self.cluster.nodes.values()
        return any(address in node.addresses for node in (self._node, *nodes))

    def learn_event(self, event: SpeakerEvent) -> None:
        """Take in one event of the speaker."""
        if isinstance(event, SpeakerLost):
            log.warning("bgp sidecar is gone; learned routes stay", extra={"reason": event.reason})
            self.speaker_lost = event.reason
        else:
            self.speaker_lost = None
        if isinstance(event, SpeakerSnapshot):
            self._speaking = event.established | (self._speaking or frozenset())
        elif isinstance(event, SessionUp):
            self._speaking = (self._speaking or frozenset()) | {event.peer}
        self._rib.feed(event, time.monotonic())
        self.mark()

    async def run(self) -> None:
        """Decide whenever something changed or a route's time as stale is over, until cancelled."""
        while True:
            await self._until_due()
            self._dirty.clear()
            started = time.thread_time()
            await self.iterate()
            worked_seconds = time.thread_time() - started
            await asyncio.sleep(min(max(worked_seconds, _SHORTEST_REST_SECONDS), _LONGEST_REST_SECONDS))

    async def iterate(self) -> None:
        """Decide once, on what is known now."""
        self._rib.expire(time.monotonic())
        if self.cluster is None:
            return
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._holdings = self._announced_blocks()
        self.decision = decide(self._known(self.cluster), self._selection)
        self._refusals.tell(self.decision.rejected, time.monotonic())
        # No await between reading and setting: an address wired in between would lose its route again.
        self._programmer.set(self.decision.routes)
        if not self.leaves_speaker:
            self._has_told_speaker = True
            await self._speaker.set(self.peering.peers, self.decision.announcements)

    def _announced_blocks(self) -> object:
        """Return what differs when something else is to be announced: own blocks, and the state of borrowed ones."""
        own = self._own_blocks()
        return own, {block.cidr: block.sequence for block in self._assigner.blocks() if block.cidr not in own}

    def _known(self, cluster: Cluster) -> Knowledge:
        return Knowledge(
            node=self._node,
            cluster=cluster,
            peers=self.peering.peers,
            counts_by_peer=self._rib.speaker_counts(),
            own_blocks=self._own_blocks(),
            workloads=self._held_blocks.workloads(self._assigner.blocks(), self._links.index_of),
            interfaces=self._interfaces,
            learned=self._rib.routes(),
            settled=self._rib.settled(time.monotonic()),
            drain=self._drain_phase(),
            unread=tuple(self._assigner.unread_blocks()),
            speaking=self._speaking,
            rejected=self._rib.rejected(),
            touched=self._rib.take_touched(),
        )

    def _own_blocks(self) -> tuple[IPNetwork, ...]:
        """Return the blocks of this node, also those of which no more can be read."""
        unread = (cidr for cidr, owned in self._assigner.unread_blocks().items() if owned)
        return (*(block.cidr for block in self._assigner.own_blocks()), *unread)

    def _drain_phase(self) -> DrainPhase:
        remaining = self._drain_remaining_seconds()
        if remaining is None:
            return DrainPhase.NONE
        return DrainPhase.ASKING if remaining > 0 else DrainPhase.WITHDRAWN

    def _drain_remaining_seconds(self) -> float | None:
        """Return for how long the node goes on announcing although it is drained; None if it is not."""
        drain = None if self.cluster is None else self.cluster.drains.get(self._node.name)
        return None if drain is None else drain.since + drain.grace_seconds - time.time()

    async def _until_due(self) -> None:
        expiry = self._rib.next_expiry()
        remaining = self._drain_remaining_seconds()
        waits = [] if expiry is None else [expiry - time.monotonic()]
        if remaining is not None and remaining > 0:
            waits.append(remaining)
        try:
            async with asyncio.timeout(max(0.0, min(waits)) if waits else None):
                await self._dirty.wait()
        except TimeoutError:
            return

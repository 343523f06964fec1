"""Gives back what this node does not need: addresses whose workload is gone, and empty blocks.

What to give back is decided in `controller.assignment.collection`; here it is looked for now and then, and given back
with everything read anew while no call for the same link is under way.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, Protocol

from controller.assignment.collection import EmptyBlock, HandleAddresses, Moment, held_by_handle, leaked, unneeded
from controller.errors import TortieError
from ipam.request import ReleaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from controller.agent.cluster import Cluster
    from controller.agent.complaints import Complaints
    from controller.assignment.collection import Finding
    from controller.datamodel.records import Node
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block

log = logging.getLogger(__name__)

#: How often is looked, in seconds; as often as the grace period where that is shorter.
_LOOK_SECONDS: Final = 60.0
#: The shortest pause between two looks, in seconds.
_SHORTEST_SECONDS: Final = 1.0
_UNCOLLECTED: Final = "what this node does not need could not be given back yet"


class OwnAddresses(Protocol):
    """What the node holds and owns, as the assigner keeps it."""

    def blocks(self) -> tuple[Block, ...]:
        """Return every block that the node owns or holds addresses of."""
        ...

    def own_blocks(self) -> tuple[Block, ...]:
        """Return the blocks the node owns, oldest claim first."""
        ...

    async def release_addresses(self, requests: Sequence[ReleaseRequest]) -> tuple[IPAddress, ...]:
        """Free those of the addresses that are still held as the requests say, all at once, and return them."""
        ...

    async def return_blocks(self, cidrs: Collection[IPNetwork]) -> None:
        """Give up those of the blocks that are empty when it is done."""
        ...


def present_moment() -> Moment:
    """Return the present."""
    return Moment(epoch=time.time(), monotonic=time.monotonic())


class Collector:
    """Collects for one node, once it knows the cluster's rules.

    `read` returns the addresses of every workload link by its name, from the kernel, and may take its time; `alone`
    holds back every call for a link, by its name, while its context lasts.
    """

    def __init__(
        self,
        *,
        node: Node,
        addresses: OwnAddresses,
        read: Callable[[], Mapping[str, tuple[IPAddress, ...]]],
        alone: Callable[[str], AbstractAsyncContextManager[None]],
        clock: Callable[[], Moment],
        complaints: Complaints,
    ) -> None:
        self._node = node
        self._addresses = addresses
        self._read = read
        self._alone = alone
        self._clock = clock
        self._complaints = complaints
        self._callbacks: list[Callable[[], None]] = []
        self._woken = asyncio.Event()
        self._cluster: Cluster | None = None
        self._missing_since: Mapping[HandleAddresses, float] = {}
        self._empty_since: Mapping[EmptyBlock, float] = {}
        #: How many addresses and blocks were given back so far.
        self.collected_count = 0
        self.returned_count = 0

    @property
    def leak_candidate_count(self) -> int:
        """How many addresses had no link at the last look, for however short a time."""
        return sum(len(handle.held) for handle in self._missing_since)

    def on_collected(self, callback: Callable[[], None]) -> None:
        """Call this whenever the addresses of a workload that is gone were released."""
        self._callbacks.append(callback)

    def learn_cluster(self, cluster: Cluster) -> None:
        """Take in the pools and rules as of now."""
        changed = self._cluster is None or self._cluster.rules != cluster.rules
        self._cluster = cluster
        recorded = cluster.nodes.get(self._node.name)
        if recorded is not None and recorded.addresses != self._node.addresses:
            # Another host goes by this name: what has no link here may well have one there.
            self._missing_since = {}
        if changed:
            self._woken.set()

    async def run(self) -> None:
        """Look and give back, until cancelled; the assigner must have started."""
        while True:
            self._woken.clear()
            due_at = None
            try:
                due_at = await self.iterate()
                self._complaints.settle(_UNCOLLECTED)
            except TortieError as error:
                self._complaints.tell(_UNCOLLECTED, error)
            try:
                async with asyncio.timeout(self._pause_seconds(due_at)):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def iterate(self) -> float | None:
        """Look once, give back what is due, and return the monotonic time at which the next thing comes due, if known.

        Raises what reading the kernel and the assigner raise; what is due then still is the next time.
        """
        if self._cluster is None:
            return None
        wired = await asyncio.to_thread(self._read)
        missing = self._leaked(held_by_handle(self._addresses.blocks(), self._node.name), wired)
        self._missing_since = missing.since
        for leak in missing.due:
            await self._collect(leak)
        # Only now: collecting empties blocks.
        empty = self._unneeded(self._cluster)
        self._empty_since = empty.since
        for block in empty.due:
            # Meanwhile the block that was to be kept may have been used, and this one is to be kept.
            if block in self._unneeded(self._cluster).due:
                await self._give_back(block)
        return min((at for at in (missing.due_at, empty.due_at) if at is not None), default=None)

    async def _collect(self, leak: HandleAddresses) -> None:
        """Release the addresses of a handle if its workload is still gone, with every call for its links held back."""
        async with AsyncExitStack() as turns:
            for link in leak.links:
                await turns.enter_async_context(self._alone(link))
            wired = await asyncio.to_thread(self._read)
            # The same handle, addresses and sequences: nothing was assigned meanwhile.
            held = held_by_handle(self._addresses.blocks(), self._node.name)
            finding = self._leaked([handle for handle in held if handle == leak], wired)
            if not finding.due:
                return
            released = await self._addresses.release_addresses(
                [ReleaseRequest(each.address, leak.handle, each.sequence) for each in leak.held]
            )
        if released:
            self.collected_count += len(released)
            log.info("assignment collected: its link is gone", extra=self._fields(leak, released, finding.since[leak]))
            for callback in self._callbacks:
                callback()

    async def _give_back(self, block: EmptyBlock) -> None:
        """Return a block, and say so when it is done."""
        await self._addresses.return_blocks([block.cidr])
        if all(own.cidr != block.cidr for own in self._addresses.own_blocks()):
            self.returned_count += 1
            empty_seconds = round(self._clock().monotonic - self._empty_since[block])
            log.info(
                "empty block returned",
                extra={"block": str(block.cidr), "node": self._node.name, "empty_seconds": empty_seconds},
            )

    def _leaked(
        self, held: Iterable[HandleAddresses], wired: Mapping[str, tuple[IPAddress, ...]]
    ) -> Finding[HandleAddresses]:
        return leaked(held, wired, self._missing_since, now=self._clock(), grace_seconds=self._grace_seconds())

    def _unneeded(self, cluster: Cluster) -> Finding[EmptyBlock]:
        return unneeded(
            self._addresses.own_blocks(),
            [pool for pool, _ in cluster.pools.values()],
            self._node.labels,
            self._empty_since,
            now=self._clock(),
            grace_seconds=self._grace_seconds(),
            claims=cluster.configuration.auto_allocate_blocks,
        )

    def _grace_seconds(self) -> float:
        return 0.0 if self._cluster is None else self._cluster.configuration.grace_seconds

    def _pause_seconds(self, due_at: float | None) -> float:
        """Return how long to wait before the next look, unless woken."""
        longest = _LOOK_SECONDS if self._cluster is None else min(_LOOK_SECONDS, self._grace_seconds())
        pause = longest * random.uniform(0.9, 1.1)  # noqa: S311  jitter
        if due_at is not None:
            pause = min(pause, due_at - self._clock().monotonic)
        return max(pause, _SHORTEST_SECONDS)

    def _fields(self, leak: HandleAddresses, released: Iterable[IPAddress], since: float) -> dict[str, object]:
        holder = leak.held[0].holder
        return {
            "handle": leak.handle,
            "workload": holder.workload,
            "namespace": holder.namespace,
            "node": self._node.name,
            "links": list(leak.links),
            "addresses": [str(address) for address in released],
            "created_at": leak.created_at,
            "missing_seconds": round(self._clock().monotonic - since),
            "grace_seconds": self._grace_seconds(),
        }

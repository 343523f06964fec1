"""Assign and release for one node, as many requests in one transaction as wait at that moment.

One task owns what the node knows and is the only one to commit. The node is the only usual writer of its own blocks,
so it keeps them in memory with their versions and usually needs one round trip for everybody who waits. What it does
not know it finds out by failing: a conflict re-reads the keys it met, a second one lists which blocks exist. A refusal
is final only on knowledge read after the request came; until then it keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from controller.assignment.draft import Draft, Planner, draft
from controller.assignment.fencing import FencedStore
from controller.assignment.knowledge import Knowledge, read_all, read_blocks, read_keys, read_share, read_summaries
from controller.assignment.news import News
from controller.assignment.waiting import Counters, Queue, answer, fail
from controller.datamodel import keys
from controller.errors import ConflictError, RefusedError, StoreUnavailable, TortieError, TransientError
from ipam.plan import Plan, plan_assign, plan_release, plan_release_addresses, plan_return
from ipam.request import Assignment, AssignRequest
from ipam.take_over import plan_take_over
from ipam.view import View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from controller.assignment.knowledge import Rules
    from controller.assignment.waiting import Waiting
    from controller.ports import Changes, Snapshot, Store, Version
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block, Holder
    from ipam.errors import MoreNeeded
    from ipam.request import ReleaseRequest

log = logging.getLogger(__name__)

#: How many transactions of one request may meet a conflict before it is given up.
MAX_CONFLICTS: Final = 20
#: How often blocks of other nodes are read for one request before it is given up.
MAX_READINGS: Final = 50
#: The longest pause between two tries, in seconds; it doubles from the shortest and is drawn at random below that.
_LONGEST_PAUSE_SECONDS: Final = 0.2
_SHORTEST_PAUSE_SECONDS: Final = 0.002
#: How long after a failed reading of the own share it is tried again, in seconds, when nobody asks before.
_REREAD_SECONDS: Final = 1.0


class Assigner:
    """Assigns and releases addresses for the workloads of one node. `clock` gives seconds since the epoch."""

    def __init__(
        self, store: Store, node: str, clock: Callable[[], float], *, labels: Mapping[str, str] | None = None
    ) -> None:
        self._store = FencedStore(store, keys.fence(node))
        self._clock = clock
        self._knowledge = Knowledge(View(node, labels=labels or {}))
        self._unsure = True
        self._failing = False
        self._queue = Queue()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._counters = Counters()
        # The keys of the transactions that met a conflict since the last that did not.
        self._contested: set[str] = set()
        self._reread: asyncio.TimerHandle | None = None
        self._news = News()  # only the task changes the knowledge

    async def start(self) -> None:
        """Read the node's own share and begin to serve; raises what `Store.list` raises and may be tried again then."""
        await self._adopt_reading(read_share)
        self._task = asyncio.create_task(self._work(), name="assigner")

    async def close(self) -> None:
        """Stop serving; who still waits gets a `TransientError`. A commit under way may or may not be applied."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._reread is not None:
            self._reread.cancel()
        fail(self._queue.all(), TransientError("address assignment was stopped; try again when the agent is back"))

    async def assign(self, request: AssignRequest) -> Assignment:
        """Return the addresses that the request's handle holds, all committed; raises `Refused` and `TortieError`.

        Asked again under the same handle it returns the same addresses. Cancelled or failed with a `TransientError`,
        the handle holds all of them or none; `release` frees them either way.
        """

        def planner(view: View, now: float) -> Plan:
            return plan_assign(view, request, now=now)

        return Assignment(request.handle, await self._submit(planner))

    async def probe(self, request: AssignRequest) -> None:
        """Raise what `assign` would raise at present; nothing is assigned."""

        def planner(view: View, now: float) -> Plan:
            plan_assign(view, request, now=now)
            return Plan(())

        await self._submit(planner)

    async def take_over(self, request: AssignRequest, lender: str) -> Assignment:
        """As `assign`, but the addresses asked for are had too from handles of this node that begin with `lender`."""

        def planner(view: View, now: float) -> Plan:
            return plan_take_over(view, request, lender, now=now)

        return Assignment(request.handle, await self._submit(planner))

    async def release(self, handle: str) -> tuple[IPAddress, ...]:
        """Free every address of the handle on this node and return them; one that holds none is no error."""

        def planner(view: View, now: float) -> Plan:
            return plan_release(view, handle, now=now)

        return await self._submit(planner)

    async def release_addresses(self, requests: Sequence[ReleaseRequest]) -> tuple[IPAddress, ...]:
        """Free those of the addresses that are still held as the requests say, all at once, and return them."""

        def planner(view: View, now: float) -> Plan:
            return plan_release_addresses(view, requests, now=now)

        return await self._submit(planner)

    async def return_blocks(self, cidrs: Collection[IPNetwork]) -> None:
        """Give up those of the node's own blocks that are empty when it is done."""

        def planner(view: View, now: float) -> Plan:
            return plan_return(view, cidrs, now=now)

        await self._submit(planner)

    def holders(self) -> Mapping[IPAddress, Holder]:
        """Return the holder of every address that workloads of this node hold, in its own blocks and in others."""
        view = self._knowledge.used
        return {
            address: holder
            for block in view.block_by_cidr.values()
            for address, holder in block.assignments()
            if holder.node == view.node
        }

    def blocks(self) -> tuple[Block, ...]:
        """Return every block that this node owns or holds addresses of."""
        view = self._knowledge.used
        return tuple(block for block in view.block_by_cidr.values() if view.concerns(block))

    def own_blocks(self) -> tuple[Block, ...]:
        """Return the blocks this node owns, oldest claim first."""
        return tuple(self._knowledge.used.own_blocks())

    def unread_blocks(self) -> Mapping[IPNetwork, bool]:
        """Return the blocks of this node of which nothing could be read yet, and of each whether this node owns it."""
        return self._knowledge.unread

    def unreadable_blocks(self) -> tuple[IPNetwork, ...]:
        """Return every block of this node whose record cannot be read now, whether or not it could be before."""
        return (*self._knowledge.former, *self._knowledge.unread)

    @property
    def counters(self) -> Counters:
        """What has been done so far."""
        return self._counters

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this whenever what is known of this node's blocks has changed, before the requester is answered."""
        self._callbacks.append(callback)

    def set_rules(self, rules: Rules) -> None:
        """Make these all the rules there are."""
        self._news.set_rules(rules)

    def observe_share(self, event: Snapshot | Changes) -> None:
        """Take in what the watch of the node's share delivered; the blocks of which it tells news are read again."""
        self._news.observe_share(event, self._knowledge.share_keys())
        self._wake.set()

    async def _submit(self, planner: Planner) -> tuple[IPAddress, ...]:
        if self._task is None or self._task.done():
            raise TransientError("address assignment is not running; try again when the agent is ready")
        waiting = self._queue.add(planner)
        self._wake.set()
        return await waiting.future

    async def _work(self) -> None:
        """Serve for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._serve_once():
                pass

    async def _serve_once(self) -> bool:
        """Move those who wait one transaction, or one reading of the store, further; return whether anyone waits still.

        On any failure all of them get the error.
        """
        # Who comes while the store is asked belongs to the next batch.
        batch = self._queue.all()
        try:
            self._knowledge, outdated = self._news.take(self._knowledge)
            if self._unsure:
                await self._adopt_reading(read_share)
            elif cidrs := {*outdated, *self._knowledge.former, *self._knowledge.unread}:
                # What could not be read is mended without a word of the share.
                await self._adopt_reading(partial(read_blocks, cidrs=cidrs))
            await self._serve(batch)
        except TortieError as error:
            fail(batch, error)
            self._read_later(error)
        except Exception as error:
            # The outermost guard: a defect must not leave everybody on the node waiting for ever.
            log.exception("address assignment failed")
            fail(batch, error)
            self._read_later(error)
        return bool(self._queue.all())

    async def _serve(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        drafted = draft(self._knowledge, [waiting.planner for waiting in batch], self._clock())
        if drafted.missing is not None and not drafted.outcomes:
            await self._read_more(batch[0], drafted.missing)
            return
        planned = batch[: len(drafted.outcomes)]
        try:
            versions = await self._store.commit(drafted.operations) if drafted.operations else {}
        except ConflictError as conflict:
            await self._meet_conflict(drafted, planned, conflict)
        except StoreUnavailable as outage:
            # Whether it was applied shows when the share is read again; then they are planned again, once.
            self._read_later(outage)
            fail([waiting for waiting in planned if waiting.outage_count], outage)
            for waiting in planned:
                waiting.outage_count += 1
            self._count_retries(planned)
        except RefusedError as refusal:
            # Several requests never make a transaction too large: it is one whose records no store takes.
            fail(planned, refusal)
        else:
            self._accept(drafted, planned, versions)
            if any(waiting.waits for waiting in planned):
                await self._adopt_reading(read_all)
                for waiting in batch:
                    waiting.confirmed = True

    async def _read_more(self, waiting: Waiting, missing: MoreNeeded) -> None:
        """Read what a decision needs to know of other nodes' blocks; give it up when that does not come to an end."""
        waiting.reading_count += 1
        if waiting.reading_count > MAX_READINGS:
            reason = f"after {MAX_READINGS} readings it is still not decided; last missing: {missing}; try again"
            fail([waiting], TransientError(f"node {self._knowledge.view.node}: {reason}"))
        elif missing.blocks:
            self._adopt(await read_blocks(self._store, self._knowledge, missing.blocks))
        else:
            self._adopt(await read_summaries(self._store, self._knowledge))

    def _accept(self, drafted: Draft, planned: list[Waiting], versions: Mapping[str, Version]) -> None:
        """Take in a committed transaction, then answer those it was for, but for refusals that may be out of date."""
        _log_owners(self._knowledge.view, drafted.writes)
        self._adopt(self._knowledge.committed(drafted.writes, versions))
        self._contested.clear()
        answer_count = answer(planned, drafted.outcomes)
        self._counters = replace(
            self._counters,
            transaction_count=self._counters.transaction_count + bool(drafted.operations),
            answer_count=self._counters.answer_count + answer_count,
        )

    async def _meet_conflict(self, drafted: Draft, planned: list[Waiting], conflict: ConflictError) -> None:
        """Give up those who met too many, pause, and learn what stood in the way."""
        for waiting in planned:
            waiting.conflict_count += 1
        tries = max(waiting.conflict_count for waiting in planned)
        self._counters = replace(self._counters, conflict_count=self._counters.conflict_count + 1)
        log.debug("assignment met a conflict", extra={"tries": tries, "keys": sorted(conflict.keys)})
        given_up = TransientError(
            f"node {self._knowledge.view.node}: {MAX_CONFLICTS} transactions in a row were overtaken by other writers, "
            f"each planned on a fresh reading; the last one failed because: {conflict}; try again"
        )
        fail([waiting for waiting in planned if waiting.conflict_count >= MAX_CONFLICTS], given_up)
        self._count_retries(planned)
        if tries > 1:
            longest = min(_SHORTEST_PAUSE_SECONDS * 2**tries, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  spreads retries, protects nothing
            await self._adopt_reading(read_all)
        # A block that the list of all does not tell of is known by the conflicts it caused, of which this is the last.
        self._contested |= {operation.key for operation in drafted.operations}
        await self._adopt_reading(partial(read_keys, wanted=self._contested))

    def _count_retries(self, planned: list[Waiting]) -> None:
        retry_count = self._counters.retry_count + sum(waiting.waits for waiting in planned)
        self._counters = replace(self._counters, retry_count=retry_count)

    async def _adopt_reading(self, read: Callable[[Store, Knowledge], Awaitable[Knowledge]]) -> None:
        self._adopt(await read(self._store, self._knowledge))
        self._unsure = self._failing = False

    def _read_later(self, error: Exception) -> None:
        """See to it that the own share is read again before the next plan, and soon even if nobody asks."""
        self._unsure = True
        if not self._failing:
            log.warning("own blocks stand as they were until the store answers", extra={"reason": str(error)})
        self._failing = True
        if self._reread is not None:
            self._reread.cancel()
        self._reread = asyncio.get_running_loop().call_later(_REREAD_SECONDS, self._wake.set)

    def _adopt(self, knowledge: Knowledge) -> None:
        """Make this what is known, and tell who listens if the node's blocks changed."""
        changed = _concerning(knowledge) != _concerning(self._knowledge)
        self._knowledge = knowledge
        if changed:
            for callback in self._callbacks:
                callback()


def _concerning(knowledge: Knowledge) -> tuple[dict[IPNetwork, Block], Mapping[IPNetwork, bool]]:
    view = knowledge.used
    return {cidr: block for cidr, block in view.block_by_cidr.items() if view.concerns(block)}, knowledge.unread


def _log_owners(view: View, writes: Mapping[IPNetwork, Block | None]) -> None:
    """Log which of the blocks that are written come to the view's node or leave it."""
    for cidr, block in writes.items():
        before = view.block_by_cidr.get(cidr)
        owner_before = None if before is None else before.affinity
        owner_after = None if block is None else block.affinity
        fields = {"block": str(cidr), "node": view.node}
        if owner_after == view.node != owner_before:
            log.info("block claimed", extra={**fields, "former_owner": owner_before})
        elif owner_before == view.node != owner_after:
            log.info("block given up", extra=fields)

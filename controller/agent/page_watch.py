"""What the status page shows, kept true for as long as somebody looks at it, and at no cost while nobody does.

Three things go on side by side: every node is asked, the blocks' summaries are read from the store, and whenever one of
them brings news the view is put together anew. In a large cluster each goes slower, so that none takes much of a CPU.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

from controller.agent.page_asking import NodeAsker
from controller.agent.page_changes import LogEntry, Tone, picture_changes, pool_changes
from controller.agent.page_picture import Asked, Picture, picture_of
from controller.agent.page_pools import pool_pictures
from controller.agent.summary import summary_of
from controller.datamodel import keys
from controller.datamodel.blocks import decode_usage
from controller.errors import MalformedRecord, TortieError
from controller.settings import ListenAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from controller.agent.api import Status
    from controller.agent.cluster import Cluster
    from controller.agent.page_pools import PoolPicture
    from controller.datamodel.records import Node
    from controller.ports import Entry, Store
    from controller.settings import Settings
    from ipam.pool import Pool
    from ipam.summary import BlockSummary

log = logging.getLogger(__name__)

#: The shortest time between two rounds of questions, in seconds, and how many are asked in one second at most.
_ROUND_SECONDS: Final = 0.5
_ASKED_PER_SECOND: Final = 100
#: How often this node looks at itself, in seconds.
_SELF_SECONDS: Final = 0.25
#: How often the blocks' summaries are read, in seconds.
_POOLS_SECONDS: Final = 3.0
#: Whatever takes time is followed by a rest this many times as long.
_RESTS: Final = 10
#: How long after the last look everything goes on, in seconds: a page that is loaded anew finds it as it was.
_LINGER_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 5.0
_LOG_LENGTH: Final = 100
#: Where the other nodes serve machines if this one does not.
_USUAL_LISTEN: Final = ListenAddress("", 9091)


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is shown, in sections of JSON; `number` is another one for every other view."""

    number: int
    sections: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Pools:
    """What is known of the pools; `reason` says why it could not be read anew since `read_at`, in epoch seconds."""

    pictures: tuple[PoolPicture, ...] = ()
    read_at: float = 0.0
    reason: str = ""
    malformed_count: int = 0


@dataclass(slots=True)
class _Known:
    """What was found out since somebody began to look."""

    asked: dict[str, Asked] = field(default_factory=dict)
    pools: _Pools = field(default_factory=_Pools)
    picture: Picture | None = None
    asked_at: float = field(default_factory=time.monotonic)
    asked_all: bool = False


class Watch:
    """Keeps the view of the cluster, as seen from the node `here`; `cluster` gives None until it is known.

    Run it, and enter `looking` for as long as somebody looks. All nodes are taken to serve machines at the same port.
    """

    def __init__(
        self,
        settings: Settings,
        here: Node,
        status: Callable[[], Status],
        cluster: Callable[[], Cluster | None],
        store: Store,
    ) -> None:
        self._port = (settings.http_listen or _USUAL_LISTEN).port
        self._here = here
        self._status = status
        self._cluster = cluster
        self._store = store
        self._looker_count = 0
        self._somebody = asyncio.Event()
        self._news = asyncio.Event()
        self._published = asyncio.Condition()
        self._log: deque[LogEntry] = deque(maxlen=_LOG_LENGTH)
        self._known = _Known()
        self.view = View(0, {})

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Count somebody who looks, for the length of the context."""
        self._looker_count += 1
        self._somebody.set()
        try:
            yield
        finally:
            self._looker_count -= 1

    @property
    def looker_count(self) -> int:
        """How many look at present."""
        return self._looker_count

    @property
    def quiet_seconds(self) -> float:
        """How long ago all nodes had been asked for the last time."""
        return time.monotonic() - self._known.asked_at

    async def after(self, number: int) -> View:
        """Return the view as soon as there is another than that of this number."""
        async with self._published:
            await self._published.wait_for(lambda: self.view.number != number)
            return self.view

    async def run(self) -> None:
        """Keep the view while somebody looks, until cancelled; a fault in here ends no container's network."""
        while True:
            await self._somebody.wait()
            try:
                await self._keep()
            except* Exception as errors:
                log.exception("the status page's view could not be kept; beginning anew", exc_info=errors)
                await asyncio.sleep(_RETRY_SECONDS)
            finally:
                self.view = View(0, {})

    async def _keep(self) -> None:
        self._known = _Known()
        self._log.append(LogEntry(time.time(), Tone.NEUTRAL.value, "began to look"))
        self._news.set()
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(each) for each in (self._keep_asking(), self._keep_reading(), self._compose())]
            await self._until_nobody_looks()
            for keeper in keepers:
                keeper.cancel()

    async def _until_nobody_looks(self) -> None:
        idle_seconds = 0.0
        while idle_seconds < _LINGER_SECONDS:
            await asyncio.sleep(_ROUND_SECONDS)
            idle_seconds = 0.0 if self._looker_count else idle_seconds + _ROUND_SECONDS
        self._somebody.clear()

    async def _keep_asking(self) -> None:
        """Ask all nodes, again and again."""
        async with NodeAsker(self._here, self._port, self._learn) as asker:
            while True:
                began = time.monotonic()
                nodes = [node for node in self._nodes() if node.name != self._here.name]
                await asker.ask(nodes)
                self._known.asked_at = time.monotonic()
                if not self._known.asked_all:
                    self._known.asked_all = True
                    self._news.set()
                await asyncio.sleep(max(0.0, round_seconds(len(nodes)) - (time.monotonic() - began)))

    def _learn(self, node: str, asked: Asked) -> None:
        if self._known.asked.get(node) != asked:
            self._known.asked[node] = asked
            self._news.set()

    async def _keep_reading(self) -> None:
        """Read the blocks' summaries, again and again; a store that is away leaves them as they were."""
        while True:
            began = time.monotonic()
            await self._read_pools()
            await asyncio.sleep(max(_POOLS_SECONDS, _RESTS * (time.monotonic() - began)))

    async def _read_pools(self) -> None:
        cluster, known = self._cluster(), self._known.pools
        if cluster is None:
            return
        try:
            entries = await self._store.list(keys.USAGE)
        except TortieError as error:
            if known.reason != str(error):
                self._known.pools = replace(known, reason=str(error))
                self._news.set()
            return
        pools = [pool for pool, _ in cluster.pools.values()]
        pictures, malformed = await asyncio.to_thread(_pictures, pools, entries)
        now = time.time()
        if known.read_at:
            self._log.extend(pool_changes(known.pictures, pictures, now))
        if (known.pictures, known.reason, known.malformed_count) != (pictures, "", malformed) or not known.read_at:
            self._news.set()
        self._known.pools = _Pools(pictures, now, "", malformed)

    async def _compose(self) -> None:
        """Put the view together whenever there is news, also of this node itself."""
        while True:
            await self._news_or_time()
            self._learn(self._here.name, Asked(summary_of(self._status())))
            if not self._news.is_set():
                continue
            self._news.clear()
            began, complete = time.monotonic(), self._known.asked_all
            cluster = self._cluster()
            names = {} if cluster is None else {str(peer.address): name for name, peer in cluster.peers.items()}
            nodes = self._nodes()
            # In a thread: what a thousand nodes say takes a while to compare, and containers wait for this loop.
            picture = await asyncio.to_thread(picture_of, nodes, dict(self._known.asked), self._here.name, names)
            self._note(picture, complete=complete)
            await self._publish(picture, len(nodes))
            await asyncio.sleep(_RESTS * (time.monotonic() - began))

    def _note(self, picture: Picture, *, complete: bool) -> None:
        """Write what changed into the log, once there is something to compare with: a whole round of answers."""
        if self._known.picture is not None:
            self._log.extend(picture_changes(self._known.picture, picture, time.time()))
        if complete:
            self._known.picture = picture

    async def _news_or_time(self) -> None:
        try:
            async with asyncio.timeout(_SELF_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return

    async def _publish(self, picture: Picture, node_count: int) -> None:
        about = {"here": self._here.name, "round_seconds": round_seconds(node_count)}
        sections = await asyncio.to_thread(_sections, about, picture, self._known.pools, tuple(self._log))
        async with self._published:
            self.view = View(self.view.number + 1, sections)
            self._published.notify_all()

    def _nodes(self) -> list[Node]:
        """Return every node of the cluster; this one also before it is registered."""
        cluster = self._cluster()
        nodes = {} if cluster is None else dict(cluster.nodes)
        return [*{self._here.name: self._here, **nodes}.values()]


def round_seconds(node_count: int) -> float:
    """Return how long a round of questions to so many nodes takes at least."""
    return max(_ROUND_SECONDS, node_count / _ASKED_PER_SECOND)


def _pictures(pools: list[Pool], entries: Mapping[str, Entry]) -> tuple[tuple[PoolPicture, ...], int]:
    """Return the pools and how many of the records do not decode."""
    summaries: list[BlockSummary] = []
    for key, entry in entries.items():
        try:
            summaries.append(decode_usage(key, entry.value))
        except MalformedRecord:
            continue
    return pool_pictures(pools, summaries), len(entries) - len(summaries)


def _sections(
    about: Mapping[str, object], picture: Picture, pools: _Pools, entries: tuple[LogEntry, ...]
) -> dict[str, str]:
    sections = {**asdict(picture), "about": about, "pools": asdict(pools), "log": [asdict(each) for each in entries]}
    return {name: json.dumps(section) for name, section in sections.items()}

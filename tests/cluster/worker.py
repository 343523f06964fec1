"""A process that stands for several agents under load: `python -m tests.cluster.worker`, one line of JSON as its input.

Each agent has its own store, its own `Assigner`, and the two watches that an agent feeds it from. The load ends when
standard input does; then every handle in doubt is released, and the process ends with 0 once that is answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import sys
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller import logs
from controller.agent.cluster import Cluster, fold
from controller.agent.registration import register
from controller.assignment.assigner import Assigner
from controller.datamodel import keys
from controller.datamodel.records import Node
from controller.errors import ConflictError, TortieError
from controller.ports import ABSENT, Delete, Interrupted, Put
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess
from controller.store.loss_guard import LossGuard
from tests.cluster.history import Commit, CommitOutcome, Recorder
from tests.cluster.load import Load

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from controller.ports import Entry, Operation, Store, Version, WatchEvent

#: How many requests of one agent are under way at once.
_CONCURRENT: Final = 3
#: Shorter than servers hold a request while they have no leader: what an agent gave up is then still under way.
_STORE_TIMEOUT_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.3
_SETTLE_SECONDS: Final = 45.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What one worker does: the agents it stands for, each with its server; CIDRs, a seed, and where its files go.

    The agents' clock showed `epoch` at the monotonic second `started` of the machine, and runs `speed` times as fast.
    """

    servers: dict[str, str]
    pools: tuple[str, ...]
    seed: int
    epoch: float
    started: float
    speed: float
    history: str

    def text(self) -> str:
        """Return the orders as a line."""
        return json.dumps(asdict(self)) + "\n"

    def now(self) -> float:
        """Return the time of the agents' clock, in seconds since the epoch."""
        return self.epoch + (time.monotonic() - self.started) * self.speed


class ToldStore:
    """A store that writes into the history what came of each transaction."""

    def __init__(self, store: Store, agent: str, recorder: Recorder) -> None:
        self._store = store
        self._agent = agent
        self._recorder = recorder

    async def get(self, wanted: Collection[str]) -> dict[str, Entry]:
        """Do as the store behind."""
        return await self._store.get(wanted)

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Do as the store behind."""
        return await self._store.list(prefix)

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Do as the store behind, and tell."""
        outcome = CommitOutcome.UNKNOWN
        try:
            versions = await self._store.commit(operations)
            outcome = CommitOutcome.DONE
        except ConflictError:
            outcome = CommitOutcome.CONFLICT
            raise
        finally:
            self._recorder.commit(self._told(operations, outcome))
        return versions

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Do as the store behind."""
        return self._store.watch(prefix)

    async def close(self) -> None:
        """Close the store behind."""
        await self._store.close()

    def _told(self, operations: Sequence[Operation], outcome: CommitOutcome) -> Commit:
        puts = {operation.key: operation.expected for operation in operations if isinstance(operation, Put)}
        deletions = {operation.key for operation in operations if isinstance(operation, Delete)}
        taken_away = {keys.cidr_of(key) for key in deletions if key.startswith(keys.SHARES) and "/own/" in key} & {
            keys.cidr_of(key) for key in puts if key.startswith(f"{keys.share(self._agent)}own/")
        }
        return Commit(
            agent=self._agent,
            at=time.monotonic(),
            outcome=outcome,
            claims=sum(key.startswith(keys.BLOCKS) and expected == ABSENT for key, expected in puts.items()),
            reclaims=len(taken_away),
            borrows=sum(key.startswith(f"{keys.share(self._agent)}held/") for key in puts),
            returns=sum(key.startswith(keys.BLOCKS) for key in deletions),
        )


class Agent:
    """One agent, as far as it assigns addresses."""

    def __init__(self, name: str, number: int, server: str, orders: Orders, recorder: Recorder) -> None:
        self._node = Node(name, 64512, ipaddress.IPv4Address("192.0.2.0") + number, None)
        consul = ConsulStore(ConsulAccess(address=server), timeout_seconds=_STORE_TIMEOUT_SECONDS)
        self._store = LossGuard(ToldStore(consul, name, recorder))
        self._assigner = Assigner(self._store, name, orders.now)
        chance = random.Random(f"{orders.seed} {name}")  # noqa: S311  a load, not a secret
        self._load = Load(name, self._assigner, recorder, chance, tuple(map(ipaddress.ip_network, orders.pools)))

    async def run(self, stopping: asyncio.Event) -> None:
        """Load the agent until told to stop, then settle."""
        try:
            await self._start()
            async with asyncio.TaskGroup() as watching:
                watches = [watching.create_task(self._watch_share()), watching.create_task(self._watch_cluster())]
                async with asyncio.TaskGroup() as loading:
                    for _ in range(_CONCURRENT):
                        loading.create_task(self._load.run(stopping))
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await self._load.settle()
                for watch in watches:
                    watch.cancel()
        finally:
            await self._assigner.close()
            await self._store.close()

    async def _start(self) -> None:
        while True:
            try:
                await register(self._store, self._node)
                await self._assigner.start()
            except TortieError:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _watch_share(self) -> None:
        async with aclosing(self._store.watch(keys.share(self._node.name))) as events:
            async for event in events:
                if not isinstance(event, Interrupted):
                    self._assigner.observe_share(event)

    async def _watch_cluster(self) -> None:
        cluster = Cluster()
        async with aclosing(self._store.watch(keys.CLUSTER)) as events:
            async for event in events:
                if not isinstance(event, Interrupted):
                    cluster = fold(cluster, event)
                    self._assigner.set_rules(cluster.rules)


async def work(orders: Orders, recorder: Recorder) -> None:
    """Run every agent of these orders until standard input ends and everything is settled."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(sys.stdin.fileno())
        stopping.set()

    loop.add_reader(sys.stdin.fileno(), stop)
    async with asyncio.TaskGroup() as agents:
        for number, (name, server) in enumerate(orders.servers.items(), 1):
            agents.create_task(Agent(name, number, server, orders, recorder).run(stopping))


def main() -> None:
    """Work as the first line of standard input orders."""
    logs.configure("warning")
    fields = json.loads(sys.stdin.readline())
    orders = Orders(**{**fields, "pools": tuple(fields["pools"])})
    with Path(orders.history).open("w", encoding="utf-8") as stream:
        asyncio.run(work(orders, Recorder(stream)))


if __name__ == "__main__":
    main()

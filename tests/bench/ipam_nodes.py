"""What the benchmarks of address assignment share: a Consul server, nodes that use it, and the requests they get."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

from controller.assignment.assigner import Assigner
from controller.assignment.knowledge import rules_of
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.ports import Put
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess
from ipam.pool import Pool
from ipam.request import AssignRequest
from tests.bench.counting_store import CountingStore
from tests.conftest import ConsulServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator

POOL: Final = Pool("bench", ipaddress.ip_network("10.0.0.0/8"), 26)


@dataclass(frozen=True, slots=True)
class BenchNode:
    """A node's store and its assigner, which serves."""

    store: CountingStore
    assigner: Assigner

    async def latencies(self, requests: list[AssignRequest]) -> list[float]:
        """Assign to one request after the other and release all; return the seconds of each assignment."""
        measured = []
        for request in requests:
            start = time.perf_counter()
            await self.assigner.assign(request)
            measured.append(time.perf_counter() - start)
        await self.release(requests)
        return measured

    async def release(self, requests: Iterable[AssignRequest]) -> None:
        """Free what these requests got."""
        await asyncio.gather(*(self.assigner.release(request.handle) for request in requests))

    async def close(self) -> None:
        """Stop serving and close the store."""
        await self.assigner.close()
        await self.store.close()


class Latency:
    """How long something takes that happens one at a time; `seconds` does it many times and says how long each took."""

    def __init__(self, runner: asyncio.Runner, seconds: Callable[[], Coroutine[None, None, list[float]]]) -> None:
        self._runner = runner
        self._seconds = seconds
        self._measured: list[float] = []

    def p50(self) -> float:
        """Let it happen; return the median in milliseconds."""
        self._measured = self._runner.run(self._seconds())
        return 1000 * median(self._measured)

    def p99(self) -> float:
        """Return the milliseconds below which 99 of 100 times lie, of what `p50` measured."""
        return 1000 * quantiles(self._measured, n=100)[-1]


@contextmanager
def consul_server() -> Iterator[str]:
    """Run a Consul server that knows the pool; yields its address."""
    with tempfile.TemporaryDirectory(prefix="consul-") as directory:
        server = ConsulServer(Path(directory))
        try:
            server.start()
            asyncio.run(_write_pool(server.address))
            yield server.address
        finally:
            server.stop()


def open_store(address: str) -> CountingStore:
    """Return a store on this Consul server."""
    return CountingStore(ConsulStore(ConsulAccess(address)))


async def open_node(address: str, name: str, *, clock: Callable[[], float] = time.time) -> BenchNode:
    """Return a node that serves on this Consul server."""
    store = open_store(address)
    assigner = Assigner(store, name, clock)
    assigner.set_rules(rules_of(await store.list(keys.POOLS)))
    await assigner.start()
    return BenchNode(store, assigner)


def requests_of(count: int) -> list[AssignRequest]:
    """Return requests of as many workloads, with names as long and as unlike each other as container runtimes give."""
    return [_request(hashlib.sha256(number.to_bytes(4, "big")).hexdigest()) for number in range(count)]


async def rate_in_flight(
    assign: Callable[[AssignRequest], Awaitable[object]], requests: list[AssignRequest], in_flight: int
) -> float:
    """Let so many of the requests wait for their addresses at any moment; return the requests answered each second."""
    left = iter(requests)

    async def worker() -> None:
        for request in left:
            await assign(request)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return len(requests) / (time.perf_counter() - start)


def _request(container: str) -> AssignRequest:
    return AssignRequest(
        handle=f"cni.{container}.eth0",
        workload=f"web-{container[:10]}-{container[-5:]}",
        namespace="production",
        interface=f"tt{container[20:33]}",
        versions=(4,),
    )


async def _write_pool(address: str) -> None:
    store = open_store(address)
    try:
        await store.commit([Put(keys.pool(POOL.name), encode_pool(POOL), None)])
    finally:
        await store.close()

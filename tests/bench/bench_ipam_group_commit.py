"""Group commit on one Consul server: 64 requests at once, a single one, and many nodes."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

from controller.store.consul_access import ConsulAccess
from controller.store.consul_http import ConsulClient
from tests.bench.harness import Benchmark, Better, Comparison, Figure, Sample
from tests.bench.ipam_nodes import BenchNode, consul_server, open_node, open_store, rate_in_flight, requests_of
from tests.bench.ipam_peers import CompareAndSet, one_by_one
from tests.bench.ipam_workers import workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

#: As many as a block has addresses.
_IN_FLIGHT: Final = 64
_BURSTS: Final = 8
_SUSTAINED: Final = 1024
_SINGLE: Final = 200
_NODES: Final = (1, 2, 4, 8, 16)


class Latency:
    """How long something takes that happens again and again with nothing else going on."""

    def __init__(self, seconds: Callable[[], Awaitable[float]], runner: asyncio.Runner) -> None:
        self._seconds = seconds
        self._runner = runner
        self._measured: list[float] = []

    def p99(self) -> float:
        """Let it happen; return the milliseconds below which 99 of 100 times lie."""
        self._measured = self._runner.run(self._measure())
        return 1000 * quantiles(self._measured, n=100)[-1]

    def p50(self) -> float:
        """Return the median of what was measured last, in milliseconds."""
        return 1000 * median(self._measured)

    async def _measure(self) -> list[float]:
        return [await self._seconds() for _ in range(_SINGLE)]


@contextmanager
def _sides() -> Iterator[dict[str, Sample]]:
    with consul_server() as address, asyncio.Runner() as runner, workers(address, max(_NODES)) as spread:
        store = open_store(address)
        client = ConsulClient(ConsulAccess(address), timeout_seconds=5.0)
        node, idle = (runner.run(open_node(address, name)) for name in ("busy", "idle"))
        try:
            runner.run(_fill(idle))
            calico = CompareAndSet(store)
            single, write = Latency(partial(_assign, idle), runner), Latency(partial(_write, client), runner)
            requests = requests_of(_IN_FLIGHT)
            yield {
                "group commit": lambda: runner.run(_bursts(node)),
                "compare-and-set": lambda: runner.run(calico.rate(requests)),
                "tries": lambda: calico.tries_per_request,
                "one by one": lambda: runner.run(one_by_one(store, requests)),
                "sustained": lambda: runner.run(_sustained(node)),
                "assignment p99": single.p99,
                "assignment p50": single.p50,
                "write p99": write.p99,
                "write p50": write.p50,
                **{f"{count} nodes": partial(spread.rate, count) for count in _NODES},
                "conflicts": lambda: float(spread.conflict_count),
            }
        finally:
            runner.run(_close(node, idle))
            runner.run(store.close())
            runner.run(client.close())


async def _bursts(node: BenchNode) -> float:
    """Return the assignments each second of requests that come all at once, again and again into an empty block."""
    requests = requests_of(_IN_FLIGHT)
    seconds = 0.0
    for _ in range(_BURSTS):
        seconds += len(requests) / await rate_in_flight(node.assigner.assign, requests, _IN_FLIGHT)
        if len(node.assigner.holders()) != len(requests):
            raise RuntimeError(f"{len(node.assigner.holders())} addresses are held, {len(requests)} should be")
        await node.release(requests)
    return _BURSTS * len(requests) / seconds


async def _sustained(node: BenchNode) -> float:
    requests = requests_of(_SUSTAINED)
    rate = await rate_in_flight(node.assigner.assign, requests, _IN_FLIGHT)
    await node.release(requests)
    return rate


async def _fill(node: BenchNode) -> None:
    """Leave one address in the node's block, so that its record is as large as it gets."""
    for request in requests_of(_IN_FLIGHT)[1:]:
        await node.assigner.assign(request)


async def _assign(node: BenchNode) -> float:
    (request,) = requests_of(1)
    start = time.perf_counter()
    await node.assigner.assign(request)
    seconds = time.perf_counter() - start
    await node.assigner.release(request.handle)
    return seconds


async def _write(client: ConsulClient) -> float:
    start = time.perf_counter()
    # The same value again would be no change.
    answer = await client.put("/v1/kv/plain", [], f"{time.time_ns():0200}")
    seconds = time.perf_counter() - start
    if answer.body.strip() != "true":
        raise RuntimeError(f"the plain write failed: {answer}")
    return seconds


async def _close(*nodes: BenchNode) -> None:
    for node in nodes:
        await node.close()


BENCHMARK = Benchmark(
    title=f"addresses for {_IN_FLIGHT} workloads at once, for one, and on up to {max(_NODES)} nodes; one Consul server",
    rows={
        "compare-and-set": Comparison("group commit", "compare-and-set", "assignments/s", Better.HIGHER),
        "compare-and-set-tries": Figure("tries", "tries/assignment"),
        "one-by-one": Comparison("group commit", "one by one", "assignments/s", Better.HIGHER),
        "sustained": Figure("sustained", "assignments/s"),
        "single-p99": Comparison("assignment p99", "write p99", "ms", Better.LOWER),
        "single-p50": Comparison("assignment p50", "write p50", "ms", Better.LOWER),
        **{f"nodes-{count:02}": Figure(f"{count} nodes", "assignments/s") for count in _NODES},
        "nodes-growth": Comparison(f"{max(_NODES)} nodes", "1 nodes", "assignments/s", Better.HIGHER),
        "nodes-conflicts": Figure("conflicts", "conflicts", of=max),
    },
    sides=_sides,
)

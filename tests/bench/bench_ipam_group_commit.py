"""Group commit on one Consul server: 64 requests at once, a single one, and many nodes."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from controller.agent.main import collect_garbage_rarely
from controller.store.consul_access import ConsulAccess
from controller.store.consul_http import ConsulClient
from tests.bench.harness import Benchmark, Better, Comparison, Figure, Sample
from tests.bench.ipam_nodes import (
    BenchNode,
    Latency,
    consul_server,
    open_node,
    open_store,
    rate_in_flight,
    requests_of,
)
from tests.bench.ipam_peers import CompareAndSet, one_by_one
from tests.bench.ipam_workers import workers

if TYPE_CHECKING:
    from collections.abc import Iterator

#: As many as a block has addresses.
_IN_FLIGHT: Final = 64
_BURSTS: Final = 8
_SUSTAINED: Final = 1024
#: Assignments one after the other, into 16 blocks: records of every size, from one holder to a full block. One write in
#: a hundred meets the server's garbage collector, so it takes many for a steady 99th percentile.
_SINGLE: Final = 1000
_NODES: Final = (1, 2, 4, 8, 16)


@contextmanager
def _sides() -> Iterator[dict[str, Sample]]:
    collect_garbage_rarely()  # as the agent does
    with consul_server() as address, asyncio.Runner() as runner, workers(address, max(_NODES)) as spread:
        store = open_store(address)
        client = ConsulClient(ConsulAccess(address), timeout_seconds=5.0)
        busy, idle = (runner.run(open_node(address, name)) for name in ("busy", "idle"))
        try:
            calico = CompareAndSet(store)
            requests = requests_of(_IN_FLIGHT)
            single = Latency(runner, partial(idle.latencies, requests_of(_SINGLE)))
            write = Latency(runner, partial(_write, client))
            yield {
                "group commit": lambda: runner.run(_bursts(busy)),
                "compare-and-set": lambda: runner.run(calico.rate(requests)),
                "tries": lambda: calico.tries_per_request,
                "one by one": lambda: runner.run(one_by_one(store, requests)),
                "sustained": lambda: runner.run(_sustained(busy)),
                "assignment p50": single.p50,
                "assignment p99": single.p99,
                "write p50": write.p50,
                "write p99": write.p99,
                **{f"{count} nodes": partial(spread.rate, count) for count in _NODES},
                "conflicts": lambda: float(spread.conflict_count),
            }
        finally:
            runner.run(_close(busy, idle))
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


async def _write(client: ConsulClient) -> list[float]:
    """Write a small value as often as the idle node assigns; return the seconds of each write."""
    measured = []
    for number in range(_SINGLE):
        # The same value again would be no change.
        value = f"{number:0100}{time.time_ns():0100}"
        start = time.perf_counter()
        answer = await client.put("/v1/kv/plain", [], value)
        measured.append(time.perf_counter() - start)
        if answer.body.strip() != "true":
            raise RuntimeError(f"the plain write failed: {answer}")
    return measured


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
        "single-p50": Comparison("assignment p50", "write p50", "ms", Better.LOWER),
        "single-p99": Comparison("assignment p99", "write p99", "ms", Better.LOWER),
        **{f"nodes-{count:02}": Figure(f"{count} nodes", "assignments/s") for count in _NODES},
        "nodes-growth": Comparison(f"{max(_NODES)} nodes", "1 nodes", "assignments/s", Better.HIGHER),
        "nodes-conflicts": Figure("conflicts", "conflicts", of=max),
    },
    sides=_sides,
)

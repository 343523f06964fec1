"""What a node pays for the blocks of all the others: 10,000 blocks in Consul against 10."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from click.testing import CliRunner

from controller.assignment.assigner import Assigner
from controller.assignment.transaction import block_operations
from controller.cli.main import tortiectl
from controller.ports import ABSENT, MAX_OPERATIONS
from ipam.block import Block
from tests.bench.harness import Benchmark, Better, Comparison, Figure, Sample
from tests.bench.ipam_nodes import (
    POOL,
    BenchNode,
    Latency,
    consul_server,
    open_node,
    open_store,
    rate_in_flight,
    requests_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.ports import Operation

_FEW: Final = 10
_MANY: Final = 10_000
_BLOCKS_OF_NODE: Final = 20
_WORKLOADS_OF_BLOCK: Final = 10
#: Workloads of the node that is measured: four blocks.
_WORKLOADS: Final = 200
#: Assignments beyond these, one after the other.
_COUNT: Final = 100
_STARTS: Final = 20
#: Fixed, so that the records of both sides are equal to the last byte.
_NOW: Final = 1_800_000_000.0


class Cluster:
    """A Consul server with the blocks of other nodes, and the node that is measured."""

    def __init__(self, address: str, runner: asyncio.Runner, block_count: int) -> None:
        self.address = address
        self.read_keys = 0.0
        self.read_bytes = 0.0
        runner.run(_write_blocks(address, block_count))
        self.node: BenchNode = runner.run(open_node(address, "measured", clock=_clock))
        requests = requests_of(_WORKLOADS + _COUNT)
        runner.run(rate_in_flight(self.node.assigner.assign, requests[:_WORKLOADS], 1))
        self.assign = Latency(runner, partial(self.node.latencies, requests[_WORKLOADS:]))
        self.start = Latency(runner, self._starts)

    async def _starts(self) -> list[float]:
        return [await self._start() for _ in range(_STARTS)]

    async def _start(self) -> float:
        """Return how long another agent of the node takes to know its blocks; count what it reads."""
        store = open_store(self.address)
        assigner = Assigner(store, "measured", _clock)
        try:
            start = time.perf_counter()
            await assigner.start()
            seconds = time.perf_counter() - start
            if assigner.holders() != self.node.assigner.holders():
                raise RuntimeError("the new agent does not know what the node holds")
        finally:
            await assigner.close()
            await store.close()
        self.read_keys, self.read_bytes = float(store.key_count), float(store.byte_count)
        return seconds

    def ipam_show(self) -> float:
        """Return the milliseconds of `tortiectl ipam show`, the start of Python apart."""
        environment = {"TORTIE_STORE": "consul", "TORTIE_CONSUL_ADDRESS": self.address}
        start = time.perf_counter()
        outcome = CliRunner().invoke(tortiectl, ["ipam", "show"], env=environment)
        seconds = time.perf_counter() - start
        if outcome.exit_code != 0:
            raise RuntimeError(f"ipam show failed: {outcome.output}")
        return 1000 * seconds


@contextmanager
def _sides() -> Iterator[dict[str, Sample]]:
    with consul_server() as few_address, consul_server() as many_address, asyncio.Runner() as runner:
        few, many = Cluster(few_address, runner, _FEW), Cluster(many_address, runner, _MANY)
        try:
            yield {
                "assign many": many.assign.p50,
                "assign few": few.assign.p50,
                "start many": many.start.p50,
                "start few": few.start.p50,
                "keys many": lambda: many.read_keys,
                "keys few": lambda: few.read_keys,
                "bytes many": lambda: many.read_bytes,
                "bytes few": lambda: few.read_bytes,
                "show many": many.ipam_show,
                "show few": few.ipam_show,
            }
        finally:
            runner.run(many.node.close())
            runner.run(few.node.close())


async def _write_blocks(address: str, count: int) -> None:
    """Write blocks of other nodes, far apart from each other, each with a few workloads."""
    store = open_store(address)
    try:
        operations: list[Operation] = []
        for number in range(count):
            more = block_operations(None, _block(number), version=ABSENT, writer=None)
            if len(operations) + len(more) > MAX_OPERATIONS:
                await store.commit(operations)
                operations = []
            operations += more
        await store.commit(operations)
    finally:
        await store.close()


def _block(number: int) -> Block:
    node = f"node-{number // _BLOCKS_OF_NODE:04}"
    block = Block.claimed(POOL.block_at(number * (POOL.block_count // _MANY)), node=node, at=_NOW)
    for request in requests_of(_WORKLOADS_OF_BLOCK):
        block, _ = block.assign(request.holder(node=node, at=_NOW))
    return block


def _clock() -> float:
    return _NOW


BENCHMARK = Benchmark(
    title=f"one node where {_MANY:,} blocks are in Consul against {_FEW}",
    rows={
        "assign-p50": Comparison("assign many", "assign few", "ms", Better.LOWER),
        "start-p50": Comparison("start many", "start few", "ms", Better.LOWER),
        "start-keys": Comparison("keys many", "keys few", "keys", Better.LOWER),
        "start-bytes": Comparison("bytes many", "bytes few", "bytes", Better.LOWER),
        "ipam-show": Figure("show many", "ms"),
        "ipam-show-few": Figure("show few", "ms"),
    },
    sides=_sides,
)

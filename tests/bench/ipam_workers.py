"""Nodes spread over worker processes, so that several of them assign at once and one Python is not the limit."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from tests.bench.ipam_nodes import open_node, rate_in_flight, requests_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from tests.bench.ipam_nodes import BenchNode

_WORKERS: Final = 4
_IN_FLIGHT: Final = 64
_REQUESTS_OF_NODE: Final = 512
_DEADLINE_SECONDS: Final = 60.0


class Workers:
    """Worker processes that hold the nodes between them; `conflict_count` is what all nodes met so far."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes
        self.conflict_count = 0

    def rate(self, node_count: int) -> float:
        """Let so many nodes assign at once; return the assignments each second, once all is released again."""
        shares = [len(range(worker, node_count, _WORKERS)) for worker in range(_WORKERS)]
        start = time.perf_counter()
        self.conflict_count = sum(self._ask([("assign", share) for share in shares]))
        seconds = time.perf_counter() - start
        self._ask([("release", share) for share in shares])
        return node_count * _REQUESTS_OF_NODE / seconds

    def _ask(self, commands: list[tuple[str, int]]) -> list[int]:
        for pipe, command in zip(self._pipes, commands, strict=True):
            pipe.send(command)
        return [_answer(pipe) for pipe in self._pipes]


@contextmanager
def workers(address: str, node_count: int) -> Iterator[Workers]:
    """Run so many nodes on a Consul server; they end with it."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes: list[Connection] = []
        for worker in range(_WORKERS):
            pipe, far_end = context.Pipe()
            names = [f"node-{number}" for number in range(worker, node_count, _WORKERS)]
            process = context.Process(target=_serve, args=(far_end, address, names), daemon=True)
            process.start()
            # Closing our end, which comes first, ends the worker.
            stack.callback(process.join, _DEADLINE_SECONDS)
            stack.enter_context(pipe)
            far_end.close()
            pipes.append(pipe)
        for pipe in pipes:
            _answer(pipe)
        yield Workers(pipes)


def _answer(pipe: Connection) -> int:
    if not pipe.poll(_DEADLINE_SECONDS):
        raise TimeoutError(f"a worker process gave no answer within {_DEADLINE_SECONDS} s")
    return int(pipe.recv())


def _serve(pipe: Connection, address: str, names: list[str]) -> None:
    """Do what comes through the pipe until it is closed; the answer is how many conflicts were met so far."""
    with asyncio.Runner() as runner:
        nodes = [runner.run(open_node(address, name)) for name in names]
        pipe.send(0)
        try:
            while True:
                verb, node_count = pipe.recv()
                work = _assign if verb == "assign" else _release
                runner.run(work(nodes[:node_count]))
                pipe.send(sum(node.store.conflict_count for node in nodes))
        except EOFError:
            pass
        finally:
            for node in nodes:
                runner.run(node.close())


async def _assign(nodes: list[BenchNode]) -> None:
    requests = requests_of(_REQUESTS_OF_NODE)
    await asyncio.gather(*(rate_in_flight(node.assigner.assign, requests, _IN_FLIGHT) for node in nodes))


async def _release(nodes: list[BenchNode]) -> None:
    for node in nodes:
        await node.release(requests_of(_REQUESTS_OF_NODE))

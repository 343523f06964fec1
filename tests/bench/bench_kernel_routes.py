"""Routes into the kernel: ours against `ip -batch`, the fastest way without code of one's own."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import netns

from controller.kernel.routes import KernelFib
from controller.ports import ROUTE_METRIC, ROUTE_PROTOCOL, KernelRoute, NextHop, RouteKind
from tests.bench.harness import Benchmark, Better, Comparison, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNT = 10_000
_GATEWAY = "192.0.2.2"


@contextmanager
def _sides() -> Iterator[dict[str, Sample]]:
    blocks = [_block(number) for number in range(_COUNT)]
    with _host() as link_index, tempfile.TemporaryDirectory() as directory:
        routes = [
            KernelRoute(block, RouteKind.UNICAST, (NextHop(ip_address(_GATEWAY), link_index),)) for block in blocks
        ]
        batch = Path(directory, "batch")
        batch.write_text("".join(_command(block) for block in blocks))
        yield {"ours": lambda: _ours(routes), "ip -batch": lambda: _peer(batch)}


def _block(number: int) -> IPv4Network:
    return IPv4Network((int(ip_address("10.0.0.0")) + 64 * number, 26))


def _command(block: IPv4Network) -> str:
    return f"route add {block} via {_GATEWAY} proto {ROUTE_PROTOCOL} metric {ROUTE_METRIC}\n"


@contextmanager
def _host() -> Iterator[int]:
    """Be in a namespace with one link, whose other end is the gateway; yields the link's index."""
    name = f"tt-{os.getpid()}-bench"
    netns.create(name)
    try:
        netns.pushns(name)
        try:
            _ip("link add up0 type veth peer name up1")
            _ip("address add 192.0.2.1/24 dev up0")
            _ip("link set up0 up")
            _ip("link set up1 up")
            yield socket.if_nametoindex("up0")
        finally:
            netns.popns()
    finally:
        netns.remove(name)


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def _ours(routes: list[KernelRoute]) -> float:
    fib = KernelFib()
    try:
        start = time.perf_counter()
        failures = fib.apply(routes, [])
        seconds = time.perf_counter() - start
    finally:
        fib.close()
    if failures:
        raise RuntimeError(f"{len(failures)} routes failed, the first: {failures[0]}")
    return _rate(seconds)


def _peer(batch: Path) -> float:
    start = time.perf_counter()
    _ip(f"-batch {batch}")
    return _rate(time.perf_counter() - start)


def _rate(seconds: float) -> float:
    """Return the routes each second, once it is certain that all are there and once they are gone again."""
    fib = KernelFib()
    try:
        routes = fib.dump()
        if len(routes) != _COUNT:
            raise RuntimeError(f"{len(routes)} routes are in the kernel, {_COUNT} should be")
        fib.apply([], routes.values())
    finally:
        fib.close()
    return _COUNT / seconds


BENCHMARK = Benchmark(
    title=f"{_COUNT:,} new block routes, against `ip -batch`",
    rows={"": Comparison(ours="ours", peer="ip -batch", unit="routes/s", better=Better.HIGHER)},
    sides=_sides,
)

"""A data centre's routes into the kernel and read again: ours against `ip`, the fastest without code of one's own.

Two namespaces: in one the routes are written and removed again, in the other they stay and are read.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pyroute2 import netns

from controller.kernel.routes import KernelFib
from controller.ports import ROUTE_METRIC, ROUTE_PROTOCOL, KernelRoute, NextHop, RouteKind
from controller.reconcile.programmer import DesiredRoutes, RouteProgrammer, Sweep
from tests.bench.harness import Benchmark, Better, Comparison, Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.bench.harness import Sample

_COUNT = 100_000
_GATEWAY = "192.0.2.2"
#: Numbers given by us, so that a route is the same in both namespaces.
_LINK_INDEX = 100
#: How many single routes are added one after the other for one measurement.
_ADDITIONS = 100


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    hops = (NextHop(ip_address(_GATEWAY), _LINK_INDEX),)
    routes = [KernelRoute(_block(number), RouteKind.UNICAST, hops) for number in range(_COUNT)]
    with ExitStack() as stack:
        writing, reading = (stack.enter_context(_host(which)) for which in ("w", "r"))
        batch = Path(stack.enter_context(tempfile.TemporaryDirectory()), "batch")
        batch.write_text("".join(_command(route.prefix) for route in routes))
        fib = stack.enter_context(_fib(writing))
        runner = stack.enter_context(asyncio.Runner())
        programmer = stack.enter_context(_programmer(reading))
        desired = DesiredRoutes({route.prefix: route for route in routes}, Sweep.EVERYTHING)
        programmer.set(desired)
        runner.run(programmer.iterate())
        yield {
            "routes": lambda: _rate(fib, lambda: fib.apply(routes, [])),
            "ip -batch": lambda: _rate(fib, lambda: _ip("-n", writing, "-batch", str(batch))),
            "resync": lambda: _resync(runner, programmer),
            "ip route show": lambda: _show(reading),
            "restart": lambda: _restart(runner, reading, desired),
            "addition": lambda: runner.run(_addition(programmer, desired, resyncing=False)),
            "addition during resync": lambda: runner.run(_addition(programmer, desired, resyncing=True)),
        }


def _block(number: int) -> IPv4Network:
    return IPv4Network((int(ip_address("10.0.0.0")) + 64 * number, 26))


def _command(block: object) -> str:
    return f"route add {block} via {_GATEWAY} proto {ROUTE_PROTOCOL} metric {ROUTE_METRIC}\n"


@contextmanager
def _host(which: str) -> Iterator[str]:
    """Make a namespace with one link, whose other end is the gateway; yields its name."""
    name = f"tt-{os.getpid()}-{which}"
    netns.create(name)
    try:
        _ip("-n", name, "link", "add", "up0", "index", str(_LINK_INDEX), "type", "veth", "peer", "name", "up1")
        _ip("-n", name, "address", "add", "192.0.2.1/24", "dev", "up0")
        for link in ("up0", "up1"):
            _ip("-n", name, "link", "set", link, "up")
        yield name
    finally:
        netns.remove(name)


@contextmanager
def _fib(namespace: str) -> Iterator[KernelFib]:
    netns.pushns(namespace)
    try:
        opened = KernelFib()  # its sockets stay in the namespace
    finally:
        netns.popns()
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _programmer(namespace: str) -> Iterator[RouteProgrammer]:
    with _fib(namespace) as fib:
        made = RouteProgrammer(fib)
        try:
            yield made
        finally:
            made.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdout=subprocess.DEVNULL)


def _rate(fib: KernelFib, write: Callable[[], object]) -> float:
    """Return the routes written each second, once it is certain that all are there and once they are gone again."""
    start = time.perf_counter()
    failures = write()
    seconds = time.perf_counter() - start
    routes = fib.dump()
    _require(not failures and len(routes) == _COUNT, f"{len(routes)} routes are there; failures: {failures}")
    fib.apply([], routes.values())
    return _COUNT / seconds


def _resync(runner: asyncio.Runner, programmer: RouteProgrammer) -> float:
    """Return the milliseconds in which a running programmer finds that nothing has changed."""
    written = programmer.table.programmed_count, programmer.table.removed_count
    programmer.kernel_changed()
    milliseconds = _iteration(runner, programmer)
    _require((programmer.table.programmed_count, programmer.table.removed_count) == written, "a resync wrote")
    return milliseconds


def _restart(runner: asyncio.Runner, namespace: str, desired: DesiredRoutes) -> float:
    """Return the milliseconds in which a new programmer finds that everything is there."""
    with _programmer(namespace) as fresh:
        fresh.set(desired)
        milliseconds = _iteration(runner, fresh)
        _require((fresh.table.programmed_count, fresh.table.removed_count) == (0, 0), "a restart wrote")
    return milliseconds


def _iteration(runner: asyncio.Runner, programmer: RouteProgrammer) -> float:
    start = time.perf_counter()
    runner.run(programmer.iterate())
    seconds = time.perf_counter() - start
    _require(programmer.table.route_count == _COUNT, f"{programmer.table.route_count} routes were seen")
    return seconds * 1000


def _show(namespace: str) -> float:
    start = time.perf_counter()
    _ip("-n", namespace, "route", "show", "proto", str(ROUTE_PROTOCOL))
    return (time.perf_counter() - start) * 1000


async def _addition(programmer: RouteProgrammer, desired: DesiredRoutes, *, resyncing: bool) -> float:
    """Return the median milliseconds until a workload's route is there, with one resync after the other or without."""
    hops = (NextHop(None, _LINK_INDEX),)
    over = not resyncing

    async def resync() -> None:
        while not over:
            programmer.kernel_changed()
            await programmer.iterate()

    resyncs = asyncio.create_task(resync())
    seconds = []
    for number in range(_ADDITIONS):
        route = KernelRoute(ip_network(f"172.16.0.{number}/32"), RouteKind.UNICAST, hops)
        start = time.perf_counter()
        await programmer.program([route])
        seconds.append(time.perf_counter() - start)
    over = True
    await resyncs
    programmer.set(desired)
    await programmer.iterate()
    return median(seconds) * 1000


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001  what is required is a condition
    if not holds:
        raise RuntimeError(otherwise)


BENCHMARK = Benchmark(
    title=f"{_COUNT:,} block routes: written, read again, and a workload's route added meanwhile",
    rows={
        "add": Comparison("routes", "ip -batch", "routes/s", Better.HIGHER),
        "resync": Comparison("resync", "ip route show", "ms", Better.LOWER),
        "restart": Figure("restart", "ms"),
        "addition": Figure("addition", "ms"),
        "addition-during-resync": Figure("addition during resync", "ms"),
    },
    sides=_sides,
)

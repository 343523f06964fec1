"""What a thousand workloads on a host do to the next one's ADD, and to the agent's memory.

In a benchmark of its own: their namespaces slow down every host on the same kernel.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.bench.bench_cni import ALONE, FEW_WORKLOADS, attach, milliseconds, on_sqlite, plugin_of
from tests.bench.bgp_places import place
from tests.bench.cni_callers import containers
from tests.bench.harness import Benchmark, Better, Comparison

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.bench.harness import Sample

_MANY_WORKLOADS: Final = 1000


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    with ExitStack() as stack:
        where = stack.enter_context(place())
        prefix = f"tcnf{os.getpid()}"
        fresh = stack.enter_context(containers(f"{prefix}new", ALONE))
        sides: dict[str, Sample] = {}
        for number, (name, count) in enumerate((("few", FEW_WORKLOADS), ("full", _MANY_WORKLOADS)), 1):
            node = on_sqlite(where, number)
            agent, plugin = node.start(), plugin_of(where, node)
            attach(where, plugin, stack.enter_context(containers(f"{prefix}{name}", count)))
            sides[f"memory {name}"] = agent.memory_megabytes
            sides |= {f"{command} {name}": partial(milliseconds, plugin, command, fresh) for command in ("ADD", "DEL")}
        yield sides


BENCHMARK = Benchmark(
    title="a host with 1,000 workloads against one with 10",
    rows={
        "add-at-1000-workloads": Comparison("ADD full", "ADD few", "ms", Better.LOWER),
        "del-at-1000-workloads": Comparison("DEL full", "DEL few", "ms", Better.LOWER),
        "memory-at-1000-workloads": Comparison("memory full", "memory few", "MB", Better.LOWER),
    },
    sides=_sides,
)

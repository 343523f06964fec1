"""How a benchmark is measured: ours and a peer take turns, and the medians are compared.

Taking turns lets whatever else the machine does fall on both alike. A benchmark is a file `bench_<name>.py` beside this
one that defines `BENCHMARK`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

#: Does the work once and returns one measurement in the benchmark's unit; clearing up is no part of the measurement.
Sample: TypeAlias = "Callable[[], float]"


class Better(Enum):
    """Which of two measurements is the better one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is measured. `contenders` builds the surroundings, gives `(ours, peer)`, and takes everything down again."""

    title: str
    unit: str
    better: Better
    contenders: Callable[[], AbstractContextManager[tuple[Sample, Sample]]]


@dataclass(frozen=True, slots=True)
class Result:
    """The medians of both sides over `samples` turns each. A ratio above 1 says that ours is better."""

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    samples: int


def benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark beside this file, by name: `bench_kernel_routes.py` holds `kernel-routes`."""
    package = __name__.rpartition(".")[0]
    found: dict[str, Benchmark] = {}
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_").replace("_", "-")
        found[name] = import_module(f"{package}.{path.stem}").BENCHMARK
    return found


def measure(name: str, benchmark: Benchmark, samples: int) -> Result:
    """Let both sides take `samples` turns, after one each that does not count, and compare their medians.

    Raises `ValueError` for a measurement that is not above zero, which no rate and no duration can be.
    """
    with benchmark.contenders() as (ours, peer):
        ours()
        peer()
        turns = [(ours(), peer()) for _ in range(samples)]
    our_median, peer_median = (median(side) for side in zip(*turns, strict=True))
    if our_median <= 0 or peer_median <= 0:
        raise ValueError(f"{name}: medians of {our_median} and {peer_median} {benchmark.unit} cannot be compared")
    ratio = our_median / peer_median if benchmark.better is Better.HIGHER else peer_median / our_median
    return Result(name, our_median, peer_median, ratio, benchmark.unit, samples)


def merge_into(path: Path, results: Iterable[Result]) -> None:
    """Write the results to a file of JSON rows, sorted by name; rows of other benchmarks stay as they are."""
    row_by_name = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    row_by_name |= {result.name: asdict(result) for result in results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row_by_name[name] for name in sorted(row_by_name)], indent=2) + "\n")

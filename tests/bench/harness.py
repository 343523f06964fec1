"""How a benchmark is measured: every side takes its turn, again and again, and the medians are compared.

Taking turns lets whatever else the machine does fall on all alike. A benchmark is a file `bench_<name>.py` beside this
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
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

#: Does the work once and returns one measurement in its row's unit; clearing up is no part of the measurement.
Sample: TypeAlias = "Callable[[], float]"


class Better(Enum):
    """Which of two measurements is the better one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of a benchmark, by name, of which the first is ours."""

    ours: str
    peer: str
    unit: str
    better: Better


@dataclass(frozen=True, slots=True)
class Figure:
    """One side of a benchmark for its own sake, compared with nothing; `of` makes one number of all its turns."""

    side: str
    unit: str
    of: Callable[[Iterable[float]], float] = median


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is measured. `sides` builds the surroundings, gives every side by name, and takes everything down again.

    The sides take their turns in that order. `rows` maps the name of a row to what it shows; the row of a benchmark
    that has only one has no name.
    """

    title: str
    rows: Mapping[str, Comparison | Figure]
    sides: Callable[[], AbstractContextManager[Mapping[str, Sample]]]


@dataclass(frozen=True, slots=True)
class Result:
    """The medians of one row over `samples` turns each. A ratio above 1 says that ours is better.

    A row that compares nothing has neither peer nor ratio.
    """

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    unit: str
    samples: int


def benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark beside this file, by name: `bench_ipam_scale.py` holds `ipam-scale`."""
    package = __name__.rpartition(".")[0]
    found: dict[str, Benchmark] = {}
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_").replace("_", "-")
        found[name] = import_module(f"{package}.{path.stem}").BENCHMARK
    return found


def measure(name: str, benchmark: Benchmark, samples: int) -> list[Result]:
    """Let every side take `samples` turns, after one that does not count, and return the rows.

    Raises `ValueError` for a compared measurement that is not above zero, which no rate and no duration can be.
    """
    with benchmark.sides() as sample_by_side:
        for sample in sample_by_side.values():
            sample()
        turns = [{side: sample() for side, sample in sample_by_side.items()} for _ in range(samples)]
    measured = {side: [turn[side] for turn in turns] for side in sample_by_side}
    return [_result(f"{name}/{row}" if row else name, shown, measured) for row, shown in benchmark.rows.items()]


def merge_into(path: Path, results: Iterable[Result]) -> None:
    """Write the results to a file of JSON rows, sorted by name; rows of other benchmarks stay as they are."""
    row_by_name = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    row_by_name |= {result.name: asdict(result) for result in results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row_by_name[name] for name in sorted(row_by_name)], indent=2) + "\n")


def _result(name: str, shown: Comparison | Figure, measured: Mapping[str, list[float]]) -> Result:
    if isinstance(shown, Figure):
        values = measured[shown.side]
        return Result(name, shown.of(values), None, None, shown.unit, len(values))
    ours, peer = median(measured[shown.ours]), median(measured[shown.peer])
    if ours <= 0 or peer <= 0:
        raise ValueError(f"{name}: medians of {ours} and {peer} {shown.unit} cannot be compared")
    ratio = ours / peer if shown.better is Better.HIGHER else peer / ours
    return Result(name, ours, peer, ratio, shown.unit, len(measured[shown.ours]))

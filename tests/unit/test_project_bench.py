"""The bench harness: who takes which turn, which side wins, and what the results file keeps."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.bench.harness import Benchmark, Better, Result, Sample, benchmarks, measure, merge_into
from tests.bench.run import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _benchmark(ours: Sample, peer: Sample, better: Better = Better.HIGHER) -> Benchmark:
    @contextmanager
    def contenders() -> Iterator[tuple[Sample, Sample]]:
        yield ours, peer

    return Benchmark(title="a sample", unit="things/s", better=better, contenders=contenders)


def _scripted(*values: float) -> Callable[[], float]:
    return iter(values).__next__


def test_the_sides_take_turns() -> None:
    """Neither side runs twice in a row, so that a slow moment of the machine falls on both."""
    turns: list[str] = []

    def side(name: str) -> Sample:
        def sample() -> float:
            turns.append(name)
            return 1.0

        return sample

    measure("x", _benchmark(side("ours"), side("peer")), samples=5)
    assert turns == ["ours", "peer"] * 6


def test_medians_are_compared_without_the_first_turn() -> None:
    """A cold start and one outlier change nothing."""
    ours = _scripted(0.1, 10, 10, 10, 10, 9000)
    peer = _scripted(0.1, 5, 5, 5, 0.001, 5)
    assert measure("x", _benchmark(ours, peer), samples=5) == Result("x", 10, 5, 2.0, "things/s", 5)


@pytest.mark.parametrize(("better", "ratio"), [(Better.HIGHER, 4.0), (Better.LOWER, 0.25)])
def test_a_ratio_above_one_says_that_ours_is_better(better: Better, ratio: float) -> None:
    """Twice the rate is better, twice the time is worse."""
    assert measure("x", _benchmark(lambda: 8.0, lambda: 2.0, better), samples=5).ratio == ratio


def test_a_measurement_of_nothing_is_refused() -> None:
    """A side that did not measure anything is no win for the other."""
    with pytest.raises(ValueError, match=r"^x: medians of 0\.0 and 1\.0 "):
        measure("x", _benchmark(lambda: 0.0, lambda: 1.0), samples=5)


def test_surroundings_are_taken_down_when_a_side_fails() -> None:
    """Namespaces and processes of a benchmark do not outlive it."""
    is_down = []

    @contextmanager
    def contenders() -> Iterator[tuple[Sample, Sample]]:
        try:
            yield _scripted(), lambda: 1.0
        finally:
            is_down.append(True)

    with pytest.raises(StopIteration):
        measure("x", Benchmark("a sample", "s", Better.LOWER, contenders), samples=5)
    assert is_down


def test_results_of_other_benchmarks_stay(tmp_path: Path) -> None:
    """Running one benchmark again replaces its row and no other."""
    path = tmp_path / "bench" / "results.json"
    merge_into(path, [Result("b", 1, 1, 1, "s", 5), Result("a", 1, 1, 1, "s", 5)])
    merge_into(path, [Result("b", 2, 1, 2, "s", 7)])
    rows = json.loads(path.read_text())
    assert [(row["name"], row["ours"], row["samples"]) for row in rows] == [("a", 1, 5), ("b", 2, 7)]
    assert set(rows[0]) == {"name", "ours", "peer", "ratio", "unit", "samples"}


def test_every_benchmark_file_is_found_by_name() -> None:
    """Adding a benchmark is adding a file."""
    assert "kernel-routes" in benchmarks()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    """A typing error measures nothing and says what there is."""
    outcome = CliRunner().invoke(main, ["kernel-roots"])
    assert outcome.exit_code == 2
    assert "no benchmark kernel-roots; there are: all, " in outcome.output


def test_fewer_than_five_samples_are_refused() -> None:
    """A median of four is no median worth writing down."""
    assert CliRunner().invoke(main, ["all", "--samples", "4"]).exit_code == 2

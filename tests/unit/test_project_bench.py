"""The bench harness: who takes which turn, which side wins, and what the results file keeps."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.bench.harness import Benchmark, Better, Comparison, Figure, Result, Sample, benchmarks, measure, merge_into
from tests.bench.run import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _benchmark(ours: Sample, peer: Sample, better: Better = Better.HIGHER) -> Benchmark:
    return _rows({"": Comparison(ours="ours", peer="peer", unit="things/s", better=better)}, ours=ours, peer=peer)


def _rows(rows: dict[str, Comparison | Figure], **sample_by_side: Sample) -> Benchmark:
    @contextmanager
    def sides() -> Iterator[dict[str, Sample]]:
        yield sample_by_side

    return Benchmark(title="a sample", rows=rows, sides=sides)


def _scripted(*values: float) -> Callable[[], float]:
    return iter(values).__next__


def test_the_sides_take_turns() -> None:
    """No side runs twice in a row, so that a slow moment of the machine falls on all."""
    turns: list[str] = []

    def side(name: str) -> Sample:
        def sample() -> float:
            turns.append(name)
            return 1.0

        return sample

    measure("x", _rows({}, ours=side("ours"), peer=side("peer"), third=side("third")), samples=5)
    assert turns == ["ours", "peer", "third"] * 6


def test_medians_are_compared_without_the_first_turn() -> None:
    """A cold start and one outlier change nothing."""
    ours = _scripted(0.1, 10, 10, 10, 10, 9000)
    peer = _scripted(0.1, 5, 5, 5, 0.001, 5)
    assert measure("x", _benchmark(ours, peer), samples=5) == [Result("x", 10, 5, 2.0, "things/s", 5)]


@pytest.mark.parametrize(("better", "ratio"), [(Better.HIGHER, 4.0), (Better.LOWER, 0.25)])
def test_a_ratio_above_one_says_that_ours_is_better(better: Better, ratio: float) -> None:
    """Twice the rate is better, twice the time is worse."""
    (result,) = measure("x", _benchmark(lambda: 8.0, lambda: 2.0, better), samples=5)
    assert result.ratio == ratio


def test_one_benchmark_fills_several_rows() -> None:
    """A side is measured once a turn for all its rows; a figure needs no peer and may be zero."""
    rows: dict[str, Comparison | Figure] = {
        "a": Comparison(ours="ours", peer="peer", unit="things/s", better=Better.HIGHER),
        "b": Comparison(ours="ours", peer="other", unit="things/s", better=Better.HIGHER),
        "c": Figure("zero", "conflicts"),
        "d": Figure("rare", "conflicts", of=max),
    }
    ours = _scripted(*[8.0] * 6)
    benchmark = _rows(
        rows, ours=ours, peer=lambda: 2.0, other=lambda: 4.0, zero=lambda: 0.0, rare=_scripted(9, 0, 0, 3, 0, 0)
    )
    assert measure("x", benchmark, samples=5) == [
        Result("x/a", 8.0, 2.0, 4.0, "things/s", 5),
        Result("x/b", 8.0, 4.0, 2.0, "things/s", 5),
        Result("x/c", 0.0, None, None, "conflicts", 5),
        Result("x/d", 3, None, None, "conflicts", 5),
    ]


def test_a_measurement_of_nothing_is_refused() -> None:
    """A side that did not measure anything is no win for the other."""
    with pytest.raises(ValueError, match=r"^x: medians of 0\.0 and 1\.0 "):
        measure("x", _benchmark(lambda: 0.0, lambda: 1.0), samples=5)


def test_surroundings_are_taken_down_when_a_side_fails() -> None:
    """Namespaces and processes of a benchmark do not outlive it."""
    is_down = []

    @contextmanager
    def sides() -> Iterator[dict[str, Sample]]:
        try:
            yield {"ours": _scripted(), "peer": lambda: 1.0}
        finally:
            is_down.append(True)

    with pytest.raises(StopIteration):
        measure("x", Benchmark("a sample", {}, sides), samples=5)
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
    assert {"bgp-join", "fib", "ipam-group-commit"} <= benchmarks().keys()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    """A typing error measures nothing and says what there is."""
    outcome = CliRunner().invoke(main, ["kernel-roots"])
    assert outcome.exit_code == 2
    assert "no benchmark kernel-roots; there are: all, " in outcome.output


def test_fewer_than_five_samples_are_refused() -> None:
    """A median of four is no median worth writing down."""
    assert CliRunner().invoke(main, ["all", "--samples", "4"]).exit_code == 2

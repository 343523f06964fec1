"""Run benchmarks: `python -m tests.bench.run NAME...`, or `all`; results go to build/bench/results.json."""

from __future__ import annotations

from pathlib import Path

import click
from tabulate import tabulate

from tests.bench.harness import Result, benchmarks, measure, merge_into

RESULTS = Path(__file__).parents[2] / "build" / "bench" / "results.json"


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--samples", default=5, show_default=True, type=click.IntRange(min=5), help="Turns each side takes.")
def main(names: tuple[str, ...], samples: int) -> None:
    """Measure tortie against other programs, turn by turn; NAMES are benchmarks, or `all`."""
    known = benchmarks()
    unknown = set(names) - {*known, "all"}
    if unknown:
        raise click.UsageError(f"no benchmark {', '.join(sorted(unknown))}; there are: all, {', '.join(known)}")
    results: list[Result] = []
    for name in known if "all" in names else names:
        click.echo(f"{name}: {known[name].title}")
        rows = measure(name, known[name], samples)
        merge_into(RESULTS, rows)
        results += rows
    cells = [
        (r.name, _readable(r.ours), _readable(r.peer), r.unit, "" if r.ratio is None else f"{r.ratio:.2f}")
        for r in results
    ]
    click.echo(tabulate(cells, headers=["benchmark", "ours", "peer", "unit", "ratio"], disable_numparse=True))


def _readable(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    main()

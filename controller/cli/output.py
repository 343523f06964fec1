"""How results are printed: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import click
import yaml
from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

FORMATS: Final = ("table", "wide", "json", "yaml")


def output_option(*formats: str) -> Callable[[Any], Any]:
    """Return the `-o` option with these formats; the first is the default."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How to print.",
    )


def print_document(document: object, form: str) -> None:
    """Print a document as JSON or YAML, fields in the order given."""
    if form == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)


def print_columns(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table without lines."""
    click.echo(tabulate(_cells(rows), headers, tablefmt="plain", disable_numparse=True))


def print_boxed(headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """Print a table with lines; `right` are the indexes of columns aligned to the right."""
    alignments = ["right" if index in right else "left" for index in range(len(headers))]
    click.echo(
        tabulate(
            _cells(rows),
            headers,
            tablefmt="pretty",
            disable_numparse=True,
            colalign=alignments if rows else None,
            headersglobalalign="center",
        )
    )


def _cells(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    return [["yes" if cell is True else "no" if cell is False else str(cell) for cell in row] for row in rows]

"""`tortiectl schema`: the JSON Schema of what users write."""

from __future__ import annotations

import click

from controller.cli.examples import examples
from controller.cli.kinds import KINDS, kind_called
from controller.cli.output import print_document
from controller.resources.schema import kind_schema, whole_schema


@click.command()
@click.argument(
    "kind",
    required=False,
    shell_complete=lambda _context, _argument, incomplete: [
        kind.one for kind in KINDS if kind.name != "Block" and kind.one.startswith(incomplete)
    ],
)
@examples("tortiectl schema > tortie.schema.json", "tortiectl schema pool")
def schema(kind: str | None) -> None:
    """Print the JSON Schema (2020-12) of a kind's documents, or of every kind's and of lists of them.

    Editors complete and check files by it: begin a file with `# yaml-language-server: $schema=tortie.schema.json`.
    """
    if kind is None:
        print_document(whole_schema(), "json")
        return
    found = kind_called(kind)
    if found.name == "Block":
        raise click.UsageError("blocks are written by agents alone and have no schema")
    print_document(kind_schema(found.name), "json")

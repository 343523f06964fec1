"""`tortiectl validate`: files of resources checked by themselves, without a store."""

from __future__ import annotations

import click

from controller.cli.documents import files_option, wishes_in
from controller.cli.examples import examples
from controller.cli.planning import check_together


@click.command()
@files_option()
@examples(
    "tortiectl validate -f pools.yaml",
    "tortiectl validate -R -f network/",
    "tortiectl get all -o yaml | tortiectl validate -f -",
)
def validate(files: tuple[str, ...], *, recursive: bool) -> None:
    """Check files of resources, each document and all of them together; exit code 1 when one breaks a rule.

    It asks no store, so it runs anywhere: whether what is written there agrees with them, and whether the filters exist
    that peers name, `tortiectl apply --dry-run` tells.
    """
    wishes = wishes_in(files, recursive=recursive)
    check_together(wishes)
    for wish in wishes:
        click.echo(f"{wish.title} valid")

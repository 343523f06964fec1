"""`tortiectl create` and `tortiectl apply`: resources from files into the store, all of them or none."""

from __future__ import annotations

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.documents import resources_in
from controller.cli.examples import examples
from controller.cli.writing import write_resources

_files_option = click.option(
    "-f", "--filename", "files", multiple=True, required=True, metavar="FILE", help="YAML or JSON; - is standard input."
)


@click.command()
@_files_option
@pass_connection
@examples("tortiectl create -f pools.yaml")
def create(connection: Connection, files: tuple[str, ...]) -> None:
    """Create resources from files; nothing is written if one of them exists or breaks a rule."""
    _write(connection, files, create_only=True)


@click.command()
@_files_option
@pass_connection
@examples(
    "tortiectl apply -f pools.yaml",
    "tortiectl apply -f - <<END",
    "apiVersion: tortie/v1",
    "kind: Pool",
    "metadata: {name: default}",
    "spec: {cidr: 10.244.0.0/16, blockSize: 26}",
    "END",
)
def apply(connection: Connection, files: tuple[str, ...]) -> None:
    """Create or change resources from files, all of them or none.

    The kinds are Pool, Reservation, IPAMConfiguration, BGPPeer, BGPFilter and BGPConfiguration; what a document does
    not name has its default.
    """
    _write(connection, files, create_only=False)


def _write(connection: Connection, files: tuple[str, ...], *, create_only: bool) -> None:
    resources = resources_in(files)
    outcome = connection.with_store(lambda store: write_resources(store, resources, create_only=create_only))
    for resource, what in outcome.items():
        click.echo(f"{resource} {what}")

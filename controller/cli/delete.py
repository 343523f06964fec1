"""`tortiectl delete`: resources out of the store."""

from __future__ import annotations

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.pools import delete_pool


@click.group()
@examples("tortiectl delete pool default")
def delete() -> None:
    """Delete a resource by its name."""


@delete.command()
@click.argument("name")
@pass_connection
@examples("tortiectl delete pool default")
def pool(connection: Connection, name: str) -> None:
    """Delete a pool and its empty blocks; refused while addresses of it are in use."""
    connection.with_store(lambda store: delete_pool(store, name))
    click.echo(f"pool {name} deleted")

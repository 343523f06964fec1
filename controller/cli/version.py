"""`tortiectl version`: which versions meet here."""

from __future__ import annotations

from importlib import metadata

import click

from controller.agent_client import agent_status
from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.errors import AgentUnavailable


@click.command()
@pass_connection
@examples("tortiectl version")
def version(connection: Connection) -> None:
    """Show the versions of tortiectl and of this host's agent."""
    click.echo(f"tortiectl: {metadata.version('tortie')}")
    try:
        click.echo(f"agent:     {agent_status(connection.agent_socket).version}")
    except AgentUnavailable:
        click.echo("agent:     none answers on this host")

"""`tortiectl node`: the node this runs on, and the removal of nodes that are gone."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import TYPE_CHECKING

import click

from controller.agent_client import AgentStatus, agent_status
from controller.assignment.node_deletion import delete_node, held_by
from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.output import output_option, print_boxed, print_document
from controller.datamodel import keys
from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.agent_client import Session
    from controller.ports import Store
    from ipam.address import IPAddress


@click.group()
@examples("tortiectl node status", "tortiectl node delete host7")
def node() -> None:
    """Show this node's state; remove a node from the cluster."""


@node.command()
@output_option("table", "json", "yaml")
@pass_connection
@click.pass_context
@examples("tortiectl node status")
def status(context: click.Context, connection: Connection, form: str) -> None:
    """Ask this host's agent for its state; exit code 1 when it is not ready or a session is not established."""
    found = agent_status(connection.agent_socket)
    if form == "table":
        _print_status(found)
    else:
        print_document(found.document, form)
    if not found.ready or not all(session.established for session in found.sessions):
        context.exit(1)


@node.command()
@click.argument("name")
@click.option("--missing-ok", is_flag=True, help="A node that does not exist is no error.")
@click.option("--force", is_flag=True, help="Delete it although workloads hold addresses of it.")
@pass_connection
@examples("tortiectl node delete host7", "tortiectl node delete --force host7")
def delete(connection: Connection, name: str, *, missing_ok: bool, force: bool) -> None:
    """Remove a node that is gone for good: its record, its blocks and its addresses.

    Stop its agent first; an agent that runs registers again. A node that holds addresses is deleted only with --force,
    because they may be given to others at once.
    """
    released = connection.with_store(lambda store: _delete(store, name, missing_ok=missing_ok, force=force))
    click.echo(f"node {name} deleted, {len(released)} addresses released")


async def _delete(store: Store, name: str, *, missing_ok: bool, force: bool) -> tuple[IPAddress, ...]:
    if not missing_ok and not await store.get([keys.node(name)]) and not await store.list(keys.share(name)):
        present = ", ".join(key.removeprefix(keys.NODES) for key in await store.list(keys.NODES))
        raise RefusedError(f"node {name} does not exist; the nodes are: {present or 'none'}")
    held = () if force else await held_by(store, name)
    if held:
        raise RefusedError(
            f"node {name} holds {len(held)} addresses ({held[0]}, ...), and others could be given them while its "
            f"containers still run; remove the containers, or stop the host and delete it with --force"
        )
    return await delete_node(store, name)


def _print_status(found: AgentStatus) -> None:
    click.echo(f"Node {found.node}, tortie {found.version}: {'ready' if found.ready else 'NOT READY'}")
    for problem in found.problems:
        click.echo(f"  {problem}")
    click.echo(f"Store: {found.store}")
    click.echo(f"Routes: {found.route_count}, {'in sync' if found.routes_in_sync else 'not in sync'}")
    click.echo(f"BGP speaker: {'connected' if found.speaker_connected else 'not connected'}")
    for version in (4, 6):
        sessions = [session for session in found.sessions if ipaddress.ip_address(session.address).version == version]
        click.echo(f"\nIPv{version} BGP status")
        if sessions:
            headers = ("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")
            print_boxed(headers, [_row(session) for session in sessions])
        else:
            click.echo(f"No IPv{version} peers.")


def _row(session: Session) -> Sequence[str]:
    since = datetime.fromtimestamp(session.since).astimezone().strftime("%Y-%m-%d %H:%M:%S") if session.since else "-"
    return session.address, session.origin, session.state, since, session.info

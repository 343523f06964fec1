"""`tortiectl node`: the node this runs on, nodes out of the way of traffic, and the removal of nodes that are gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from controller.agent_client import agent_status
from controller.assignment.node_deletion import delete_node, held_by
from controller.cli.catalog import forget_in_catalog
from controller.cli.connection import Connection, pass_connection
from controller.cli.diags import diags
from controller.cli.examples import examples
from controller.cli.listings import time_text
from controller.cli.node_drain import await_withdrawal, drain_node, read_drain, undrain_node, unknown_node
from controller.cli.node_status import print_rejected, print_status
from controller.cli.output import output_option, print_document
from controller.datamodel import keys
from controller.errors import RefusedError

if TYPE_CHECKING:
    from controller.ports import Store
    from ipam.address import IPAddress


@click.group()
@examples(
    "tortiectl node status",
    "tortiectl node diags",
    "tortiectl node drain host7 --wait",
    "tortiectl node delete host7",
)
def node() -> None:
    """Show or collect this node's state; drain a node, or remove it from the cluster."""


node.add_command(diags)


@node.command()
@click.option("--rejected", is_flag=True, help="Show which routes of which peer were refused, and why.")
@output_option("table", "json", "yaml")
@pass_connection
@click.pass_context
@examples("tortiectl node status", "tortiectl node status --rejected")
def status(context: click.Context, connection: Connection, form: str, *, rejected: bool) -> None:
    """Ask this host's agent for its state.

    Exit code 1 when it is not ready or a peer has no established session; with --rejected always 0.
    """
    found = agent_status(connection.agent_socket)
    if form != "table":
        print_document(found.document["bgp"]["rejected"] if rejected else found.document, form)
    elif rejected:
        print_rejected(found)
    else:
        print_status(found)
    well = found.ready and not found.sessionless and all(session.established for session in found.sessions)
    if not well and not rejected:
        context.exit(1)


@node.command()
@click.argument("name")
@click.option(
    "--grace-seconds",
    type=click.IntRange(0, 86400),
    metavar="SECONDS",
    default=10,
    show_default=True,
    help="How long the node asks to be routed around before it withdraws its routes.",
)
@click.option("--wait", is_flag=True, help="Return when the node announces nothing any more.")
@pass_connection
@examples("tortiectl node drain host7", "tortiectl node drain host7 --grace-seconds=60 --wait")
def drain(connection: Connection, name: str, grace_seconds: int, *, wait: bool) -> None:
    """Let traffic be routed around a node, before it is taken down.

    Its routes are first announced with the community GRACEFUL_SHUTDOWN (RFC 8326), so that other ways are preferred
    where there are any; after the grace period they are withdrawn, and its containers are not reached from other hosts.
    Both are undone by `tortiectl node undrain`. A node that is drained already goes on as it is.
    """
    under, new = connection.with_store(
        lambda store: drain_node(store, name, grace_seconds=grace_seconds, now=time.time())
    )
    if new:
        click.echo(f"node {name} draining, withdraws its routes in {grace_seconds} s")
    else:
        click.echo(f"node {name} drained since {time_text(under.since)}, {under.grace_seconds:g} s of it as grace")
    if not wait:
        return
    told = await_withdrawal(
        under, lambda: connection.with_store(lambda store: read_drain(store, name)), connection.agent_socket
    )
    click.echo(f"node {name} announces nothing" if told else f"node {name} announces nothing if its clock is right")


@node.command()
@click.argument("name")
@pass_connection
@examples("tortiectl node undrain host7")
def undrain(connection: Connection, name: str) -> None:
    """Let a node announce its routes again."""
    was = connection.with_store(lambda store: undrain_node(store, name))
    click.echo(f"node {name} undrained" if was else f"node {name} was not drained")


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
    forget_in_catalog(connection.settings(), name)


async def _delete(store: Store, name: str, *, missing_ok: bool, force: bool) -> tuple[IPAddress, ...]:
    if not missing_ok and not await store.get([keys.node(name)]) and not await store.list(keys.share(name)):
        raise await unknown_node(store, name)
    held = () if force else await held_by(store, name)
    if held:
        raise RefusedError(
            f"node {name} holds {len(held)} addresses ({held[0]}, ...), and others could be given them while its "
            f"containers still run; remove the containers, or stop the host and delete it with --force"
        )
    return await delete_node(store, name)

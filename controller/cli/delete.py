"""`tortiectl delete`: resources out of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.guarding import with_retries
from controller.cli.peers import delete_filter, delete_peer
from controller.cli.pools import delete_pool, remove_malformed_pool
from controller.datamodel import keys
from controller.errors import RefusedError
from controller.ports import Delete

if TYPE_CHECKING:
    from controller.ports import Store


@click.group()
@examples("tortiectl delete pool default", "tortiectl delete reservation gateways", "tortiectl delete bgppeer tor-a")
def delete() -> None:
    """Delete a resource by its name."""


@delete.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete it although its record cannot be read; its blocks then stay.")
@pass_connection
@examples("tortiectl delete pool default", "tortiectl delete pool default --force")
def pool(connection: Connection, name: str, *, force: bool) -> None:
    """Delete a pool and its empty blocks; refused while addresses of it are in use.

    --force is for a pool whose record cannot be read, and changes nothing for others. Nodes forget such a pool, so
    their routes to its addresses end; rather apply the pool anew where its range is known.
    """
    connection.with_store(lambda store: _delete_pool(store, name, force=force))
    click.echo(f"pool {name} deleted")


@delete.command()
@click.argument("name")
@pass_connection
@examples("tortiectl delete reservation gateways")
def reservation(connection: Connection, name: str) -> None:
    """Delete a reservation: its ranges are assigned automatically again."""
    connection.with_store(lambda store: delete_reservation(store, name))
    click.echo(f"reservation {name} deleted")


@delete.command()
@click.argument("name")
@pass_connection
@examples("tortiectl delete bgppeer tor-a")
def bgppeer(connection: Connection, name: str) -> None:
    """Delete a BGP peer: its nodes end their sessions with it."""
    connection.with_store(lambda store: delete_peer(store, name))
    click.echo(f"bgppeer {name} deleted")


@delete.command()
@click.argument("name")
@pass_connection
@examples("tortiectl delete bgpfilter from-tor")
def bgpfilter(connection: Connection, name: str) -> None:
    """Delete a BGP filter; refused while a peer names it."""
    connection.with_store(lambda store: delete_filter(store, name))
    click.echo(f"bgpfilter {name} deleted")


@delete.command()
@pass_connection
@examples("tortiectl delete bgpconfiguration")
def bgpconfiguration(connection: Connection) -> None:
    """Delete the BGP configuration: the defaults hold again, nodes form a mesh."""
    connection.with_store(lambda store: store.commit([Delete(keys.BGP_CONFIGURATION, None)]))
    click.echo("bgpconfiguration default deleted")


async def delete_reservation(store: Store, name: str) -> None:
    """Remove a reservation, also one that cannot be read; raises `RefusedError` when it does not exist."""
    key = keys.reservation(name)

    async def attempt() -> None:
        found = await store.list(keys.RESERVATIONS)
        if key not in found:
            present = ", ".join(other.removeprefix(keys.RESERVATIONS) for other in found)
            raise RefusedError(f"reservation {name} does not exist; the reservations are: {present or 'none'}")
        await store.commit([Delete(key, found[key].version)])

    await with_retries(attempt)


async def _delete_pool(store: Store, name: str, *, force: bool) -> None:
    if not (force and await remove_malformed_pool(store, name)):
        await delete_pool(store, name)

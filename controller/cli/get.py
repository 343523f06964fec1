"""`tortiectl get`: what the store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import click

from controller.cli import listings
from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.ipam_configure import setting_rows
from controller.cli.node_listing import node_listing, read_states
from controller.cli.output import FORMATS, output_option, print_columns, print_document
from controller.cli.peer_listing import FILTERS, PEERS
from controller.cli.reading import decoded_each, end_with, read_bgp_configuration, read_configuration, way_out
from controller.errors import RefusedError
from controller.resources import API_VERSION, resource_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.cli.listings import Listing
    from controller.ports import Entry, Store

T = TypeVar("T")
#: How many names a message lists at most.
_NAMES_LISTED: Final = 10


@click.group()
@examples("tortiectl get nodes", "tortiectl get pools default -o yaml > pool.yaml", "tortiectl get blocks -o wide")
def get() -> None:
    """Show nodes, pools, blocks, reservations, BGP peers and filters, or a configuration, from the store.

    A record that cannot be read is told of on stderr, with exit code 1; the others are shown.
    """


@get.command()
@click.argument("name", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get nodes -o wide")
def nodes(connection: Connection, name: str | None, form: str) -> None:
    """Show the nodes whose agents have registered.

    A node is running while its agent gives signs of life, otherwise silent; draining or drained after `node drain`.
    """
    states = connection.with_store(lambda store: read_states(store, name))
    _show(connection, name, form, node_listing(states))


@get.command()
@click.argument("name", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get pools -o yaml | tortiectl apply -f -")
def pools(connection: Connection, name: str | None, form: str) -> None:
    """Show the pools; the YAML can be edited and applied again."""
    _show(connection, name, form, listings.POOLS)


@get.command()
@click.argument("cidr", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get blocks 10.244.7.64/26 -o json")
def blocks(connection: Connection, cidr: str | None, form: str) -> None:
    """Show the blocks, their owners and how full they are."""
    if form == "table":
        _show(connection, cidr, form, listings.SUMMARIES)
    else:
        _show(connection, cidr, form, listings.BLOCKS)


@get.command()
@click.argument("name", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get reservations", "tortiectl get reservations gateways -o yaml")
def reservations(connection: Connection, name: str | None, form: str) -> None:
    """Show the ranges that automatic assignment leaves alone."""
    _show(connection, name, form, listings.RESERVATIONS)


@get.command()
@output_option("table", "json", "yaml")
@pass_connection
@examples("tortiectl get ipamconfiguration -o yaml > ipam.yaml")
def ipamconfiguration(connection: Connection, form: str) -> None:
    """Show the rules of assignment and release, also where nothing but the defaults is set."""
    configuration = connection.with_store(read_configuration)
    if form == "table":
        print_columns(("SETTING", "VALUE"), setting_rows(configuration))
    else:
        print_document(resource_document(configuration), form)


@get.command()
@click.argument("name", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get bgppeers -o wide", "tortiectl get bgppeers tor-a -o yaml > tor-a.yaml")
def bgppeers(connection: Connection, name: str | None, form: str) -> None:
    """Show the BGP peers besides the mesh; YAML and JSON hold their passwords and can be applied again."""
    _show(connection, name, form, PEERS)


@get.command()
@click.argument("name", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get bgpfilters -o wide")
def bgpfilters(connection: Connection, name: str | None, form: str) -> None:
    """Show the rules for what BGP peers tell and are told."""
    _show(connection, name, form, FILTERS)


@get.command()
@output_option("table", "json", "yaml")
@pass_connection
@examples("tortiectl get bgpconfiguration -o yaml > bgp.yaml")
def bgpconfiguration(connection: Connection, form: str) -> None:
    """Show what applies to the BGP sessions of every node, also where nothing but the defaults is set."""
    configuration = connection.with_store(read_bgp_configuration)
    if form == "table":
        print_columns(("SETTING", "VALUE"), [("nodeToNodeMesh", configuration.mesh)])
    else:
        print_document(resource_document(configuration), form)


def _show(connection: Connection, name: str | None, form: str, listing: Listing[T]) -> None:
    entries = connection.with_store(lambda store: _read(store, name, listing))
    found, malformed = decoded_each(entries, listing.decode)
    if name is not None and malformed:
        raise RefusedError(way_out(malformed[0]))
    chosen = listing.in_order(found)
    if form in ("json", "yaml"):
        items = [listing.document(item) for item in chosen]
        whole = {"apiVersion": API_VERSION, "kind": f"{listing.kind}List", "items": items}
        print_document(whole if name is None else items[0], form)
    else:
        width = len(listing.headers) if form == "wide" else listing.narrow
        print_columns(listing.headers[:width], [listing.row(item)[:width] for item in chosen])
    end_with(malformed)


async def _read(store: Store, name: str | None, listing: Listing[T]) -> Mapping[str, Entry]:
    """Return the record of this name, or all; raises `RefusedError` for a name that does not exist."""
    if name is None:
        return await store.list(listing.prefix)
    found = await store.get([listing.key(name)])
    if not found:
        others, _ = decoded_each(await store.list(listing.prefix), listing.decode)
        kind = listing.kind.lower()
        present = _names([listing.name(other) for other in others]) or f"no {kind}s"
        raise RefusedError(f"{kind} {name} does not exist; there are: {present}")
    return found


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else ""
    return ", ".join(names[:_NAMES_LISTED]) + more

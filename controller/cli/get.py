"""`tortiectl get`: what the store holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from controller.cli import listings, peer_listing
from controller.cli.completing import resources_argument
from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.kinds import named
from controller.cli.node_listing import node_listing, read_states
from controller.cli.output import output_option, print_columns, print_document
from controller.cli.reading import end_with
from controller.errors import MalformedRecord, RefusedError
from controller.ports import ABSENT
from controller.resources import API_VERSION, versioned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from controller.cli.kinds import Kind, Named
    from controller.cli.listings import Listing
    from controller.ports import Entry, Store, Version

#: How many names a message lists at most.
_NAMES_LISTED: Final = 10
_LISTING_BY_KIND: Final[Mapping[str, Listing[Any]]] = {
    "Pool": listings.POOLS,
    "Reservation": listings.RESERVATIONS,
    "IPAMConfiguration": listings.CONFIGURATION,
    "BGPConfiguration": peer_listing.CONFIGURATION,
    "BGPPeer": peer_listing.PEERS,
    "BGPFilter": peer_listing.FILTERS,
}


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of one kind, in the order it is shown, with the version of each record by name; and what is not."""

    kind: Kind
    listing: Listing[Any]
    items: Sequence[Any]
    versions: Mapping[str, Version]
    malformed: Sequence[MalformedRecord]


@click.command(no_args_is_help=True)
@resources_argument()
@output_option("table", "wide", "json", "yaml", "name")
@pass_connection
@examples(
    "tortiectl get all",
    "tortiectl get nodes -o wide",
    "tortiectl get pool default -o yaml > pool.yaml",
    "tortiectl get blocks 10.244.7.64/26 -o json",
    "tortiectl get pools,reservations -o name",
)
def get(connection: Connection, what: tuple[str, ...], form: str) -> None:
    """Show resources from the store: all of a kind, or those named.

    The kinds are pools, reservations, ipamconfiguration, bgpconfiguration, bgppeers, bgpfilters, nodes and blocks;
    `all` is every kind that people write, so all but the last two. YAML and JSON can be applied again; they hold the
    passwords of BGP peers. The version in them keeps `apply` from writing over what somebody else has changed since.

    A node is running while its agent gives signs of life, otherwise silent; draining or drained after `node drain`.

    A record that cannot be read is shown as malformed, and told of on stderr with exit code 1.
    """
    wanted = named(what)
    found = connection.with_store(lambda store: _read(store, wanted, form))
    if form in ("json", "yaml"):
        malformed = _print_documents(found, wanted, form)
    else:
        for number, each in enumerate(found):
            if form == "name":
                _print_names(each)
            else:
                _print_table(each, wide=form == "wide", heading=len(found) > 1, first=number == 0)
        malformed = [error for each in found for error in each.malformed]
    end_with(malformed)


async def _read(store: Store, wanted: Sequence[Named], form: str) -> list[Found]:
    return [await _found(store, each, form) for each in wanted]


async def _found(store: Store, wanted: Named, form: str) -> Found:
    kind, names = wanted.kind, wanted.names
    listing = await _listing(store, kind, names, form)
    keys = {name: listing.prefix if kind.single else listing.prefix + name.replace("/", "-") for name in names}
    if kind.single:
        entries = await store.get([listing.prefix])
    else:
        entries = await (store.get(list(keys.values())) if names else store.list(listing.prefix))
    items, versions, malformed = _decoded(listing, entries)
    if kind.single and not entries:
        items = [listing.default]
    for name, key in keys.items():
        if key not in entries and not kind.single:
            raise await _unknown(store, kind, name, listing.prefix)
    return Found(kind, listing, listing.in_order(items), versions, malformed)


async def _listing(store: Store, kind: Kind, names: Sequence[str], form: str) -> Listing[Any]:
    if kind.name == "Node":
        return node_listing(await read_states(store, names))
    if kind.name == "Block":
        return listings.SUMMARIES if form in ("table", "name") else listings.BLOCKS
    return _LISTING_BY_KIND[kind.name]


def _decoded(
    listing: Listing[Any], entries: Mapping[str, Entry]
) -> tuple[list[Any], dict[str, Version], list[MalformedRecord]]:
    items, versions, malformed = [], {}, []
    for key, entry in entries.items():
        try:
            item = listing.decode(key, entry.value)
        except MalformedRecord as error:
            malformed.append(error)
            continue
        items.append(item)
        versions[listing.name(item)] = entry.version
    return items, versions, malformed


async def _unknown(store: Store, kind: Kind, name: str, prefix: str) -> RefusedError:
    names = [key.removeprefix(prefix) for key in await store.list(prefix)]
    if kind.name == "Block":
        names = [each.replace("-", "/") for each in names]
    more = f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else ""
    present = ", ".join(names[:_NAMES_LISTED]) + more or f"no {kind.many}"
    return RefusedError(f"{kind.title(name)} does not exist; there are: {present}")


def _malformed_names(found: Found) -> list[str]:
    return [error.key.removeprefix(found.listing.prefix) for error in found.malformed if not found.kind.single]


def _print_names(found: Found) -> None:
    for name in (*map(found.listing.name, found.items), *_malformed_names(found)):
        click.echo(f"{found.kind.one}/{name}")


def _print_table(found: Found, *, wide: bool, heading: bool, first: bool) -> None:
    listing = found.listing
    if heading:
        if not first:
            click.echo()
        click.echo(f"{found.kind.one if found.kind.single else found.kind.many}:")
    width = len(listing.headers) if wide else listing.narrow
    rows = [row for item in found.items for row in listing.rows(item)]
    rows += [(name, "malformed", *["-"] * len(listing.headers)) for name in _malformed_names(found)]
    print_columns(listing.headers[:width], [row[:width] for row in rows])


def _print_documents(found: Sequence[Found], wanted: Sequence[Named], form: str) -> list[MalformedRecord]:
    """Print one document, or a list of them, and return the records that could not be made into any."""
    malformed = [error for each in found for error in each.malformed]
    documents: list[dict[str, object]] = []
    for each in found:
        documents += _documents(each, malformed)
    only = len(wanted) == 1 and (wanted[0].kind.single or len(wanted[0].names) == 1)
    if not only:
        kind = f"{wanted[0].kind.name}List" if len(wanted) == 1 else "List"
        print_document({"apiVersion": API_VERSION, "kind": kind, "items": documents}, form)
    elif documents:
        print_document(documents[0], form)
    return malformed


def _documents(found: Found, malformed: list[MalformedRecord]) -> Iterator[dict[str, object]]:
    """Yield the document of each item, or add it to the malformed ones if nobody could have written it so."""
    for item in found.items:
        name = found.listing.name(item)
        try:
            document = dict(found.listing.document(item))
        except RefusedError as error:
            malformed.append(MalformedRecord(found.kind.key(name), str(error)))
            continue
        version = found.versions.get(name, ABSENT)
        yield document if version == ABSENT else versioned(document, version)

"""`tortiectl get`: what the store holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.output import FORMATS, output_option, print_columns, print_document
from controller.cli.pools import read_pools
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.datamodel.records import decode_node
from controller.errors import RefusedError
from controller.resources import API_VERSION, pool_document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from controller.datamodel.records import Node
    from controller.ports import Store
    from ipam.block import Block
    from ipam.pool import Pool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Listing:
    """How one kind is shown: its columns (the first `narrow` unless all are asked for), an item's row and document."""

    kind: str
    headers: Sequence[str]
    narrow: int
    row: Callable[..., Sequence[object]]
    document: Callable[..., Mapping[str, object]]


@click.group()
@examples("tortiectl get nodes", "tortiectl get pools default -o yaml > pool.yaml", "tortiectl get blocks -o wide")
def get() -> None:
    """Show nodes, pools or blocks, from the store."""


@get.command()
@click.argument("name", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get nodes -o wide")
def nodes(connection: Connection, name: str | None, form: str) -> None:
    """Show the nodes whose agents have registered."""
    _show(connection.with_store(read_nodes), name, form, _NODES)


@get.command()
@click.argument("name", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get pools -o yaml | tortiectl apply -f -")
def pools(connection: Connection, name: str | None, form: str) -> None:
    """Show the pools; the YAML can be edited and applied again."""
    _show(connection.with_store(read_pools), name, form, _POOLS)


@get.command()
@click.argument("cidr", required=False)
@output_option(*FORMATS)
@pass_connection
@examples("tortiectl get blocks 10.244.7.64/26 -o json")
def blocks(connection: Connection, cidr: str | None, form: str) -> None:
    """Show the blocks, their owners and how full they are."""
    found = connection.with_store(read_blocks)
    _show({str(block.cidr): block for block in found}, cidr, form, _BLOCKS)


async def read_nodes(store: Store) -> dict[str, Node]:
    """Return every node by its name; raises `MalformedRecord`."""
    found = [decode_node(key, entry.value) for key, entry in (await store.list(keys.NODES)).items()]
    return {node.name: node for node in found}


async def read_blocks(store: Store) -> list[Block]:
    """Return every block, IPv4 first, by address; raises `MalformedRecord`."""
    found = [decode_block(key, entry.value) for key, entry in (await store.list(keys.BLOCKS)).items()]
    return sorted(found, key=lambda block: (block.cidr.version, block.cidr.network_address, block.cidr.prefixlen))


def _show(found: Mapping[str, T], name: str | None, form: str, listing: _Listing) -> None:
    if name is not None and name not in found:
        kind = listing.kind.lower()
        raise RefusedError(f"{kind} {name} does not exist; there are: {', '.join(found) or f'no {kind}s'}")
    chosen = list(found.values()) if name is None else [found[name]]
    if form in ("json", "yaml"):
        items = [listing.document(item) for item in chosen]
        whole = {"apiVersion": API_VERSION, "kind": f"{listing.kind}List", "items": items}
        print_document(whole if name is None else items[0], form)
        return
    width = len(listing.headers) if form == "wide" else listing.narrow
    print_columns(listing.headers[:width], [listing.row(item)[:width] for item in chosen])


def _time(epoch_seconds: float) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _node_row(node: Node) -> Sequence[object]:
    return (node.name, node.as_number, node.ipv4 or "-", node.ipv6 or "-")


def _node_document(node: Node) -> Mapping[str, object]:
    spec = {
        "asNumber": node.as_number,
        "ipv4Address": str(node.ipv4) if node.ipv4 else None,
        "ipv6Address": str(node.ipv6) if node.ipv6 else None,
    }
    return {"apiVersion": API_VERSION, "kind": "Node", "metadata": {"name": node.name}, "spec": spec}


def _pool_row(pool: Pool) -> Sequence[object]:
    return (
        pool.name,
        pool.cidr,
        f"/{pool.block_prefix_length}",
        pool.disabled,
        pool.assignment.value,
        pool.nat_outgoing,
        pool.disable_bgp_export,
        pool.node_selector,
    )


def _block_row(block: Block) -> Sequence[object]:
    return (
        block.cidr,
        block.affinity or "-",
        f"{block.in_use} of {block.size}",
        _time(block.claimed_at),
        block.sequence,
        ", ".join(sorted(block.holding_nodes() - {block.affinity or ""})) or "-",
    )


def _block_document(block: Block) -> Mapping[str, object]:
    assignments = [
        {
            "address": str(address),
            "handle": holder.handle,
            "node": holder.node,
            "workload": holder.workload,
            "namespace": holder.namespace,
            "interface": holder.interface,
            "createdAt": _time(holder.created_at),
        }
        for address, holder in block.assignments()
    ]
    spec = {
        "cidr": str(block.cidr),
        "affinity": block.affinity,
        "claimedAt": _time(block.claimed_at),
        "sequence": block.sequence,
        "size": block.size,
        "inUse": block.in_use,
        "assignments": assignments,
    }
    return {"apiVersion": API_VERSION, "kind": "Block", "metadata": {"name": str(block.cidr)}, "spec": spec}


_NODES = _Listing("Node", ("NAME", "AS", "IPV4", "IPV6"), 4, _node_row, _node_document)
_POOLS = _Listing(
    "Pool",
    ("NAME", "CIDR", "BLOCK SIZE", "DISABLED", "ASSIGNMENT", "NAT", "NO BGP EXPORT", "NODE SELECTOR"),
    4,
    _pool_row,
    pool_document,
)
_BLOCKS = _Listing(
    "Block", ("CIDR", "AFFINITY", "IN USE", "CLAIMED", "SEQUENCE", "ALSO HELD BY"), 3, _block_row, _block_document
)

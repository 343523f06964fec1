"""What is known of one address: who holds it, or why nobody does."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from controller.cli.listings import time_text
from controller.cli.output import print_document
from controller.cli.reading import decoded_each, way_out
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.datamodel.records import decode_pool, decode_reservation
from controller.errors import RefusedError
from ipam.pool import BLOCK_PREFIX_LENGTHS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.errors import MalformedRecord
    from controller.ports import Store
    from ipam.address import IPAddress
    from ipam.block import Block, Holder, Rest
    from ipam.pool import Pool


@dataclass(frozen=True, slots=True)
class AddressState:
    """An address: its pool, the block it lies in, who holds it, how long it rests, and which reservations name it."""

    address: IPAddress
    pool: Pool | None
    block: Block | None
    holder: Holder | None
    rest: Rest | None
    reserved_by: tuple[str, ...]

    @property
    def state(self) -> str:
        """One word for programs."""
        if self.holder is not None:
            return "in use"
        return "free" if self.rest is None else "resting"

    @property
    def borrowed(self) -> bool:
        """Whether the address is held out of a block that another node owns, or none."""
        return self.holder is not None and self.block is not None and self.block.affinity != self.holder.node

    def lines(self) -> Iterator[str]:
        """Yield what is told to people."""
        if self.holder is not None:
            yield from self._held_lines(self.holder)
        elif self.block is not None:
            yield f"{self.address} is not assigned in block {self.block.cidr}"
        else:
            yield f"{self.address} is not assigned"
        yield from self._reasons()

    def document(self) -> dict[str, object]:
        """Return the fields for programs."""
        return {
            "address": str(self.address),
            "state": self.state,
            "pool": self.pool.name if self.pool else None,
            "block": str(self.block.cidr) if self.block else None,
            "blockOwner": self.block.affinity if self.block else None,
            "borrowed": self.borrowed,
            "handle": self.holder.handle if self.holder else None,
            "attributes": _attributes(self.holder) if self.holder else {},
            "restsUntil": time_text(self.rest.until) if self.rest else None,
            "keptFor": self.rest.kept_for if self.rest else None,
            "reservedBy": list(self.reserved_by),
        }

    def _held_lines(self, holder: Holder) -> Iterator[str]:
        yield f"IP {self.address} is in use"
        yield f"Handle: {holder.handle}"
        if self.block is not None:
            owner = "which no node owns" if self.block.affinity is None else f"of node {self.block.affinity}"
            borrower = f", borrowed by {holder.node}" if self.borrowed else ""
            yield f"Block: {self.block.cidr}, {owner}{borrower}"
        yield f"Pool: {self.pool.name if self.pool else 'none'}"
        yield "Attributes:"
        for name, value in _attributes(holder).items():
            yield f"  {name}: {'yes' if value is True else 'no' if value is False else value}"

    def _reasons(self) -> Iterator[str]:
        """Yield what keeps others from getting the address."""
        if self.rest is not None:
            kept_for = f", kept for {self.rest.kept_for}" if self.rest.kept_for else ""
            yield f"It was released and rests until {time_text(self.rest.until)}{kept_for}."
        if self.reserved_by:
            yield f"It is reserved by {', '.join(self.reserved_by)}: only who asks for this very address is given it."
        if self.pool is None:
            yield "It lies in no pool."
        elif self.pool.disabled:
            yield f"Its pool {self.pool.name} is disabled: no more of its addresses are assigned."
        elif self.block is None:
            yield f"Its block {self.pool.block_of(self.address)} in pool {self.pool.name} is not claimed."


async def read_address(store: Store, address: IPAddress, now: float) -> tuple[AddressState, list[MalformedRecord]]:
    """Return what is known of an address at this time in epoch seconds, and which rules cannot be read.

    Of the blocks only those are read that contain the address: one, unless they overlap. Raises `RefusedError` when it
    cannot be read.
    """
    # The block may be of another size than the pool's, left behind by an earlier pool; so every size is asked for.
    networks = (
        ipaddress.ip_network((address, length), strict=False) for length in BLOCK_PREFIX_LENGTHS[address.version]
    )
    blocks, unreadable = decoded_each(await store.get([keys.block(cidr) for cidr in networks]), decode_block)
    if unreadable:
        raise RefusedError(f"{address} lies in a block that cannot be read: {way_out(unreadable[0])}")
    pools, bad_pools = decoded_each(await store.list(keys.POOLS), decode_pool)
    reservations, bad_reservations = decoded_each(await store.list(keys.RESERVATIONS), decode_reservation)
    # Of two blocks that overlap, the one in which somebody holds the address tells more.
    block = next((each for each in blocks if each.ordinal_of(address) in each.holders), blocks[0] if blocks else None)
    rest = None if block is None else block.resting.get(block.ordinal_of(address))
    state = AddressState(
        address,
        pool=next((pool for pool in pools if address in pool.cidr), None),
        block=block,
        holder=None if block is None else block.holders.get(block.ordinal_of(address)),
        rest=rest if rest is not None and rest.until > now else None,
        reserved_by=tuple(each.name for each in reservations if any(address in cidr for cidr in each.cidrs)),
    )
    return state, [*bad_pools, *bad_reservations]


def print_address(state: AddressState, form: str) -> None:
    """Print what is known of an address, in sentences or as a document."""
    if form == "table":
        click.echo("\n".join(state.lines()))
    else:
        print_document(state.document(), form)


def _attributes(holder: Holder) -> dict[str, object]:
    """Return what the holder's attribute set says, sorted by name."""
    return {
        "createdAt": time_text(holder.created_at),
        "interface": holder.interface,
        "namespace": holder.namespace,
        "node": holder.node,
        "sticky": holder.sticky,
        "workload": holder.workload,
    }

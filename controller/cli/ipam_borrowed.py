"""Which addresses are held by nodes that do not own their block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from controller.cli.listings import by_address
from controller.cli.output import print_boxed, print_document
from controller.cli.reading import decoded_each
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, share_cidr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from controller.errors import MalformedRecord
    from controller.ports import Store
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block

_HEADERS: Final = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")
#: Nothing but workloads holds addresses.
_TYPE: Final = "Workload"
_HELD: Final = "held"


@dataclass(frozen=True, slots=True)
class Borrowed:
    """An address, the node whose workload holds it, and the block's owner, which is another node or none."""

    address: IPAddress
    node: str
    block: IPNetwork
    owner: str | None
    workload: str

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        return str(self.address), self.node, str(self.block), self.owner or "-", _TYPE, self.workload

    def document(self) -> dict[str, object]:
        """Return the fields for programs."""
        return {
            "address": str(self.address),
            "borrowingNode": self.node,
            "block": str(self.block),
            "blockOwner": self.owner,
            "type": _TYPE,
            "allocatedTo": self.workload,
        }


async def read_borrowed(store: Store) -> tuple[list[Borrowed], list[MalformedRecord]]:
    """Return every borrowed address, and what is wrong with blocks that cannot be read.

    Only the blocks are read in which a share key says that a node holds addresses without owning the block.
    """
    lent = {
        keys.block(cidr)
        for key in await store.list(keys.SHARES)
        if key.split("/")[-2] == _HELD and (cidr := share_cidr(key)) is not None
    }
    blocks, malformed = decoded_each(await store.get(sorted(lent)) if lent else {}, decode_block)
    return [each for block in by_address(blocks) for each in _borrowed_of(block)], malformed


def print_borrowed(borrowed: Sequence[Borrowed], form: str) -> None:
    """Print the borrowed addresses as a table or as a document."""
    if form == "table":
        print_boxed(_HEADERS, [each.row() for each in borrowed])
    else:
        print_document([each.document() for each in borrowed], form)


def _borrowed_of(block: Block) -> Iterator[Borrowed]:
    for address, holder in block.assignments():
        if holder.node != block.affinity:
            yield Borrowed(address, holder.node, block.cidr, block.affinity, holder.full_name)

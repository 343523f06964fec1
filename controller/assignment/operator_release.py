"""Release an address on an operator's word, whoever holds it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from controller.assignment.inventory import inventory_of
from controller.assignment.retrying import until_committed
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.errors import MalformedRecord, RefusedError
from ipam.plan import plan_release_addresses
from ipam.pool import BLOCK_PREFIX_LENGTHS
from ipam.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from controller.ports import Entry, Operation, Store
    from ipam.address import IPAddress, IPNetwork
    from ipam.inventory import HeldAddress, Inventory
    from ipam.request import ReleaseRequest


class Outcome(Enum):
    """What came of a release."""

    RELEASED = "released"
    NOT_ASSIGNED = "not assigned"
    GIVEN_ANEW = "given anew"
    WIRED = "wired"


@dataclass(frozen=True, slots=True)
class Released:
    """What came of it; `held` is who held the address, if anybody did.

    `link` is the link on the holder's node to which that node delivers the address, if it says so; `checked` tells
    whether it says anything.
    """

    outcome: Outcome
    held: HeldAddress | None = None
    link: str | None = None
    checked: bool = False


async def release_address(
    store: Store, request: ReleaseRequest, clock: Callable[[], float], *, force: bool = False
) -> Released:
    """Free an address if it is held as the request says, unless its node has it wired and it is not forced.

    The configured rests apply; owner and holder are told by their share keys. One that nobody holds, or that was given
    anew since, is left alone. Raises `RefusedError` when two blocks say who holds it, `MalformedRecord` for a block
    that cannot be read, `TransientError` after many conflicts, and what the store raises.
    """

    async def attempt() -> Released:
        entries = await store.get([*_possible_blocks(request.address), keys.IPAM_CONFIGURATION])
        inventory = inventory_of(entries, now=clock())
        _refuse_unreadable(inventory)
        held = _holder(inventory, request.address)
        if held is None:
            return Released(Outcome.NOT_ASSIGNED)
        if not request.fits(inventory.blocks[held.cidr], inventory.blocks[held.cidr].ordinal_of(held.address)):
            return Released(Outcome.GIVEN_ANEW, held)
        link, checked = await _link(store, held)
        if link is not None and not force:
            return Released(Outcome.WIRED, held, link, checked)
        await store.commit(release_operations(entries, inventory, held.cidr, [request]))
        return Released(Outcome.RELEASED, held, link, checked)

    return await until_committed(f"release of {request.address}", attempt)


def release_operations(
    entries: Mapping[str, Entry], inventory: Inventory, cidr: IPNetwork, requests: Iterable[ReleaseRequest]
) -> list[Operation]:
    """Return what frees those addresses of a block that are held as the requests say; the block is in both readings."""
    view = View("", block_by_cidr={cidr: inventory.blocks[cidr]}, configuration=inventory.configuration)
    plan = plan_release_addresses(view, requests, now=inventory.now)
    if cidr not in plan.writes:
        return []
    version = entries[keys.block(cidr)].version
    return block_operations(inventory.blocks[cidr], plan.writes[cidr], version=version, writer=None)


def _possible_blocks(address: IPAddress) -> list[str]:
    """Return the keys of every block that could hold the address: one for each size that a block may have."""
    lengths = BLOCK_PREFIX_LENGTHS[address.version]
    return [keys.block(ipaddress.ip_network((address, length), strict=False)) for length in lengths]


def _refuse_unreadable(inventory: Inventory) -> None:
    for cidr in sorted(inventory.unknown_contents(), key=str):
        reason = inventory.unreadable_blocks.get(cidr) or f"it describes {inventory.misplaced_blocks[cidr]}"
        raise MalformedRecord(keys.block(cidr), f"{reason}; restore it from a copy of the store")


def _holder(inventory: Inventory, address: IPAddress) -> HeldAddress | None:
    found = [held for held in inventory.held() if held.address == address]
    if len(found) > 1:
        blocks = " and ".join(str(held.cidr) for held in found)
        raise RefusedError(
            f"{address} is held in blocks {blocks}, which overlap; remove the workloads of one of them and delete its "
            f"record"
        )
    return found[0] if found else None


async def _link(store: Store, held: HeldAddress) -> tuple[str | None, bool]:
    """Return the link to which the holder's node delivers the address, and whether the node tells what it has wired."""
    node = held.holder.node
    inventory = inventory_of(await store.get([keys.endpoints(node)]), now=0.0)
    wired = inventory.wired_by_node.get(node)
    if wired is None:
        return None, False
    links = (link for link, addresses in wired.addresses_by_link.items() if held.address in addresses)
    return next(links, None), True

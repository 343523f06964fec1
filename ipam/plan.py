"""Decisions about addresses: `(view, request) -> plan`, the same every time.

A plan says which blocks to write and what must still hold when they are written; it changes nothing. Whoever commits it
must write all of it at once, each block against the version the view was read at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipam.choice import choose
from ipam.errors import AddressUnavailable
from ipam.release import kept, rest_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block
    from ipam.request import AssignRequest, ReleaseRequest
    from ipam.view import View


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request changes.

    `addresses` is the answer: those the handle then holds, or those released, IPv4 first. `writes` maps a block's CIDR
    to its new content, None to delete it. `rests_on` names the blocks that must not change meanwhile although they are
    not written. `claims_from` names the pools that must not change meanwhile, because a block of theirs is claimed.
    """

    addresses: tuple[IPAddress, ...]
    writes: Mapping[IPNetwork, Block | None] = field(default_factory=dict)
    rests_on: frozenset[IPNetwork] = frozenset()
    claims_from: frozenset[str] = frozenset()


def plan_assign(view: View, request: AssignRequest, *, now: float) -> Plan:
    """Return the plan that gives the request's handle one address of each version it asks for.

    What the handle holds already is kept and counts, whatever pool it lies in. `now` is in epoch seconds. Raises
    `Refused`, and `MoreNeeded` when the decision rests on blocks that the view does not hold.
    """
    held = [(block, ordinals) for block, ordinals in view.holding(request.handle) if block.version in request.versions]
    addresses = [block.address_at(ordinal) for block, ordinals in held for ordinal in ordinals]
    _check_held(request, addresses)
    writes: dict[IPNetwork, Block | None] = {}
    if request.renew:
        writes |= {block.cidr: block.renew(ordinals, at=now) for block, ordinals in held}
    claims_from = set()
    for version in sorted(set(request.versions) - {address.version for address in addresses}):
        choice = choose(view, request, version, now=now)
        holder = request.holder(node=view.node, at=now)
        written, address = choice.block.rested(now).assign(holder, choice.ordinal)
        writes[choice.block.cidr] = written
        addresses.append(address)
        if choice.claimed_from is not None:
            claims_from.add(choice.claimed_from.name)
    return Plan(_ordered(addresses), writes, frozenset(block.cidr for block, _ in held), frozenset(claims_from))


def plan_release(view: View, handle: str, *, now: float) -> Plan:
    """Return the plan that frees every known address of a handle; one that holds nothing is no error.

    A block without an owner goes with its last address, unless others of it have to rest; an owned one stays.
    """
    return _plan_releases(view, {block.cidr: ordinals for block, ordinals in view.holding(handle)}, now)


def plan_release_addresses(view: View, requests: Iterable[ReleaseRequest], *, now: float) -> Plan:
    """Return the plan that frees those of the addresses that are held as the requests say; the others are left alone.

    An address in no known block, one that nobody holds, and one that has been given anew since are no errors: the
    plan's `addresses` are those that it frees.
    """
    ordinals: dict[IPNetwork, list[int]] = {}
    for request in requests:
        for block in view.block_by_cidr.values():
            if request.address.version == block.version and request.address in block.cidr:
                ordinal = block.ordinal_of(request.address)
                if request.fits(block, ordinal) and ordinal not in ordinals.setdefault(block.cidr, []):
                    ordinals[block.cidr].append(ordinal)
    return _plan_releases(view, {cidr: tuple(found) for cidr, found in ordinals.items() if found}, now)


def plan_return(view: View, cidrs: Collection[IPNetwork], *, now: float) -> Plan:
    """Return the plan after which the node has given up those of its own blocks that are empty at this time."""
    own = (block for block in view.own_blocks() if block.cidr in cidrs)
    return Plan((), {block.cidr: None for block in own if block.is_empty(now)})


def plan_removal(block: Block, node: str) -> Plan:
    """Return the plan after which a node neither owns the block nor holds an address of it.

    The block goes unless other nodes hold addresses of it; they keep them, without an owner if it was this node. The
    node's addresses do not rest: nobody goes on using them.
    """
    ordinals = block.ordinals_of_node(node)
    left = block.release(ordinals) if ordinals else block
    if left.affinity == node:
        left = left.disown()
    kept_block = left if left.affinity is not None or left.holders else None
    return Plan(tuple(map(block.address_at, ordinals)), {block.cidr: kept_block})


def _plan_releases(view: View, ordinals_by_cidr: Mapping[IPNetwork, tuple[int, ...]], now: float) -> Plan:
    addresses: list[IPAddress] = []
    writes: dict[IPNetwork, Block | None] = {}
    for cidr, ordinals in ordinals_by_cidr.items():
        block = view.block_by_cidr[cidr]
        rests = {
            ordinal: rest
            for ordinal in ordinals
            if (rest := rest_of(view.configuration, block.holders[ordinal], now)) is not None
        }
        writes[cidr] = kept(block.rested(now).release(ordinals, rests), now)
        addresses += map(block.address_at, ordinals)
    return Plan(_ordered(addresses), writes)


def _check_held(request: AssignRequest, held: Collection[IPAddress]) -> None:
    for address in held:
        wanted = request.address(address.version)
        if wanted is not None and wanted not in held:
            raise AddressUnavailable(
                f"handle {request.handle} holds {address} and asks for {wanted}; release what it holds first"
            )


def _ordered(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))

"""Decisions about addresses: `(view, request) -> plan`, the same every time.

A plan says which blocks to write and what must still hold when they are written; it changes nothing. Whoever commits it
must write all of it at once, each block against the version the view was read at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ipam.block import Block
from ipam.errors import NoPool, PoolDisabled, PoolExhausted, UnknownPool
from ipam.pool import AssignmentMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ipam.address import IPAddress, IPNetwork
    from ipam.pool import Pool
    from ipam.request import AssignRequest
    from ipam.view import View

_EVERY_NODE: Final = "all()"


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
    """Return the plan that gives the request's handle one address of each version it asks for; raises `Refused`.

    What the handle holds already is kept and counts, whatever pool it lies in. `now` is in epoch seconds.
    """
    addresses = [
        (block.address_at(ordinal), block.cidr)
        for block, ordinals in view.holding(request.handle)
        for ordinal in ordinals
        if block.version in request.versions
    ]
    rests_on = frozenset(cidr for _, cidr in addresses)
    held_versions = {cidr.version for cidr in rests_on}
    writes: dict[IPNetwork, Block | None] = {}
    claims_from = set()
    for version in sorted(set(request.versions) - held_versions):
        block, pool = _block_with_space(view, _allowed_pools(view, request, version), version, now=now)
        written, address = block.assign(request.holder(node=view.node, at=now))
        writes[block.cidr] = written
        addresses.append((address, block.cidr))
        if pool is not None:
            claims_from.add(pool.name)
    return Plan(_ordered(address for address, _ in addresses), writes, rests_on, frozenset(claims_from))


def plan_release(view: View, handle: str) -> Plan:
    """Return the plan that frees every address of a handle; one that holds nothing is no error.

    A block without an owner goes with its last address; an owned one stays.
    """
    addresses: list[IPAddress] = []
    writes: dict[IPNetwork, Block | None] = {}
    for block, ordinals in view.holding(handle):
        left = block.release(ordinals)
        writes[block.cidr] = left if left.affinity is not None or left.holders else None
        addresses += map(block.address_at, ordinals)
    return Plan(_ordered(addresses), writes)


def plan_removal(block: Block, node: str) -> Plan:
    """Return the plan after which a node neither owns the block nor holds an address of it.

    The block goes unless other nodes hold addresses of it; they keep them, without an owner if it was this node.
    """
    ordinals = block.ordinals_of_node(node)
    left = block.release(ordinals) if ordinals else block
    if left.affinity == node:
        left = left.disown()
    kept = left if left.affinity is not None or left.holders else None
    return Plan(tuple(map(block.address_at, ordinals)), {block.cidr: kept})


def _ordered(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))


def _allowed_pools(view: View, request: AssignRequest, version: int) -> list[Pool]:
    """Return the pools of this version that the request may use, in the order to try them; at least one."""
    if not request.pools:
        return _automatic_pools(view, version)
    for name in request.pools:
        if name not in view.pool_by_name:
            raise UnknownPool(
                f"pool {name} does not exist; request one of: {', '.join(sorted(view.pool_by_name)) or 'none exists'}"
            )
        if view.pool_by_name[name].disabled:
            raise PoolDisabled(f"pool {name} is disabled; enable it or request another one")
    pools = [view.pool_by_name[name] for name in request.pools if view.pool_by_name[name].version == version]
    if not pools:
        raise NoPool(
            f"node {view.node}: an IPv{version} address is requested, and none of the requested pools "
            f"({', '.join(request.pools)}) is IPv{version}; request one that is"
        )
    return pools


def _automatic_pools(view: View, version: int) -> list[Pool]:
    found, passed_over = [], []
    for name, pool in sorted(view.pool_by_name.items()):
        if pool.version != version:
            continue
        if pool.disabled:
            passed_over.append(f"{name} is disabled")
        elif pool.assignment is AssignmentMode.MANUAL:
            passed_over.append(f"{name} is manual")
        elif pool.node_selector != _EVERY_NODE:
            # What a selector matches is not known here; to use the pool anyhow would be to guess.
            passed_over.append(f"{name} selects {pool.node_selector}")
        else:
            found.append(pool)
    if not found:
        raise NoPool(
            f"node {view.node}: no enabled, automatic IPv{version} pool is for it "
            f"({'; '.join(passed_over) or f'there is no IPv{version} pool'}); "
            f"create or enable one, or request one by name"
        )
    return found


def _block_with_space(view: View, pools: list[Pool], version: int, *, now: float) -> tuple[Block, Pool | None]:
    """Return a block of the node's to take an address from, and the pool if the block is to be claimed from it first.

    The oldest with a free address comes first; if there is none, a block nobody is known to have.
    """
    own = [block for block in view.own_blocks() if block.version == version]
    for block in own:
        if block.has_room and any(pool.contains(block.cidr) for pool in pools):
            return block, None
    if len(own) < view.max_blocks_per_node:
        for pool in pools:
            existing = view.existing(pool)
            # Counting first keeps a refusal cheap: a full pool is not walked.
            if len(existing) < pool.block_count:
                cidr = next(pool.candidates(view.node, existing))
                return Block.claimed(cidr, node=view.node, at=now), pool
    raise PoolExhausted(_exhausted_text(view, pools, own))


def _exhausted_text(view: View, pools: list[Pool], own: list[Block]) -> str:
    parts = []
    for pool in pools:
        mine = [block for block in own if pool.contains(block.cidr)]
        parts.append(
            f"pool {pool.name} ({pool.cidr}) has {len(view.existing(pool))} of {pool.block_count} blocks claimed, "
            f"{len(mine)} of them by this node with {sum(block.in_use for block in mine)} of "
            f"{sum(block.size for block in mine)} addresses in use"
        )
    if len(own) >= view.max_blocks_per_node:
        parts.append(f"the node owns {len(own)} blocks, and {view.max_blocks_per_node} is the most it may own")
    return (
        f"node {view.node}: no IPv{pools[0].version} address is left: {'; '.join(parts)}; "
        f"release addresses on this node or add a pool"
    )

"""What is wrong between the addresses that blocks say are held and those that nodes have wired."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ipam.audit_blocks import overlapping_blocks
from ipam.inventory import Ranges
from ipam.problem import Problem, ProblemKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ipam.address import IPAddress
    from ipam.inventory import HeldAddress, Inventory

#: A node and the name of a link on it.
_Place: TypeAlias = tuple[str, str]
_Held: TypeAlias = "Mapping[IPAddress, Sequence[HeldAddress]]"


def address_problems(inventory: Inventory) -> Iterator[Problem]:
    """Yield what is wrong with single addresses, and with the addresses of a handle."""
    held: dict[IPAddress, list[HeldAddress]] = {}
    for each in inventory.held():
        held.setdefault(each.address, []).append(each)
    places = _places(inventory, held)
    yield from _wired_problems(inventory, held, places)
    yield from _leaks(inventory, held, places)
    yield from _unknown_holders(inventory, held)
    yield from _several(held)


def _places(inventory: Inventory, held: _Held) -> dict[IPAddress, list[_Place]]:
    """Return where each address is wired, by what the nodes tell.

    A node that has not looked since the address was assigned says nothing against the holder: its link may be gone.
    """
    places: dict[IPAddress, list[_Place]] = {}
    for node, wired in sorted(inventory.wired_by_node.items()):
        for link, addresses in sorted(wired.addresses_by_link.items()):
            for address in addresses:
                holders = held.get(address, ())
                newest = max((each.holder.created_at for each in holders), default=0.0)
                if wired.seen_at >= newest or any(_is_at(each, (node, link)) for each in holders):
                    places.setdefault(address, []).append((node, link))
    return places


def _is_at(held: HeldAddress, place: _Place) -> bool:
    return (held.holder.node, held.holder.interface) == place


def _wired_problems(
    inventory: Inventory, held: _Held, places: Mapping[IPAddress, Sequence[_Place]]
) -> Iterator[Problem]:
    unknown = Ranges(inventory.unknown_contents())
    for address, where in places.items():
        holders = held.get(address, ())
        shown = ", ".join(f"{link} on node {node}" for node, link in where)
        holder = f"held by {_holder_text(holders[0])}" if holders else "held by nobody"
        if len(where) > 1:
            text = (
                f"{address} is wired at {shown} and is {holder}, so packets reach one or the other; "
                f"remove the workload that does not hold it"
            )
            yield _about(ProblemKind.WIRED_TWICE, address, holders, text)
        elif not holders and next(unknown.around(address), None) is None:
            text = (
                f"{address} is wired at {shown} and nobody holds it, so it may be given to another workload; "
                f"remove and create that workload again"
            )
            yield Problem(ProblemKind.UNASSIGNED, address, text, node=where[0][0])
        elif holders and not any(_is_at(each, where[0]) for each in holders):
            text = (
                f"{address} is wired at {shown} and is {holder}, so two workloads may use it; "
                f"remove and create the workload on {where[0][1]} again"
            )
            yield _about(ProblemKind.USED_BY_ANOTHER, address, holders, text)


def _leaks(inventory: Inventory, held: _Held, places: Mapping[IPAddress, Sequence[_Place]]) -> Iterator[Problem]:
    """Yield the addresses whose link is gone; one that is wired at another link is told as that."""
    overlapping = overlapping_blocks(inventory)
    grace_seconds = inventory.configuration.grace_seconds
    for address, holders in held.items():
        for each in holders:
            wired = inventory.wired_by_node.get(each.holder.node)
            if wired is None or each.holder.node not in inventory.nodes or address in places:
                continue
            gone = each.holder.interface not in wired.addresses_by_link
            if gone and wired.seen_at >= each.holder.created_at + grace_seconds:
                repairable = each.cidr not in overlapping
                way_out = (
                    f"release it with --fix or `tortiectl ipam release --ip={address}`"
                    if repairable
                    else "settle first which of the overlapping blocks stays"
                )
                text = (
                    f"{address} is held by {_holder_text(each)}, whose link {each.holder.interface} does not exist, so "
                    f"nobody else can have it; {way_out}"
                )
                yield _about(ProblemKind.LEAKED, address, [each], text, repairable=repairable)


def _unknown_holders(inventory: Inventory, held: _Held) -> Iterator[Problem]:
    for address, holders in held.items():
        for each in holders:
            if each.holder.node not in inventory.nodes:
                text = (
                    f"{address} is held by {_holder_text(each)}, and there is no such node, so nobody can reach it; "
                    f"start that node's agent, or free all it held with "
                    f"`tortiectl node delete --force {each.holder.node}`"
                )
                yield _about(ProblemKind.UNKNOWN_HOLDER, address, [each], text)


def _several(held: _Held) -> Iterator[Problem]:
    by_handle: dict[tuple[str, int], dict[IPAddress, HeldAddress]] = {}
    for address, holders in held.items():
        for each in holders:
            by_handle.setdefault((each.holder.handle, address.version), {})[address] = each
    for (handle, version), found in by_handle.items():
        if len(found) > 1:
            nodes = ", ".join(sorted({each.holder.node for each in found.values()}))
            addresses = ", ".join(map(str, sorted(found, key=int)))
            text = (
                f"handle {handle} holds {len(found)} IPv{version} addresses ({addresses}) on {nodes}, and a workload "
                f"has one; release those that its link does not have with `tortiectl ipam release --ip=...`"
            )
            yield Problem(ProblemKind.SEVERAL_ADDRESSES, handle, text, handle=handle)


def _about(
    kind: ProblemKind, address: IPAddress, holders: Sequence[HeldAddress], text: str, *, repairable: bool = False
) -> Problem:
    """Return a problem with an address, with the first of its holders."""
    if not holders:
        return Problem(kind, address, text, repairable)
    held = holders[0]
    return Problem(kind, address, text, repairable, held.cidr, held.holder.handle, held.holder.node, held.sequence)


def _holder_text(held: HeldAddress) -> str:
    return f"{held.holder.full_name} on node {held.holder.node} (handle {held.holder.handle})"

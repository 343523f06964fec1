"""Read everything there is of the address management, as of one instant, and find what is wrong with it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, decode_share, decode_usage
from controller.datamodel.endpoints import decode_endpoints
from controller.datamodel.records import decode_configuration, decode_node, decode_pool, decode_reservation
from controller.errors import MalformedRecord
from ipam.audit import audit
from ipam.configuration import IpamConfiguration
from ipam.inventory import Inventory, Relation, ShareKey, Wired
from ipam.problem import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.ports import Entry, Store
    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.pool import Pool
    from ipam.problem import Problem
    from ipam.summary import BlockSummary

#: How long a node may take to tell that a link is gone, in seconds, and how often it is looked whether it has.
SETTLE_SECONDS: Final = 15.0
_PAUSE_SECONDS: Final = 3.0
#: A share key below its prefix: node, relation, CIDR.
_SHARE_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is, and what is wrong with it."""

    inventory: Inventory
    problems: tuple[Problem, ...]


async def find_problems(
    store: Store,
    clock: Callable[[], float],
    *,
    settle_seconds: float = SETTLE_SECONDS,
    pause_seconds: float = _PAUSE_SECONDS,
) -> Findings:
    """Return what is wrong; `clock` gives seconds since the epoch. Raises what `Store.list` raises.

    Each reading is of one instant, so no transaction is seen half done. What nodes tell of their links follows some
    seconds after the release of an address, so a problem counts only if every reading shows it, and an address that is
    wired and held by nobody only if its node goes on telling so for `settle_seconds`.
    """
    found = await _find(store, clock)
    deadline = time.monotonic() + settle_seconds
    while found.problems:
        known = {problem.identity for problem in found.problems}
        found = await _find(store, clock)
        found = replace(found, problems=tuple(each for each in found.problems if each.identity in known))
        unsettled = any(problem.kind is ProblemKind.UNASSIGNED for problem in found.problems)
        if not unsettled or time.monotonic() >= deadline:
            break
        await asyncio.sleep(pause_seconds)
    return found


async def _find(store: Store, clock: Callable[[], float]) -> Findings:
    inventory = inventory_of(await store.list(keys.ROOT), now=clock())
    return Findings(inventory, audit(inventory))


def inventory_of(entries: Mapping[str, Entry], *, now: float) -> Inventory:
    """Return what these records, of one instant, say together; those that cannot be read are told as such."""
    reading = _Reading()
    for key, entry in entries.items():
        reading.take(key, entry.value)
    return Inventory(
        now=now,
        pools=tuple(sorted(reading.pools, key=lambda pool: (pool.version, pool.cidr, pool.name))),
        blocks=reading.blocks,
        unreadable_blocks=reading.unreadable_blocks,
        misplaced_blocks=reading.misplaced_blocks,
        unreadable=reading.unreadable,
        all_pools_known=not any(key.startswith(keys.POOLS) for key in reading.unreadable),
        junk=frozenset(reading.junk),
        summaries=reading.summaries,
        shares=reading.shares,
        nodes=frozenset(reading.nodes),
        wired_by_node=reading.wired_by_node,
        configuration=reading.configuration,
    )


class _Reading:
    """The records taken in so far, each where it belongs."""

    def __init__(self) -> None:
        self.pools: list[Pool] = []
        self.blocks: dict[IPNetwork, Block] = {}
        self.unreadable_blocks: dict[IPNetwork, str] = {}
        self.misplaced_blocks: dict[IPNetwork, IPNetwork] = {}
        self.unreadable: dict[str, str] = {}
        self.junk: list[str] = []
        self.summaries: dict[IPNetwork, BlockSummary | None] = {}
        self.shares: dict[ShareKey, int | None] = {}
        self.nodes: list[str] = []
        self.wired_by_node: dict[str, Wired] = {}
        self.configuration = IpamConfiguration()

    def take(self, key: str, value: bytes) -> None:
        """Put one record where it belongs; keys that are about something else are passed over."""
        try:
            if key.startswith(keys.BLOCKS):
                self._take_block(key, value)
            elif key.startswith(keys.USAGE):
                self._take_summary(key, value)
            elif key.startswith(keys.SHARES):
                self._take_share(key, value)
            else:
                self._take_other(key, value)
        except MalformedRecord as error:
            self.unreadable[key] = error.reason

    def _take_block(self, key: str, value: bytes) -> None:
        cidr = _cidr_of(key, keys.block)
        if cidr is None:
            self.junk.append(key)
            return
        try:
            self.blocks[cidr] = decode_block(key, value)
        except MalformedRecord as error:
            described = _described(value)
            if described is None or described == cidr:
                self.unreadable_blocks[cidr] = error.reason
            else:
                self.misplaced_blocks[cidr] = described

    def _take_summary(self, key: str, value: bytes) -> None:
        cidr = _cidr_of(key, keys.usage)
        if cidr is None:
            self.junk.append(key)
            return
        try:
            self.summaries[cidr] = decode_usage(key, value)
        except MalformedRecord:
            self.summaries[cidr] = None

    def _take_share(self, key: str, value: bytes) -> None:
        parts = key.removeprefix(keys.SHARES).split("/")
        if parts[1:] == ["anchor"]:
            return
        share = _share(key, parts)
        if share is None:
            self.junk.append(key)
            return
        try:
            self.shares[share] = decode_share(key, value)
        except MalformedRecord:
            self.shares[share] = None

    def _take_other(self, key: str, value: bytes) -> None:
        if key.startswith(keys.POOLS):
            self.pools.append(decode_pool(key, value))
        elif key.startswith(keys.NODES):
            # A node whose record makes no sense is there all the same.
            self.nodes.append(key.removeprefix(keys.NODES))
            decode_node(key, value)
        elif key.startswith(keys.ENDPOINTS):
            endpoints = decode_endpoints(key, value)
            self.wired_by_node[endpoints.node] = Wired(endpoints.seen_at, endpoints.addresses_by_link)
        elif key.startswith(keys.RESERVATIONS):
            decode_reservation(key, value)
        elif key == keys.IPAM_CONFIGURATION:
            self.configuration = decode_configuration(key, value)


def share_key(share: ShareKey) -> str:
    """Return the key in the store."""
    of = keys.owned if share.relation is Relation.OWN else keys.held
    return of(share.node, share.cidr)


def _share(key: str, parts: list[str]) -> ShareKey | None:
    """Return the share key that a key below `share/` is, if it is one."""
    if len(parts) != _SHARE_PARTS or parts[1] not in (Relation.OWN.value, Relation.HELD.value):
        return None
    try:
        share = ShareKey(parts[0], Relation(parts[1]), keys.cidr_of(key))
    except ValueError:
        return None
    return share if share_key(share) == key else None


def _cidr_of(key: str, written: Callable[[IPNetwork], str]) -> IPNetwork | None:
    """Return the CIDR that a key names as it must be written, if it does."""
    try:
        cidr = keys.cidr_of(key)
    except ValueError:
        return None
    return cidr if written(cidr) == key else None


def _described(value: bytes) -> IPNetwork | None:
    """Return the CIDR that a block's record is about by its own word, if it has one."""
    try:
        return ipaddress.ip_network(str(json.loads(value)["cidr"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

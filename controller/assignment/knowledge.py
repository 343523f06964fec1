"""What one node knows of the store: its view, and the version of every record the view rests on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, decode_share, share_cidr
from controller.datamodel.records import decode_pool
from controller.errors import MalformedRecord
from controller.ports import ABSENT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from controller.ports import Entry, Store, Version
    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.pool import Pool
    from ipam.view import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """A view, and the versions at which its blocks (by CIDR) and pools (by name) were read."""

    view: View
    block_versions: Mapping[IPNetwork, Version] = field(default_factory=dict)
    pool_versions: Mapping[str, Version] = field(default_factory=dict)

    def with_pools(self, pools: Mapping[str, tuple[Pool, Version]]) -> Knowledge:
        """Return the knowledge of these pools, by name, and no others."""
        return replace(
            self,
            view=self.view.with_pools(pool for pool, _ in pools.values()),
            pool_versions={name: version for name, (_, version) in pools.items()},
        )

    def with_blocks(
        self, changes: Mapping[IPNetwork, Block | None], versions: Mapping[IPNetwork, Version]
    ) -> Knowledge:
        """Return the knowledge in which these blocks are as given, None for absent, at these versions."""
        kept = {cidr: version for cidr, version in self.block_versions.items() if cidr not in changes}
        return replace(self, view=self.view.with_blocks(changes), block_versions={**kept, **versions})

    def committed(self, writes: Mapping[IPNetwork, Block | None], versions: Mapping[str, Version]) -> Knowledge:
        """Return the knowledge after these blocks were written, with the versions that the commit gave, by key."""
        written = {cidr: versions[keys.block(cidr)] for cidr, block in writes.items() if block is not None}
        return self.with_blocks(writes, written)

    def version_of(self, cidr: IPNetwork) -> Version:
        """Return the version a block was read at; ABSENT for one that is presumed not to exist."""
        return self.block_versions.get(cidr, ABSENT)

    def outdated_by(self, written: Mapping[str, Entry], deleted: Collection[str]) -> bool:
        """Tell whether these keys below the node's share say something that this knowledge does not contain."""
        return any(self._unheard_of(key, entry) for key, entry in written.items()) or any(map(self._believed, deleted))

    def share_keys(self) -> frozenset[str]:
        """Return the keys about blocks that should lie below the node's share."""
        node = self.view.node
        return frozenset(
            keys.owned(node, cidr) if block.affinity == node else keys.held(node, cidr)
            for cidr, block in self.view.block_by_cidr.items()
        )

    def _unheard_of(self, key: str, entry: Entry) -> bool:
        cidr = share_cidr(key)
        if cidr is None:
            return False
        block = self.view.block_by_cidr.get(cidr)
        try:
            return block is None or block.sequence < decode_share(key, entry.value)
        except MalformedRecord:
            return True

    def _believed(self, key: str) -> bool:
        return key in self.share_keys()


async def read_share(store: Store, knowledge: Knowledge) -> Knowledge:
    """Return the knowledge with the node's own share as it is in the store now: no other block is read."""
    return await _with_share(store, knowledge, await store.list(keys.share(knowledge.view.node)))


async def read_all(store: Store, knowledge: Knowledge) -> Knowledge:
    """Return the knowledge with the pools, the node's own share and the existence of every block as they are now.

    Every block lies in the share of its owner or of somebody who holds an address of it, so the short share keys tell
    which blocks exist; their contents are not read.
    """
    pools = _pools(await store.list(keys.POOLS))
    shares = await store.list(keys.SHARES)
    own = keys.share(knowledge.view.node)
    knowledge = knowledge.with_pools(pools)
    knowledge = replace(knowledge, view=replace(knowledge.view, taken_by_pool={}))
    foreign = {cidr for key in shares if not key.startswith(own) and (cidr := share_cidr(key)) is not None}
    knowledge = await _with_share(store, knowledge, {key: shares[key] for key in shares if key.startswith(own)})
    return replace(knowledge, view=knowledge.view.with_taken(foreign - knowledge.view.block_by_cidr.keys()))


async def read_keys(store: Store, knowledge: Knowledge, wanted: Collection[str]) -> Knowledge:
    """Return the knowledge with the pools and blocks under these keys as they are in the store now."""
    entries = await store.get(wanted)
    blocks = {key: entries.get(key) for key in wanted if key.startswith(keys.BLOCKS)}
    knowledge = _with_block_entries(knowledge, blocks)
    touched = {key.removeprefix(keys.POOLS) for key in wanted if key.startswith(keys.POOLS)}
    if not touched:
        return knowledge
    versions = knowledge.pool_versions
    kept = {name: (pool, versions[name]) for name, pool in knowledge.view.pool_by_name.items() if name not in touched}
    found = {key: entry for key, entry in entries.items() if key.startswith(keys.POOLS)}
    return knowledge.with_pools({**kept, **_pools(found)})


async def _with_share(store: Store, knowledge: Knowledge, share: Mapping[str, Entry]) -> Knowledge:
    cidrs = {cidr for key in share if (cidr := share_cidr(key)) is not None}
    wanted = [keys.block(cidr) for cidr in cidrs]
    entries = await store.get(wanted) if wanted else {}
    knowledge = knowledge.with_blocks(dict.fromkeys(knowledge.view.block_by_cidr), {})
    return _with_block_entries(knowledge, {key: entries.get(key) for key in wanted})


def _with_block_entries(knowledge: Knowledge, entries: Mapping[str, Entry | None]) -> Knowledge:
    """Take in blocks by key, None for absent: the node's own share is known by content, the rest by existence."""
    changes: dict[IPNetwork, Block | None] = {}
    versions: dict[IPNetwork, Version] = {}
    taken = []
    for key, entry in entries.items():
        cidr = keys.cidr_of(key)
        block = None if entry is None else _block(key, entry)
        if entry is not None and block is not None and _concerns(block, knowledge.view.node):
            changes[cidr], versions[cidr] = block, entry.version
            continue
        changes[cidr] = None
        if entry is not None:
            taken.append(cidr)
    known = knowledge.with_blocks(changes, versions)
    return replace(known, view=known.view.with_taken(taken))


def _concerns(block: Block, node: str) -> bool:
    return block.affinity == node or node in block.holding_nodes()


def _block(key: str, entry: Entry) -> Block | None:
    """Return the block, or None after saying that it cannot be read: it then counts as taken and is left alone."""
    try:
        return decode_block(key, entry.value)
    except MalformedRecord as error:
        log.error("block cannot be read and is left alone", extra={"key": key, "reason": str(error)})  # noqa: TRY400  the reason says all, the traceback nothing
        return None


def _pools(entries: Mapping[str, Entry]) -> dict[str, tuple[Pool, Version]]:
    pools = {}
    for key, entry in entries.items():
        try:
            pools[key.removeprefix(keys.POOLS)] = (decode_pool(key, entry.value), entry.version)
        except MalformedRecord as error:
            log.warning("pool cannot be read and is left out", extra={"key": key, "reason": str(error)})
    return pools

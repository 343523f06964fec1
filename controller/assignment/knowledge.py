"""What one node knows of the store: its view, and the version of every record the view rests on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, decode_share, decode_usage, share_cidr
from controller.datamodel.records import decode_configuration, decode_pool, decode_reservation
from controller.errors import MalformedRecord
from controller.ports import ABSENT
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from controller.ports import Entry, Store, Version
    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.pool import Pool
    from ipam.reservation import Reservation
    from ipam.summary import BlockSummary
    from ipam.view import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What operators have set: the pools by name with their records' versions, and what applies to all of them."""

    pools: Mapping[str, tuple[Pool, Version]] = field(default_factory=dict)
    reservations: tuple[Reservation, ...] = ()
    configuration: IpamConfiguration = field(default_factory=IpamConfiguration)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """A view, and the versions at which its blocks (by CIDR) and pools (by name) were read.

    `former` has those of the node's blocks that cannot be read any more, as they were: nothing is assigned from them,
    and who holds an address there goes on using it. `unread` has those that could not be read since the start either,
    and of each whether the node owns it, as its share says.
    """

    view: View
    block_versions: Mapping[IPNetwork, Version] = field(default_factory=dict)
    pool_versions: Mapping[str, Version] = field(default_factory=dict)
    former: Mapping[IPNetwork, Block] = field(default_factory=dict)
    unread: Mapping[IPNetwork, bool] = field(default_factory=dict)

    @property
    def used(self) -> View:
        """The view in which blocks that cannot be read any more are as they were."""
        return self.view.with_blocks(self.former) if self.former else self.view

    @property
    def rules(self) -> Rules:
        """The rules that the view rests on."""
        pools = {name: (pool, self.pool_versions[name]) for name, pool in self.view.pool_by_name.items()}
        return Rules(pools, self.view.reservations, self.view.configuration)

    def with_rules(self, rules: Rules) -> Knowledge:
        """Return the knowledge under these rules and no others."""
        view = self.view.with_pools(pool for pool, _ in rules.pools.values())
        return replace(
            self,
            view=replace(view, reservations=rules.reservations, configuration=rules.configuration),
            pool_versions={name: version for name, (_, version) in rules.pools.items()},
        )

    def with_blocks(
        self, changes: Mapping[IPNetwork, Block | None], versions: Mapping[IPNetwork, Version]
    ) -> Knowledge:
        """Return the knowledge in which these blocks are as given, None for absent, at these versions."""
        kept = {cidr: version for cidr, version in self.block_versions.items() if cidr not in changes}
        former = {cidr: block for cidr, block in self.former.items() if cidr not in changes}
        unread = {cidr: owned for cidr, owned in self.unread.items() if cidr not in changes}
        view = self.view.with_blocks(changes)
        return replace(self, view=view, block_versions={**kept, **versions}, former=former, unread=unread)

    def committed(self, writes: Mapping[IPNetwork, Block | None], versions: Mapping[str, Version]) -> Knowledge:
        """Return the knowledge after these blocks were written, with the versions that the commit gave, by key.

        What was read of other nodes' blocks for it is forgotten.
        """
        written = {cidr: versions[keys.block(cidr)] for cidr, block in writes.items() if block is not None}
        return self.with_blocks(writes, written).forgetful()

    def forgetful(self) -> Knowledge:
        """Return the knowledge without the contents of blocks that do not concern the node."""
        view = self.view.forgetful()
        if view is self.view:
            return self
        kept = {cidr: version for cidr, version in self.block_versions.items() if cidr in view.block_by_cidr}
        return replace(self, view=view, block_versions=kept)

    def version_of(self, cidr: IPNetwork) -> Version:
        """Return the version a block was read at; ABSENT for one that is presumed not to exist."""
        return self.block_versions.get(cidr, ABSENT)

    def outdated_by(self, written: Mapping[str, Entry], deleted: Collection[str]) -> frozenset[IPNetwork]:
        """Return the blocks of which these keys below the node's share say something that is not known here."""
        news = {key for key, entry in written.items() if self._unheard_of(key, entry)} | self.share_keys() & set(
            deleted
        )
        return frozenset(cidr for key in news if (cidr := share_cidr(key)) is not None)

    def share_keys(self) -> frozenset[str]:
        """Return the keys about blocks that should lie below the node's share."""
        node = self.view.node
        return frozenset(
            keys.owned(node, cidr) if block.affinity == node else keys.held(node, cidr)
            for cidr, block in self.used.block_by_cidr.items()
            if self.view.concerns(block)
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


async def read_share(store: Store, knowledge: Knowledge) -> Knowledge:
    """Return the knowledge with the node's own share as it is in the store now: no other block is read."""
    return await _with_share(store, knowledge, await store.list(keys.share(knowledge.view.node)))


async def read_all(store: Store, knowledge: Knowledge) -> Knowledge:
    """Return the knowledge with the rules, the node's own share and the list of every block as they are now.

    The short summaries tell which blocks exist; the contents of those that do not concern the node are not read.
    """
    rules = rules_of(
        {
            **await store.list(keys.POOLS),
            **await store.list(keys.RESERVATIONS),
            **await store.get([keys.IPAM_CONFIGURATION]),
        },
        knowledge.rules,
    )
    return await read_summaries(store, await read_share(store, knowledge.with_rules(rules)))


async def read_summaries(store: Store, knowledge: Knowledge) -> Knowledge:
    """Return the knowledge with the list of every block there is now; those that could not be read are read again.

    So is a block whose summary cannot be read: it exists, and its content tells what the summary does not.
    """
    found = {key: _summary(key, entry) for key, entry in (await store.list(keys.USAGE)).items()}
    summaries = [summary for summary in found.values() if summary is not None]
    cidrs = [share_cidr(key) for key, summary in found.items() if summary is None]
    known = knowledge.forgetful()
    view = known.view.with_summaries(summaries).with_unreadable(cidr for cidr in cidrs if cidr is not None)
    known = replace(known, view=view)
    return await read_blocks(store, known, view.unreadable) if view.unreadable else known


async def read_blocks(store: Store, knowledge: Knowledge, cidrs: Collection[IPNetwork]) -> Knowledge:
    """Return the knowledge with the contents of these blocks as they are now."""
    wanted = [keys.block(cidr) for cidr in cidrs]
    entries = await store.get(wanted)
    return _with_block_entries(knowledge, {key: entries.get(key) for key in wanted})


async def read_keys(store: Store, knowledge: Knowledge, wanted: Collection[str]) -> Knowledge:
    """Return the knowledge with the pools and blocks under these keys as they are in the store now."""
    entries = await store.get([key for key in wanted if key.startswith((keys.BLOCKS, keys.POOLS))])
    blocks = {key: entries.get(key) for key in wanted if key.startswith(keys.BLOCKS)}
    knowledge = _with_block_entries(knowledge, blocks)
    touched = {key.removeprefix(keys.POOLS) for key in wanted if key.startswith(keys.POOLS)}
    if not touched:
        return knowledge
    rules = knowledge.rules
    kept = {name: pool for name, pool in rules.pools.items() if name not in touched}
    found = rules_of({key: entry for key, entry in entries.items() if key.startswith(keys.POOLS)})
    return knowledge.with_rules(replace(rules, pools={**kept, **found.pools}))


def rules_of(entries: Mapping[str, Entry], known: Rules | None = None) -> Rules:
    """Return the rules in these records, which may be among others; one that cannot be read is told.

    A pool that cannot be read gives nothing, so it is left out. What forbids something, a reservation or the
    configuration, goes on as it was `known`.
    """
    known = known or Rules()
    known_reservations = {keys.reservation(reservation.name): reservation for reservation in known.reservations}
    pools: dict[str, tuple[Pool, Version]] = {}
    reservations: list[Reservation] = []
    configuration = IpamConfiguration()
    for key, entry in sorted(entries.items()):
        try:
            if key.startswith(keys.POOLS):
                pools[key.removeprefix(keys.POOLS)] = (decode_pool(key, entry.value), entry.version)
            elif key.startswith(keys.RESERVATIONS):
                reservations.append(decode_reservation(key, entry.value))
            elif key == keys.IPAM_CONFIGURATION:
                configuration = decode_configuration(key, entry.value)
        except MalformedRecord as error:
            log.warning("record cannot be read", extra={"key": key, "reason": str(error)})
            if key in known_reservations:
                reservations.append(known_reservations[key])
            elif key == keys.IPAM_CONFIGURATION:
                configuration = known.configuration
    return Rules(pools, tuple(reservations), configuration)


async def _with_share(store: Store, knowledge: Knowledge, share: Mapping[str, Entry]) -> Knowledge:
    cidrs = {cidr for key in share if (cidr := share_cidr(key)) is not None}
    gone = (knowledge.used.block_by_cidr.keys() | knowledge.unread.keys()) - cidrs
    known = await read_blocks(store, knowledge.forgetful().with_blocks(dict.fromkeys(gone), {}), cidrs)
    unread = (cidrs & known.view.unreadable) - known.former.keys()
    return replace(known, unread={cidr: keys.owned(known.view.node, cidr) in share for cidr in unread})


def _with_block_entries(knowledge: Knowledge, entries: Mapping[str, Entry | None]) -> Knowledge:
    """Take in blocks by key, None for absent; one that cannot be read counts as taken and is left alone."""
    changes: dict[IPNetwork, Block | None] = {}
    versions: dict[IPNetwork, Version] = {}
    unreadable = []
    for key, entry in entries.items():
        cidr = keys.cidr_of(key)
        changes[cidr] = None
        if entry is None:
            continue
        block = _block(key, entry)
        if block is None:
            unreadable.append(cidr)
        else:
            changes[cidr], versions[cidr] = block, entry.version
    known = knowledge.with_blocks(changes, versions)
    used = knowledge.used
    former = {
        cidr: block
        for cidr in unreadable
        if (block := used.block_by_cidr.get(cidr)) is not None and used.concerns(block)
    }
    unread = {cidr: owned for cidr, owned in knowledge.unread.items() if cidr in unreadable}
    return replace(
        known,
        view=known.view.with_unreadable(unreadable),
        former={**known.former, **former},
        unread={**known.unread, **unread},
    )


def _block(key: str, entry: Entry) -> Block | None:
    """Return the block, or None after saying that it cannot be read: it then counts as taken and is left alone."""
    try:
        return decode_block(key, entry.value)
    except MalformedRecord as error:
        log.error("block cannot be read and is left alone", extra={"key": key, "reason": str(error)})  # noqa: TRY400  the reason says all, the traceback nothing
        return None


def _summary(key: str, entry: Entry) -> BlockSummary | None:
    try:
        return decode_usage(key, entry.value)
    except MalformedRecord as error:
        log.warning("summary cannot be read and is left out", extra={"key": key, "reason": str(error)})
        return None

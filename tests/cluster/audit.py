"""Whether the records in the store agree: each ordinal once, no overlap, summaries and shares as the blocks say."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, decode_share, decode_usage
from controller.datamodel.records import decode_pool
from controller.errors import MalformedRecord
from ipam.summary import BlockSummary
from tests.cluster.checker import Fault, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ipam.address import IPAddress
    from ipam.block import Block


def blocks_in(records: Mapping[str, bytes]) -> list[Block]:
    """Return the blocks among these records, by their first address; raises `MalformedRecord`."""
    found = [decode_block(key, value) for key, value in records.items() if key.startswith(keys.BLOCKS)]
    return sorted(found, key=lambda block: (block.version, block.cidr.network_address))


def held_in(records: Mapping[str, bytes]) -> dict[IPAddress, str]:
    """Return whose each held address is; raises `MalformedRecord`."""
    return {address: holder.handle for block in blocks_in(records) for address, holder in block.assignments()}


def audit(records: Mapping[str, bytes]) -> list[Finding]:
    """Return every contradiction among all the records of the store."""
    try:
        blocks = blocks_in(records)
        texts = [
            *_partition(records),
            *_places(blocks, records),
            *_summaries(blocks, records),
            *_shares(blocks, records),
        ]
    except MalformedRecord as error:
        texts = [str(error)]
    return [Finding(Fault.STRUCTURE, text) for text in texts]


def _partition(records: Mapping[str, bytes]) -> Iterator[str]:
    for key, value in records.items():
        if key.startswith(keys.BLOCKS):
            fields = json.loads(value)
            listed = [*map(int, fields["holders"]), *map(int, fields["resting"]), *fields["free"]]
            if sorted(listed) != list(range(keys.cidr_of(key).num_addresses)):
                yield f"{key}: held, resting and free are not each ordinal once"


def _places(blocks: list[Block], records: Mapping[str, bytes]) -> Iterator[str]:
    pools = [decode_pool(key, value) for key, value in records.items() if key.startswith(keys.POOLS)]
    for block in blocks:
        if not any(pool.contains(block.cidr) and pool.block_prefix_length == block.cidr.prefixlen for pool in pools):
            yield f"block {block.cidr} is no block of any pool"
    for one, other in pairwise(blocks):
        if one.version == other.version and one.cidr.overlaps(other.cidr):
            yield f"blocks {one.cidr} and {other.cidr} overlap"


def _summaries(blocks: list[Block], records: Mapping[str, bytes]) -> Iterator[str]:
    wanted = {keys.usage(block.cidr): BlockSummary.of(block) for block in blocks}
    found = {key: decode_usage(key, value) for key, value in records.items() if key.startswith(keys.USAGE)}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            yield f"{key} says {found.get(key)}, and of the block follows {wanted.get(key)}"


def _shares(blocks: list[Block], records: Mapping[str, bytes]) -> Iterator[str]:
    newest: dict[str, int] = {}
    for block in blocks:
        if block.affinity is not None:
            newest[keys.owned(block.affinity, block.cidr)] = block.sequence
        for node in block.holding_nodes() - {block.affinity}:
            newest[keys.held(node, block.cidr)] = block.sequence
    found = {
        key: decode_share(key, value)
        for key, value in records.items()
        if key.startswith(keys.SHARES) and not key.endswith("/anchor")
    }
    yield from (f"{key} is missing" for key in sorted(newest.keys() - found.keys()))
    yield from (f"{key} is there, and its block says otherwise" for key in sorted(found.keys() - newest.keys()))
    for key in sorted(newest.keys() & found.keys()):
        if found[key] > newest[key]:
            yield f"{key} tells of sequence {found[key]}, and its block is at {newest[key]}"

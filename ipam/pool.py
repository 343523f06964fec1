"""Pools: the ranges addresses come from, and the blocks each is cut into."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ipam.address import shared_offsets
from ipam.errors import InvalidBlock, InvalidPool, InvalidSelector
from ipam.selector import EVERY_NODE, check_selector

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ipam.address import IPAddress, IPNetwork

#: Allowed block prefix lengths and the default, by IP version.
BLOCK_PREFIX_LENGTHS = {4: range(20, 33), 6: range(116, 129)}
DEFAULT_BLOCK_PREFIX_LENGTH = {4: 26, 6: 122}
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))


def check_block_size(cidr: IPNetwork) -> None:
    """Raise `InvalidBlock` for a network of a size that no block has."""
    allowed = BLOCK_PREFIX_LENGTHS[cidr.version]
    if cidr.prefixlen not in allowed:
        raise InvalidBlock(
            f"block {cidr}: its prefix length is outside /{allowed[0]} to /{allowed[-1]}; restore the record"
        )


class AssignmentMode(Enum):
    """Whether addresses are taken from a pool without being asked for by its name."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Pool:
    """A range of addresses, cut into blocks of one size; raises `InvalidPool` when it breaks a rule.

    `disabled` stops new assignments only: addresses already assigned keep their routes. `communities` are the BGP
    communities (RFC 1997) that its prefixes are announced with.
    """

    name: str
    cidr: IPNetwork
    block_prefix_length: int
    disabled: bool = False
    assignment: AssignmentMode = AssignmentMode.AUTOMATIC
    node_selector: str = EVERY_NODE
    nat_outgoing: bool = False
    disable_bgp_export: bool = False
    communities: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Check the rules that concern this pool alone."""
        allowed = BLOCK_PREFIX_LENGTHS[self.cidr.version]
        if self.block_prefix_length not in allowed:
            raise InvalidPool(
                f"pool {self.name}: block prefix length /{self.block_prefix_length} is outside /{allowed[0]} to "
                f"/{allowed[-1]} for IPv{self.cidr.version}"
            )
        if self.block_prefix_length < self.cidr.prefixlen:
            raise InvalidPool(
                f"pool {self.name}: a /{self.block_prefix_length} block does not fit into {self.cidr}; "
                f"use a longer block prefix length or a larger pool"
            )
        try:
            check_selector(self.node_selector)
        except InvalidSelector as error:
            raise InvalidPool(f"pool {self.name}: {error}") from error
        for network in _LINK_LOCAL:
            if self.cidr.version == network.version and self.cidr.overlaps(network):
                raise InvalidPool(f"pool {self.name}: {self.cidr} overlaps the link-local range {network}")

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return self.cidr.version

    @property
    def block_count(self) -> int:
        """How many blocks the pool holds."""
        return 1 << (self.block_prefix_length - self.cidr.prefixlen)

    def block_at(self, index: int) -> IPNetwork:
        """Return the CIDR of the block with this index, counted from the start of the pool."""
        size = self.cidr.max_prefixlen - self.block_prefix_length
        first = int(self.cidr.network_address) + (index << size)
        return type(self.cidr)((first, self.block_prefix_length))

    def block_of(self, address: IPAddress) -> IPNetwork:
        """Return the CIDR of the block this address lies in; the address must lie in the pool."""
        return type(self.cidr)((int(address), self.block_prefix_length), strict=False)

    def contains(self, cidr: IPNetwork) -> bool:
        """Tell whether every address of this network lies in the pool."""
        return cidr.prefixlen >= self.cidr.prefixlen and bool(shared_offsets(self.cidr, cidr))

    def indexes_in(self, cidr: IPNetwork) -> range:
        """Return the indexes of the pool's blocks that share an address with this network; empty if none does.

        The network may be of another size than the pool's blocks: one left behind by an earlier pool, say.
        """
        shared = shared_offsets(self.cidr, cidr)
        shift = self.cidr.max_prefixlen - self.block_prefix_length
        return range(shared.start >> shift, ((shared.stop - 1) >> shift) + 1) if shared else shared

    def start_of(self, node: str) -> int:
        """Return the index at which this node begins to look for a block: a stable hash, so that nodes rarely meet."""
        digest = hashlib.blake2b(node.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.block_count

    def distance(self, node: str, cidr: IPNetwork) -> int:
        """Return how many blocks after the first one that this node tries a network of the pool begins."""
        return (self.indexes_in(cidr).start - self.start_of(node)) % self.block_count

    def candidates(self, node: str, taken: Collection[int], barred: Sequence[range] = ()) -> Iterator[IPNetwork]:
        """Yield the blocks whose index is neither taken nor barred, in the order in which this node should try them.

        `barred` are ranges of indexes in order and apart. Lazy, and they are jumped over: an IPv6 pool may have 2**50
        blocks.
        """
        start = self.start_of(node)
        for part in (range(start, self.block_count), range(start)):
            for gap in _gaps(part, barred):
                for index in gap:
                    if index not in taken:
                        yield self.block_at(index)


def _gaps(whole: range, walls: Sequence[range]) -> Iterator[range]:
    """Yield what the walls, which are in order and apart, leave of the whole."""
    start = whole.start
    for wall in walls:
        if wall.start > start:
            yield range(start, min(wall.start, whole.stop))
        start = max(start, wall.stop)
    yield range(start, whole.stop)

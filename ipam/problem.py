"""What an audit of the address management finds wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, TypeAlias

from ipam.inventory import ShareKey

if TYPE_CHECKING:
    from ipam.address import IPAddress, IPNetwork

#: What a problem is about: an address, a block or pool, a node's share of a block, a record's key or a handle.
Subject: TypeAlias = "IPAddress | IPNetwork | ShareKey | str"


class ProblemKind(Enum):
    """The kinds of problems, in the order in which they are told; the value is the label in reports."""

    LEAKED = "leaked-address"
    UNASSIGNED = "used-without-assignment"
    USED_BY_ANOTHER = "used-by-another"
    WIRED_TWICE = "wired-twice"
    SEVERAL_ADDRESSES = "handle-with-several-addresses"
    UNKNOWN_HOLDER = "holder-on-unknown-node"
    POOLS_OVERLAP = "pools-overlap"
    OUTSIDE_POOLS = "block-outside-pools"
    WRONG_SIZE = "block-of-wrong-size"
    BLOCKS_OVERLAP = "blocks-overlap"
    UNKNOWN_OWNER = "block-of-unknown-node"
    UNUSED_BLOCK = "unowned-empty-block"
    UNREADABLE_BLOCK = "unreadable-block"
    MISPLACED_BLOCK = "block-under-wrong-key"
    UNREADABLE_RECORD = "unreadable-record"
    JUNK_KEY = "key-of-nothing"
    SHARE_MISSING = "share-key-missing"
    SHARE_WRONG = "share-key-wrong"
    SHARE_WITHOUT_BLOCK = "share-key-without-block"
    SUMMARY_MISSING = "summary-missing"
    SUMMARY_WRONG = "summary-wrong"
    SUMMARY_WITHOUT_BLOCK = "summary-without-block"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    `text` says what is wrong, what follows from it and how to repair it. `repairable` says that it can be repaired
    without losing anything; `cidr` is the block that the repair is about. For an address that is held, `handle`, `node`
    and `sequence` say by whom and since which change of its ordinal.
    """

    kind: ProblemKind
    subject: Subject
    text: str
    repairable: bool = False
    cidr: IPNetwork | None = None
    handle: str | None = None
    node: str | None = None
    sequence: int | None = None

    @property
    def address(self) -> IPAddress | None:
        """The address that the problem is about, if it is about one."""
        return self.subject if isinstance(self.subject, IPv4Address | IPv6Address) else None

    @property
    def identity(self) -> tuple[ProblemKind, Subject, str | None, int | None]:
        """What two readings must have in common for the problem to be the same in both."""
        return self.kind, self.subject, self.handle, self.sequence

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """Where the problem stands among others of its kind: by address, else by text."""
        if isinstance(self.subject, str):
            return 0, 0, 0, self.subject
        network = self.subject.cidr if isinstance(self.subject, ShareKey) else ip_network(self.subject)
        return network.version, int(network.network_address), network.prefixlen, str(self.subject)

"""Learned routes as the sidecar keeps them and hands them on: their prefixes stay in the octets they came in.

Nobody there asks for a single route. The agent makes routes of them when it reads the line (`bgp.wire`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bgp.address import IPAddress
    from bgp.policy import Rejection

#: The fields of `LearnedRoute` from `next_hop` on.
Shared: TypeAlias = tuple[
    "IPAddress", "IPAddress", tuple[int, ...], int, int, str, tuple[tuple[int, int], ...], str, tuple[str, ...]
]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Prefixes of one IP version, each by itself in `parts` (`bgp.nlri.split`)."""

    version: int
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Routes that share everything but their prefixes."""

    prefixes: Prefixes
    shared: Shared

    @property
    def peer(self) -> IPAddress:
        """Who announced them."""
        return self.shared[1]


@dataclass(frozen=True, slots=True)
class Refused:
    """Prefixes that were announced in a way that counts as their withdrawal (RFC 7606, section 2)."""

    reason: Rejection
    prefixes: Prefixes


@dataclass(frozen=True, slots=True)
class Update:
    """One update of a peer: the withdrawals come first, then what it announces.

    `withdrawn` has each IP version once at most; what is `refused` is among them.
    """

    peer: IPAddress
    withdrawn: tuple[Prefixes, ...]
    announced: tuple[Group, ...]
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """Everything the sidecar knows; what a client reads of it is a `bgp.events.SpeakerSnapshot`."""

    established: frozenset[IPAddress]
    ended: frozenset[tuple[IPAddress, int]]
    routes: tuple[Group, ...]

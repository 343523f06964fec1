"""What a diagnosis finds: which link of a chain is broken, where, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipam.problem import ProblemKind


class FindingKind(Enum):
    """The kinds of broken links besides those of the address management; the value is the label for programs."""

    NODE_SILENT = "node-silent"
    STORE_STALE = "store-stale"
    SPEAKER_LOST = "speaker-lost"
    UNDECIDED = "undecided"
    FORWARDING_OFF = "forwarding-off"
    NODE_PROBLEM = "node-problem"
    NOT_COMPARED = "not-compared"
    SESSION_DOWN = "session-down"
    UNOWNED_BLOCK = "block-without-affinity"
    BLOCK_UNKNOWN = "block-unknown-to-owner"
    LINK_MISSING = "link-missing"
    LINK_DOWN = "link-down"
    NEIGHBOUR_MISSING = "neighbour-missing"
    NOT_ANNOUNCED = "not-announced"
    NOT_LEARNED = "not-learned"
    REJECTED = "route-rejected"
    UNRESOLVED = "next-hop-unreachable"
    NOT_WANTED = "route-not-used"
    ROUTE_MISSING = "route-missing"
    BLACKHOLE_MISSING = "blackhole-missing"
    WRONG_NEXT_HOP = "wrong-next-hop"
    FOREIGN_ROUTE = "foreign-route"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken link: `text` says what is wrong and what follows, `remedy` what to do.

    `node` is where it is broken, None where the store is; `subject` what it is about.
    """

    kind: FindingKind | ProblemKind
    node: str | None
    subject: str
    text: str
    remedy: str

    @property
    def identity(self) -> tuple[str, str | None, str]:
        """What two readings must have in common for the finding to be the same in both."""
        return self.kind.value, self.node, self.subject

    @property
    def sentence(self) -> str:
        """The whole for people."""
        return f"{self.text}; {self.remedy}" if self.remedy else self.text

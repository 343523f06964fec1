"""What the sidecar can do next: one step each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bgp import exabgp_commands

if TYPE_CHECKING:
    from bgp.address import IPAddress
    from bgp.peer import Peer


@dataclass(frozen=True, slots=True)
class Change:
    """Announce, or withdraw, prefixes with one attribute text on some sessions."""

    peers: tuple[IPAddress, ...]
    announce: bool
    attributes: str
    prefixes: tuple[str, ...]

    def commands(self) -> list[str]:
        """Return ExaBGP's commands."""
        write = exabgp_commands.announce if self.announce else exabgp_commands.withdraw
        return [write(self.peers, self.attributes, self.prefixes)]


@dataclass(frozen=True, slots=True)
class Ending:
    """Send End-of-RIB of every family on one session."""

    peer: IPAddress

    def commands(self) -> list[str]:
        """Return ExaBGP's commands."""
        return [exabgp_commands.end_of_rib([self.peer], version) for version in (4, 6)]


@dataclass(frozen=True, slots=True)
class Flush:
    """See that nothing is queued for one session."""

    peer: IPAddress


@dataclass(frozen=True, slots=True)
class Reload:
    """Make ExaBGP load exactly these neighbours."""

    peers: tuple[Peer, ...]


Step: TypeAlias = Change | Ending | Flush | Reload

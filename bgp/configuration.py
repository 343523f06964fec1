"""What applies to the peers of every node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BgpConfiguration:
    """The rules of the whole cluster. `mesh`: each node peers with each other one that is no route reflector."""

    mesh: bool = True

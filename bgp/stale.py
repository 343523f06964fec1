"""Routes of a peer whose session ended: until when each may be used (RFC 4724, section 4.2).

A route gets the restart time when its session ends, and once more when the peer comes back, to be announced again. If
that does not happen its time is running out, however often sessions come and go meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Set as AbstractSet

    from bgp.address import IPNetwork


@dataclass(slots=True)
class _Generation:
    """Routes that became stale together; `had_session` says whether the peer has come back since."""

    prefixes: set[IPNetwork]
    until: float
    had_session: bool


class Stale:
    """The stale ones of a peer's routes; times are on any scale that only grows."""

    def __init__(self) -> None:
        self._generations: list[_Generation] = []

    def __len__(self) -> int:
        return sum(len(generation.prefixes) for generation in self._generations)

    @property
    def until(self) -> float | None:
        """When the first of them are to go, or None."""
        return min((generation.until for generation in self._generations), default=None)

    def retain(self, routes: AbstractSet[IPNetwork], until: float) -> None:
        """Make all routes stale; those that are already keep the time they have."""
        self._add(routes, until, had_session=False)

    def begin(self, routes: AbstractSet[IPNetwork], until: float) -> None:
        """Make all routes stale, and give those so much time that no session has begun for since they are."""
        self._add(routes, until, had_session=True)
        waiting = [generation for generation in self._generations if not generation.had_session]
        for generation in waiting:
            generation.until, generation.had_session = until, True

    def refresh(self, prefixes: Collection[IPNetwork]) -> None:
        """Note that these are announced again, or gone."""
        for generation in self._generations:
            generation.prefixes.difference_update(prefixes)
        self._generations = [generation for generation in self._generations if generation.prefixes]

    def expired(self, now: float) -> list[IPNetwork]:
        """Return those whose time is over."""
        return [prefix for generation in self._generations if generation.until <= now for prefix in generation.prefixes]

    def of(self, version: int) -> list[IPNetwork]:
        """Return those of an IP version."""
        everything = (prefix for generation in self._generations for prefix in generation.prefixes)
        return [prefix for prefix in everything if prefix.version == version]

    def _add(self, routes: AbstractSet[IPNetwork], until: float, *, had_session: bool) -> None:
        fresh = set(routes).difference(*(generation.prefixes for generation in self._generations))
        if fresh:
            self._generations.append(_Generation(fresh, until, had_session))

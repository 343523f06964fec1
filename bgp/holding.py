"""What was learned on one session, within a bound.

A peer gone bad, or one behind it, can announce without end, and attributes that take more room than its prefixes. So
everything is weighed: a prefix counts one, what it was announced with what a function says. Beyond the bound nothing
is kept but a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_Kept = TypeVar("_Kept")

#: What is kept of one session: this many prefixes, if what they were announced with is of a common size.
MOST: Final = 500_000


class Holding(Generic[_Kept]):
    """What each prefix was announced with, by IP version and octets (`bgp.nlri`); `weigh` says how much that weighs.

    `left_out` counts the prefixes for which there was no room.
    """

    def __init__(self, weigh: Callable[[_Kept], int], most: int = MOST) -> None:
        self._weigh = weigh
        self._most = most
        self._kept: dict[int, dict[bytes, _Kept]] = {4: {}, 6: {}}
        # To know at every moment what exactly is held would cost a look at each prefix. So this is never too little,
        # and worked out anew when it matters, but not before much has come and gone.
        self._held = 0
        self._moved = 0
        self.left_out = 0

    def put(self, version: int, parts: Iterable[bytes], what: _Kept) -> tuple[bytes, ...]:
        """Keep this for each prefix, and return those for which there is no room: of them nothing is kept any more.

        A light one takes the place of what there is of the same prefix in any case: who announces too much must not
        take away what others announced before.
        """
        parts, weight = tuple(parts), self._weigh(what)
        kept = self._kept[version]
        if self._has_room(len(parts) + weight):
            kept.update(dict.fromkeys(parts, what))
            return ()
        known = [] if weight else [part for part in parts if part in kept]
        beyond = tuple(set(parts).difference(known))
        self.drop(version, beyond)
        self.left_out += len(beyond)
        kept.update(dict.fromkeys(known, what))
        return beyond

    def drop(self, version: int, parts: Iterable[bytes]) -> None:
        """Keep nothing of these prefixes."""
        kept = self._kept[version]
        before = len(kept)
        for part in parts:
            kept.pop(part, None)
        self._held -= before - len(kept)
        self._moved += before - len(kept)

    def alike(self) -> Iterator[tuple[int, _Kept, list[bytes]]]:
        """Yield, by IP version, each thing that is kept with the prefixes that it is kept for."""
        for version, kept in self._kept.items():
            # Prefixes that came together share one object: to tell those apart takes much less time than to compare.
            parts_by_identity: dict[int, tuple[_Kept, list[bytes]]] = {}
            for part, what in kept.items():
                parts_by_identity.setdefault(id(what), (what, []))[1].append(part)
            for what, parts in parts_by_identity.values():
                yield version, what, parts

    def _has_room(self, weight: int) -> bool:
        self._moved += weight
        if self._held + weight > self._most and self._moved >= self._most >> 3:
            self._moved = 0
            self._held = sum(len(parts) + self._weigh(what) for _, what, parts in self.alike())
        has_room = self._held + weight <= self._most
        if has_room:
            self._held += weight
        return has_room

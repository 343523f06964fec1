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

    `left_out` counts how often there was no room for a prefix: one that is announced again counts again, and one that
    is withdrawn stays counted, for nothing is kept to tell them apart by.
    """

    def __init__(self, weigh: Callable[[_Kept], int], most: int = MOST) -> None:
        self._weigh = weigh
        self._most = most
        self._kept: dict[int, dict[bytes, _Kept]] = {4: {}, 6: {}}
        # How many prefixes are kept with each thing that weighs something, by identity, and what those weigh together.
        # There are none of them as long as nobody means harm: counting costs little then.
        self._uses: dict[int, int] = {}
        self._weight = 0
        self.left_out = 0

    def put(self, version: int, parts: Iterable[bytes], what: _Kept) -> tuple[bytes, ...]:
        """Keep this for each prefix, and return those for which there is no room: of them nothing is kept any more.

        A light one takes the place of what there is of the same prefix in any case: who announces too much must not
        take away what others announced before.
        """
        kept, added = self._kept[version], dict.fromkeys(parts, what)
        beyond = self._beyond(kept, added, 0 if id(what) in self._uses else self._weigh(what))
        if beyond:
            self.drop(version, beyond)
            self.left_out += len(beyond)
            added = {part: what for part in added if part not in beyond}
        if self._uses:
            self.drop(version, added)
        kept.update(added)
        self._use(what, len(added))
        return tuple(beyond)

    def drop(self, version: int, parts: Iterable[bytes]) -> None:
        """Keep nothing of these prefixes."""
        kept = self._kept[version]
        for part in parts:
            what = kept.pop(part, None)
            if what is not None and id(what) in self._uses:
                self._release(what)

    def alike(self) -> Iterator[tuple[int, _Kept, list[bytes]]]:
        """Yield, by IP version, each thing that is kept with the prefixes that it is kept for."""
        for version, kept in self._kept.items():
            # Prefixes that came together share one object: to tell those apart takes much less time than to compare.
            parts_by_identity: dict[int, tuple[_Kept, list[bytes]]] = {}
            for part, what in kept.items():
                parts_by_identity.setdefault(id(what), (what, []))[1].append(part)
            for what, parts in parts_by_identity.values():
                yield version, what, parts

    def _beyond(self, kept: dict[bytes, _Kept], added: dict[bytes, _Kept], weight: int) -> set[bytes]:
        """Return those of the prefixes added for which there is no room: none, or all that make it more."""
        every = set(added)
        new = every.difference(kept)
        held = sum(map(len, self._kept.values())) + self._weight
        if held + len(new) + weight <= self._most:
            return set()
        return every if weight else new

    def _use(self, what: _Kept, count: int) -> None:
        weight = self._weigh(what) if count else 0
        if not weight:
            return
        if id(what) not in self._uses:
            self._weight += weight
        self._uses[id(what)] = self._uses.get(id(what), 0) + count

    def _release(self, what: _Kept) -> None:
        self._uses[id(what)] -= 1
        if not self._uses[id(what)]:
            del self._uses[id(what)]
            self._weight -= self._weigh(what)

"""A snapshot in lines of bounded length: with many routes one line would be longer than any client accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bgp.events import EndOfRib
from bgp.updates import Group, Known, Prefixes, Update

if TYPE_CHECKING:
    from collections.abc import Iterator

#: About how long a line gets, and how much of that the fields of a group, a prefix and an element of a list take.
_PORTION_CHARACTERS: Final = 1024 * 1024
_GROUP_CHARACTERS: Final = 256
_PREFIX_CHARACTERS: Final = 34
_ELEMENT_CHARACTERS: Final = 16
_MOST_PREFIXES: Final = _PORTION_CHARACTERS // _PREFIX_CHARACTERS


def portions(known: Known) -> Iterator[Known | Update | EndOfRib]:
    """Yield the snapshot, or its beginning, the rest as updates, and what has ended at last."""
    first, *others = _cut(known.routes)
    if not others:
        yield known
        return
    yield Known(known.established, frozenset(), first)
    for groups in others:
        for peer in dict.fromkeys(group.peer for group in groups):
            yield Update(peer, (), tuple(group for group in groups if group.peer == peer))
    for peer, version in known.ended:
        yield EndOfRib(peer, version)


def _cut(groups: tuple[Group, ...]) -> list[tuple[Group, ...]]:
    """Return the groups in portions, at least one."""
    done: list[tuple[Group, ...]] = []
    portion: list[Group] = []
    size = 0
    for group in groups:
        for piece in _pieces(group):
            _, _, as_path, _, _, _, communities, _, cluster_list = piece.shared
            elements = len(as_path) + len(communities) + len(cluster_list)
            length = _GROUP_CHARACTERS + _PREFIX_CHARACTERS * len(piece.prefixes.parts) + _ELEMENT_CHARACTERS * elements
            if portion and size + length > _PORTION_CHARACTERS:
                done.append(tuple(portion))
                portion, size = [], 0
            portion.append(piece)
            size += length
    return [*done, tuple(portion)]


def _pieces(group: Group) -> list[Group]:
    """Return the group, in several if it has many prefixes."""
    version, parts = group.prefixes.version, group.prefixes.parts
    if len(parts) <= _MOST_PREFIXES:
        return [group]
    return [
        Group(Prefixes(version, parts[at : at + _MOST_PREFIXES]), group.shared)
        for at in range(0, len(parts), _MOST_PREFIXES)
    ]

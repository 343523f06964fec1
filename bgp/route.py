"""Routes as BGP carries them: what this node announces, and what it learned from a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bgp.address import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Announcement:
    """A prefix this node announces. `next_hop` is one of its own addresses, of the prefix's IP version.

    `communities` are (AS, value) pairs (RFC 1997); `local_preference` goes to internal peers only.
    """

    prefix: IPNetwork
    next_hop: IPAddress
    communities: tuple[tuple[int, int], ...] = ()
    local_preference: int = 100


class LearnedRoute(NamedTuple):
    """A route as a peer announced it (RFC 4271, section 4.3), before any policy.

    A tuple is made in a fifth of the time that a frozen dataclass takes, and these are made by the ten thousand.
    """

    prefix: IPNetwork
    next_hop: IPAddress
    peer: IPAddress
    as_path: tuple[int, ...] = ()
    local_preference: int = 100
    med: int = 0
    origin: str = "igp"
    communities: tuple[tuple[int, int], ...] = ()
    originator_id: str = ""
    cluster_list: tuple[str, ...] = ()


#: Routes that were announced together: at least one, and they share everything but their prefixes.
Row: TypeAlias = "Sequence[LearnedRoute]"


def routes_alike(prefixes: Iterable[IPNetwork], shared: tuple[object, ...]) -> list[LearnedRoute]:
    """Return a route for each prefix; `shared` are the other fields, all of them, in their order."""
    # What the constructor does, without looking for names and defaults.
    make = tuple.__new__
    return [make(LearnedRoute, (prefix,) + shared) for prefix in prefixes]  # noqa: RUF005 - half the time

"""Routes that the kernel refused, put together by its reason: an uplink that is gone may concern ten thousand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controller.ports import RouteFailure
    from ipam.address import IPNetwork

#: How many prefixes are named of those that were refused for one reason.
EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class RefusedRoutes:
    """How many routes were refused with one errno, the first prefixes of them, and what was said of the first."""

    error_number: int
    reason: str
    count: int
    examples: tuple[IPNetwork, ...]


def by_error(failures: Iterable[RouteFailure]) -> tuple[RefusedRoutes, ...]:
    """Return the failures by errno, in the order in which each came first."""
    alike: dict[int, list[RouteFailure]] = {}
    for failure in failures:
        alike.setdefault(failure.error_number, []).append(failure)
    return tuple(
        RefusedRoutes(number, found[0].reason, len(found), tuple(each.prefix for each in found[:EXAMPLES]))
        for number, found in alike.items()
    )

"""Filters: rules by prefix, length and community that an operator sets for what a peer may tell and be told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPNetwork


class Action(Enum):
    """What becomes of a route that a rule matches."""

    ACCEPT = "Accept"
    REJECT = "Reject"


class CidrMatch(Enum):
    """How a route's prefix relates to a rule's CIDR."""

    IN = "In"
    NOT_IN = "NotIn"
    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches a route that meets every condition that is set; one without conditions matches each route.

    `min_length` and `max_length` bound the prefix length, both inclusive. A rule with a CIDR matches only routes of its
    IP version.
    """

    action: Action
    cidr: IPNetwork | None = None
    cidr_match: CidrMatch = CidrMatch.IN
    min_length: int | None = None
    max_length: int | None = None
    community: tuple[int, int] | None = None
    version: int | None = None

    def matches(self, prefix: IPNetwork, communities: tuple[tuple[int, int], ...]) -> bool:
        """Tell whether a route with this prefix and these communities meets every condition."""
        return (
            self.version in (None, prefix.version)
            and (self.cidr is None or _relates(prefix, self.cidr, self.cidr_match))
            and (self.min_length is None or prefix.prefixlen >= self.min_length)
            and (self.max_length is None or prefix.prefixlen <= self.max_length)
            and (self.community is None or self.community in communities)
        )


def verdict(rules: Iterable[Rule], prefix: IPNetwork, communities: tuple[tuple[int, int], ...]) -> Action | None:
    """Return the action of the first rule that matches the route, or None if none does."""
    return next((rule.action for rule in rules if rule.matches(prefix, communities)), None)


def _relates(prefix: IPNetwork, cidr: IPNetwork, how: CidrMatch) -> bool:
    if prefix.version != cidr.version:
        return False
    inside = prefix.prefixlen >= cidr.prefixlen and prefix.overlaps(cidr)
    related = prefix == cidr if how in (CidrMatch.EQUAL, CidrMatch.NOT_EQUAL) else inside
    return related if how in (CidrMatch.IN, CidrMatch.EQUAL) else not related

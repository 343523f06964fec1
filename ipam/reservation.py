"""Reservations: ranges that automatic assignment leaves alone; an address that is asked for overrides them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipam.address import shared_offsets
from ipam.errors import InvalidReservation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipam.address import IPNetwork


@dataclass(frozen=True, slots=True)
class Reservation:
    """Ranges under one name; raises `InvalidReservation` if there is none. They need not lie in a pool."""

    name: str
    cidrs: tuple[IPNetwork, ...]

    def __post_init__(self) -> None:
        """Refuse a reservation of nothing."""
        if not self.cidrs:
            raise InvalidReservation(f"reservation {self.name} has no range; name at least one CIDR")


def reserved_in(cidr: IPNetwork, reservations: Iterable[Reservation]) -> tuple[range, ...]:
    """Return the reserved offsets from the start of a network, merged and in order."""
    parts = (shared_offsets(cidr, reserved) for each in reservations for reserved in each.cidrs)
    ranges = sorted(filter(None, parts), key=lambda part: part.start)
    merged: list[range] = []
    for part in ranges:
        if merged and part.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(part.stop, merged[-1].stop))
        else:
            merged.append(part)
    return tuple(merged)

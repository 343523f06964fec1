"""Next hops of routes that others made are read whatever their form."""

from __future__ import annotations

import struct

import pytest

from controller.kernel.addresses import _links_of
from controller.kernel.route_messages import RTA_MULTIPATH

_HOP = struct.Struct("=HBBi")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("lengths", "links"), [((8, 8), [1, 2]), ((0, 8), [1, 2]), ((8, 0), [1, 2]), ((64,), [1])])
def test_no_length_makes_reading_next_hops_endless(lengths: tuple[int, ...], links: list[int]) -> None:
    """Not even none at all; a hop that is cut short is left out."""
    hops = b"".join(_HOP.pack(length, 0, 0, number) for number, length in enumerate(lengths, start=1))
    assert _links_of({RTA_MULTIPATH: hops}) == links
    assert _links_of({RTA_MULTIPATH: hops + bytes(3)}) == links

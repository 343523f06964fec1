"""Keeps the host's packet filter, and what each link of a container may send from, as the drivers' state is.

A link carries the addresses of others only while the rules that list them are there: they come before, and go after.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from controller.docker.ruleset import datagram_ports, ruleset
from controller.docker.sources import shared_sources
from controller.errors import TortieError

if TYPE_CHECKING:
    from controller.docker.node_parts import Lending, PacketFilter
    from controller.docker.state import DriverState


class Filtering:
    """Applies what follows from the state, one change after the other."""

    def __init__(self, *, packet_filter: PacketFilter, lending: Lending, state: DriverState) -> None:
        self._packet_filter = packet_filter
        self._lending = lending
        self._state = state
        self._turn = asyncio.Lock()
        # What was done last; None while that is not known.
        self._applied: str | None = None
        self._shared: frozenset[str] | None = None

    async def refresh(self, *, new_link: bool = False) -> None:
        """Have everything as the state is; raises `PermanentError` and `TransientError`.

        A `new_link` carries its own addresses alone so far, whatever an earlier one of its name did.
        """
        async with self._turn:
            if new_link:
                self._shared = None
            await self._refresh()

    async def repair(self) -> None:
        """Have everything as the state is, whatever others did to it; on an error no link carries those of others."""
        async with self._turn:
            self._applied = self._shared = None
            try:
                await self._refresh()
            except TortieError:
                await asyncio.to_thread(self._lending.keep_shared, frozenset())
                raise

    async def _refresh(self) -> None:
        endpoints = tuple(self._state.endpoints.values())
        wanted, shared = ruleset(endpoints, self._state.networks), frozenset(shared_sources(endpoints))
        if self._shared is None or self._shared - shared:
            await asyncio.to_thread(self._lending.keep_shared, shared)
            self._shared = None if self._shared is None else self._shared & shared
        if wanted != self._applied:
            self._applied = None
            await self._packet_filter.apply(wanted, datagram_ports(endpoints))
            self._applied = wanted
        if self._shared is None or shared - self._shared:
            await asyncio.to_thread(self._lending.share, shared)
            self._shared = shared

"""The way out of the pools: keeps the host's packet filter as the pools ask, and forwarding open for workloads.

It is written once the pools are known, when they change, and again if others took it away; an agent that ends leaves
it as it is. What fails here is told and tried again, and keeps nothing else from working.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Protocol

from controller.errors import TortieError
from controller.kernel.link_names import HOST_LINK_PREFIX
from controller.reconcile.firewall import table_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from controller.agent.complaints import Complaints
    from ipam.pool import Pool

_FILTER_FAILED: Final = "what leaves the pools is not masqueraded, or IPv6 sources are not checked"
_FORWARDING_CLOSED: Final = "the host's packet filter drops what workloads send and get"
#: How often the filter is looked at without any hint, and how soon after a failure, in seconds.
_RESYNC_SECONDS: Final = 90.0
_RETRY_SECONDS: Final = 10.0


class Table(Protocol):
    """A table of the host's packet filter that is ours."""

    async def read(self) -> str:
        """Return the table as it is, empty if there is none; raises `TransientError`."""
        ...

    async def set(self, body: str) -> None:
        """Make the table be as the text says; raises `PermanentError` and `TransientError`."""
        ...


class WayOut:
    """Applies what the pools ask of the packet filter; `open_forwarding` is given their IP versions."""

    def __init__(
        self, *, table: Table, open_forwarding: Callable[[Collection[int]], Awaitable[None]], complaints: Complaints
    ) -> None:
        self._table = table
        self._open_forwarding = open_forwarding
        self._complaints = complaints
        self._pools: tuple[Pool, ...] | None = None
        self._is_complete = True
        self._dirty = asyncio.Event()

    def learn_pools(self, pools: tuple[Pool, ...], *, complete: bool = True) -> None:
        """Take in the pools as of now; unless they are complete, a table that is there already stays as it is."""
        if (pools, complete) != (self._pools, self._is_complete):
            self._pools, self._is_complete = pools, complete
            self._dirty.set()

    async def run(self) -> None:
        """Apply at once when pools were learned, and now and then, until cancelled; nothing before the first time."""
        await self._dirty.wait()
        while True:
            self._dirty.clear()
            rest_seconds = _RESYNC_SECONDS if await self.apply() else _RETRY_SECONDS
            try:
                async with asyncio.timeout(rest_seconds * random.uniform(0.9, 1.1)):  # noqa: S311  jitter
                    await self._dirty.wait()
            except TimeoutError:
                continue

    async def apply(self) -> bool:
        """Apply once what the pools ask; tell whether all of it worked."""
        pools = self._pools or ()
        done = [
            await self._try(_FILTER_FAILED, self._write(pools)),
            await self._try(_FORWARDING_CLOSED, self._open_forwarding({pool.version for pool in pools})),
        ]
        return all(done)

    async def _write(self, pools: tuple[Pool, ...]) -> None:
        present = await self._table.read()
        if self._is_complete or not present:
            await self._table.set(table_body(pools, HOST_LINK_PREFIX, present))

    async def _try(self, what: str, work: Awaitable[None]) -> bool:
        try:
            await work
        except TortieError as error:
            self._complaints.tell(what, error)
            return False
        self._complaints.settle(what)
        return True

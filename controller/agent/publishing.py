"""Tells the store what this host's kernel has wired, so that a check can compare it with what was assigned.

Nobody waits for it: a change is published some seconds later, together with those that followed, and a store that is
away gets it when it is back.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from controller.datamodel import keys
from controller.datamodel.endpoints import Endpoints, encode_endpoints
from controller.errors import TortieError
from controller.ports import Put

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.agent.complaints import Complaints
    from controller.ports import Store
    from ipam.address import IPAddress

#: The shortest time between two writings, in seconds.
_SHORTEST_SECONDS: Final = 10.0
#: How often the kernel is read without a hint, in seconds.
_LOOK_SECONDS: Final = 60.0
#: After how long the record is written though nothing has changed, in seconds: its age tells whether somebody looks.
REFRESH_SECONDS: Final = 180.0
_UNPUBLISHED: Final = "what is wired here could not be published yet"


class EndpointPublisher:
    """Keeps the record of a node's endpoints true.

    `read` returns the addresses of every workload link by its name, and may take its time; `clock` gives seconds since
    the epoch.
    """

    def __init__(
        self,
        *,
        node: str,
        store: Store,
        read: Callable[[], Mapping[str, tuple[IPAddress, ...]]],
        clock: Callable[[], float],
        complaints: Complaints,
    ) -> None:
        self._node = node
        self._store = store
        self._read = read
        self._clock = clock
        self._complaints = complaints
        self._changed = asyncio.Event()
        self._written: Endpoints | None = None

    def mark(self) -> None:
        """Take note that a link came or went."""
        self._changed.set()

    async def run(self) -> None:
        """Publish whenever something is marked or has changed unnoticed, until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self.iterate()
                self._complaints.settle(_UNPUBLISHED)
            except TortieError as error:
                self._complaints.tell(_UNPUBLISHED, error)
                self._changed.set()
            await asyncio.sleep(_SHORTEST_SECONDS)
            try:
                async with asyncio.timeout(_LOOK_SECONDS * random.uniform(0.9, 1.1)):  # noqa: S311  jitter
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def iterate(self) -> None:
        """Read the kernel once, and write the record if it says something new or has become old.

        Raises what reading the kernel and `Store.commit` raise; what was to be written is new again the next time.
        """
        found = Endpoints(self._node, self._clock(), await asyncio.to_thread(self._read))
        if self._written is not None and self._written.addresses_by_link == found.addresses_by_link:
            age = found.seen_at - self._written.seen_at
            if 0 <= age < REFRESH_SECONDS:  # a clock that was set back makes it old at once
                return
        await self._store.commit([Put(keys.endpoints(self._node), encode_endpoints(found), None)])
        self._written = found

"""Addresses that dockerd has left behind: their endpoint has ended, and the call that would release them got lost.

dockerd releases an address right after it has deleted the endpoint, and never again. The agent may have been away, or
without its store. Until that call has surely come or is lost nobody else may have the address, or a late one would take
it from them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from controller.docker.values import endpoint_of_handle, link_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from controller.docker.node_parts import Addresses, LinkWork
    from controller.docker.state import DriverState
    from ipam.address import IPAddress

log = logging.getLogger(__name__)


class Leftovers:
    """Frees them: those that were left at the last look already, and those whose release came and failed.

    `alone` holds back every other call for a link, by its name.
    """

    def __init__(
        self,
        *,
        addresses: Addresses,
        links: LinkWork,
        state: DriverState,
        alone: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._addresses = addresses
        self._links = links
        self._state = state
        self._alone = alone
        self._seen: frozenset[str] = frozenset()
        self._failed: frozenset[str] = frozenset()

    def note_failure(self, handle: str) -> None:
        """Take in that dockerd has released what this handle holds, and that it could not be freed."""
        self._failed |= {handle}

    async def look(self) -> None:
        """Free what is due, and remember the rest; raises what releasing raises, and tries again at the next look."""
        held = frozenset(holder.handle for holder in self._addresses.holders().values())
        left = frozenset(filter(self._is_left, held))
        due = left & (self._seen | self._failed)
        self._seen, self._failed = left, self._failed & held
        for handle in sorted(due):
            await self._free(handle)

    async def free(self, address: IPAddress) -> bool:
        """Free what has this address if it is due, and tell whether it was."""
        holder = self._addresses.holders().get(address)
        return holder is not None and holder.handle in self._failed and await self._free(holder.handle)

    async def _free(self, handle: str) -> bool:
        async with self._alone(link_name(endpoint_of_handle(handle) or "")):
            if not self._is_left(handle):
                return False
            freed = await self._addresses.release(handle)
        log.info(
            "docker address was left behind and is freed", extra={"handle": handle, "addresses": [*map(str, freed)]}
        )
        return True

    def _is_left(self, handle: str) -> bool:
        """Tell whether this is the handle of an endpoint that has ended, and that has no link either."""
        endpoint_id = endpoint_of_handle(handle)
        return (
            endpoint_id is not None
            and endpoint_id not in self._state.endpoints
            and link_name(endpoint_id) not in self._links.index_of
        )

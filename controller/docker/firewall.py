"""The host's packet filter as Docker's networks need it: a table of our own, and links let through dockerd's filter."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from controller.errors import PermanentError
from controller.kernel.forward_filters import open_forwarding
from controller.kernel.nftables import NftablesTable

log = logging.getLogger(__name__)

_TABLE: Final = "tortie-docker"


class Firewall:
    """Changes the filter in the namespace of this process, one change after the other."""

    def __init__(self) -> None:
        self._table = NftablesTable(_TABLE)
        self._turn = asyncio.Lock()

    async def apply(self, body: str) -> None:
        """Make our table be as the text between its braces says; raises `PermanentError` and `TransientError`."""
        async with self._turn:
            await self._table.set(body)

    async def let_through(self, version: int) -> None:
        """Have dockerd's filter of this IP version let our links through; raises `TransientError`.

        What an operator's own filter drops is told of and keeps no container from its link.
        """
        async with self._turn:
            try:
                await open_forwarding({version})
            except PermanentError as error:
                log.warning("containers may not be reached through the host's filter", extra={"reason": str(error)})

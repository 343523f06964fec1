"""The host's packet filter as Docker's networks need it: a table of our own, and links let through dockerd's filter."""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing
from typing import TYPE_CHECKING, Final

from controller.errors import PermanentError, TortieError
from controller.kernel.addresses import interface_addresses
from controller.kernel.connections import KernelConnections
from controller.kernel.forward_filters import open_forwarding
from controller.kernel.nftables import NftablesTable

if TYPE_CHECKING:
    from collections.abc import Collection

    from ipam.address import IPAddress

log = logging.getLogger(__name__)

_TABLE: Final = "tortie-docker"


def _forget_untranslated(ports: Collection[tuple[IPAddress | None, int]]) -> None:
    """Have the kernel forget for whom it decided, before the rules came, that it is the host who is meant."""
    own = [each.address for each in interface_addresses()]
    with closing(KernelConnections()) as connections:
        connections.flush_datagrams(
            [(each, port) for address, port in ports for each in (own if address is None else (address,))]
        )


class Firewall:
    """Changes the filter in the namespace of this process, one change after the other."""

    def __init__(self) -> None:
        self._table = NftablesTable(_TABLE)
        self._turn = asyncio.Lock()

    async def apply(self, body: str, datagram_ports: Collection[tuple[IPAddress | None, int]] = ()) -> None:
        """Make our table be as the text between its braces says; raises `PermanentError` and `TransientError`.

        What comes by UDP to these ports of the host, at one of its addresses or at any, is translated from then on,
        also for who sent to them all the time.
        """
        async with self._turn:
            await self._table.set(body)
            if datagram_ports:
                try:
                    await asyncio.to_thread(_forget_untranslated, datagram_ports)
                except TortieError as error:
                    # The next look does it again, and new clients are served meanwhile.
                    log.warning("clients of before may not reach ports of UDP", extra={"reason": str(error)})

    async def let_through(self, version: int) -> None:
        """Have dockerd's filter of this IP version let our links through; raises `TransientError`.

        What an operator's own filter drops is told of and keeps no container from its link.
        """
        async with self._turn:
            try:
                await open_forwarding({version})
            except PermanentError as error:
                log.warning("containers may not be reached through the host's filter", extra={"reason": str(error)})

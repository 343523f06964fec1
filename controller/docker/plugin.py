"""Both drivers on one socket, and the loop that repairs what others left or changed."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from controller.docker.address_driver import AddressDriver
from controller.docker.leftovers import Leftovers
from controller.docker.network_driver import NetworkDriver
from controller.docker.server import PluginServer
from controller.docker.state import DriverState
from controller.errors import TortieError
from controller.private_socket import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from controller.docker.node_parts import Addresses, Lending, LinkWork, PacketFilter, RouteWork
    from ipam.pool import Pool

log = logging.getLogger(__name__)

#: How often the drivers look for what is wrong without any hint, in seconds.
_RESYNC_SECONDS: Final = 60.0


class DockerPlugin:
    """What dockerd finds at the socket; for the parts see `NetworkDriver` and `AddressDriver`."""

    def __init__(
        self,
        *,
        socket_path: Path,
        state_path: Path,
        addresses: Addresses,
        pools: Callable[[], Collection[Pool] | None],
        links: LinkWork,
        lending: Lending,
        routes: RouteWork,
        packet_filter: PacketFilter,
        alone: Callable[[str], AbstractAsyncContextManager[None]],
        default_mtu_bytes: Callable[[], int],
    ) -> None:
        self._socket_path = socket_path
        self._state = DriverState(state_path)
        self._networks = NetworkDriver(
            addresses=addresses,
            links=links,
            lending=lending,
            routes=routes,
            packet_filter=packet_filter,
            state=self._state,
            alone=alone,
            default_mtu_bytes=default_mtu_bytes,
        )
        self._leftovers = Leftovers(addresses=addresses, links=links, state=self._state, alone=alone)
        driver = AddressDriver(addresses=addresses, pools=pools, state=self._state, leftovers=self._leftovers)
        self._server = PluginServer(
            {
                "/IpamDriver.RequestPool": driver.request_pool,
                "/IpamDriver.RequestAddress": driver.request_address,
                "/IpamDriver.ReleaseAddress": driver.release_address,
                "/NetworkDriver.CreateNetwork": self._networks.create_network,
                "/NetworkDriver.DeleteNetwork": self._networks.delete_network,
                "/NetworkDriver.CreateEndpoint": self._networks.create_endpoint,
                "/NetworkDriver.EndpointOperInfo": self._networks.describe,
                "/NetworkDriver.DeleteEndpoint": self._networks.delete_endpoint,
                "/NetworkDriver.Join": self._networks.join,
                "/NetworkDriver.Leave": self._networks.leave,
                "/NetworkDriver.ProgramExternalConnectivity": self._networks.publish,
                "/NetworkDriver.RevokeExternalConnectivity": self._networks.unpublish,
            }
        )

    async def run(self, serving: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; networks, links and published ports stay as they are then.

        The node's addresses must be known; `serving` is called once dockerd is answered. Raises `PermanentError` for a
        state that cannot be read, `RefusedError` when the socket cannot be had.
        """
        self._state.load()
        listener = bind(self._socket_path)
        try:
            await self._server.start(listener)
            serving()
            await self._keep_right()
        finally:
            self._socket_path.unlink(missing_ok=True)  # before it is closed: while we listen nobody replaces it
            await self._server.stop()
            listener.close()

    async def _keep_right(self) -> None:
        while True:
            for repair in (self._networks.resync, self._leftovers.look):
                try:
                    await repair()
                except TortieError as error:
                    log.warning("what docker left behind could not be repaired", extra={"reason": str(error)})
            await asyncio.sleep(_RESYNC_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311  jitter

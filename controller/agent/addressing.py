"""Which addresses this node is reached at, as the settings ask for it and the interfaces have it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import TYPE_CHECKING

from controller.datamodel.records import Node
from controller.errors import RefusedError
from controller.kernel.addresses import choose_node_address

if TYPE_CHECKING:
    from controller.ports import InterfaceAddress
    from controller.settings import Settings

log = logging.getLogger(__name__)

#: How often an address that is not there yet is looked for, and how often in all before the agent gives up.
_PAUSE_SECONDS = 1.0
_TRIES = 30


async def find_node(settings: Settings) -> tuple[Node, tuple[str, ...]]:
    """Return this node and the names of the interfaces its addresses are on.

    An address that was asked for and is not there yet, as early in a host's start, is waited for; raises `RefusedError`
    that says what there is when it does not come.
    """
    for left in range(_TRIES - 1, 0, -1):
        try:
            return await asyncio.to_thread(_node, settings)
        except RefusedError as error:
            log.warning(
                "node address is not there yet and is looked for again",
                extra={"reason": str(error), "seconds_left": round(left * _PAUSE_SECONDS)},
            )
        await asyncio.sleep(_PAUSE_SECONDS)
    return await asyncio.to_thread(_node, settings)


def _node(settings: Settings) -> tuple[Node, tuple[str, ...]]:
    ipv4, ipv6 = _address(settings.ipv4_address, 4), _address(settings.ipv6_address, 6)
    present = [interface for interface in (ipv4, ipv6) if interface is not None]
    if not present:
        raise RefusedError(
            f"this host has no address that others could reach it at: ipv4_address={settings.ipv4_address} and "
            f"ipv6_address={settings.ipv6_address} found none; add a default route or set one of them"
        )
    node = Node(
        name=settings.node_name,
        as_number=settings.as_number,
        ipv4=None if ipv4 is None else ipaddress.IPv4Address(ipv4.address),
        ipv6=None if ipv6 is None else ipaddress.IPv6Address(ipv6.address),
        labels=settings.labels,
        cluster_id=settings.cluster_id,
    )
    return node, tuple({interface.interface for interface in present})


def _address(method: str, version: int) -> InterfaceAddress | None:
    if method == "none":
        return None
    if method != "auto":
        return choose_node_address(method, version)
    try:
        return choose_node_address("default-route", version)
    except RefusedError:
        return None  # a host without a default route of this IP version is not reached over it

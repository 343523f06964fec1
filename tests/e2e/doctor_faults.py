"""Faults for the tests of `tortiectl doctor`, planted by a program that runs in a host's namespace.

handless-agent           the host's agent, which knows and tells everything and leaves the kernel's routes alone
leak CIDR NODE LINK      assign an address of the block, an hour ago, to a workload of NODE whose link is not there
release CIDR             release it again
disown CIDR              take the block from its owner
own CIDR NODE            give it (back) to a node
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import time
from typing import TYPE_CHECKING
from unittest.mock import patch

from controller.agent.main import main as agent
from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.reconcile.programmer import RouteProgrammer
from controller.settings import load
from controller.store.opening import StoreSettings, open_store
from ipam.block import Holder

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipam.block import Block

HANDLE = "leaked"
LEAKED_ORDINAL = 50


def leaked(node: str, link: str) -> Callable[[Block], Block]:
    """Return the change that assigns an address to a workload of an hour ago."""
    holder = Holder(HANDLE, node, "gone", "default", link, time.time() - 3600)
    return lambda block: block.assign(holder, LEAKED_ORDINAL)[0]


def released(block: Block) -> Block:
    """Return the block without it."""
    return block.release([LEAKED_ORDINAL])


async def change(cidr: str, how: Callable[[Block], Block]) -> None:
    """Change a block in the store as another node would."""
    store = open_store(StoreSettings.of(load({})))
    key = keys.block(ipaddress.ip_network(cidr))
    try:
        entry = (await store.get([key]))[key]
        before = decode_block(key, entry.value)
        await store.commit(block_operations(before, how(before), version=entry.version, writer=None))
    finally:
        await store.close()


async def nothing(*_: object) -> None:
    """Take the place of what writes routes."""
    await asyncio.get_running_loop().create_future()


def main() -> None:
    """Do what the arguments say."""
    match sys.argv[1:]:
        case ["handless-agent"]:
            with patch.object(RouteProgrammer, "run", nothing):  # its hands are tied
                agent([])
        case ["leak", cidr, node, link]:
            asyncio.run(change(cidr, leaked(node, link)))
        case ["release", cidr]:
            asyncio.run(change(cidr, released))
        case ["disown", cidr]:
            asyncio.run(change(cidr, lambda block: block.disown()))
        case ["own", cidr, node]:
            asyncio.run(change(cidr, lambda block: block.reclaimed(node=node, at=time.time())))
        case unknown:
            sys.exit(f"no such fault: {unknown}")


if __name__ == "__main__":
    main()

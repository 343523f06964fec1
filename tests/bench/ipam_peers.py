"""Other ways to give a node's addresses out, with the same client and the same block record as ours."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import TYPE_CHECKING, Final

from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, encode_block
from controller.errors import ConflictError
from controller.ports import Put
from ipam.block import Block

if TYPE_CHECKING:
    from controller.ports import Store, Version
    from ipam.request import AssignRequest

_NODE: Final = "peer"
_CIDR: Final = ipaddress.ip_network("192.168.0.0/26")
_KEY: Final = keys.block(_CIDR)


class CompareAndSet:
    """Every request for itself, as Calico does it: read the block, write it if it did not change, else once more.

    It only ever touches this one block, which has room: no affinity, no handle and no summary is read or written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._try_count = 0

    async def rate(self, requests: list[AssignRequest]) -> float:
        """Assign to all of the requests at once into an empty block; return the assignments each second."""
        await _write(self._store, _empty(), None)
        self._try_count = 0
        start = time.perf_counter()
        await asyncio.gather(*map(self._assign, requests))
        seconds = time.perf_counter() - start
        await _check(self._store, requests)
        self.tries_per_request = self._try_count / len(requests)
        return len(requests) / seconds

    async def _assign(self, request: AssignRequest) -> None:
        while True:
            self._try_count += 1
            entry = (await self._store.get([_KEY]))[_KEY]
            block, _ = decode_block(_KEY, entry.value).assign(request.holder(node=_NODE, at=time.time()))
            try:
                await _write(self._store, block, entry.version)
            except ConflictError:
                continue
            return


async def one_by_one(store: Store, requests: list[AssignRequest]) -> float:
    """Assign to one request after the other into an empty block; return the assignments each second.

    Each is a transaction of its own that writes the block, kept in memory with its version: no reading, no conflict.
    """
    block = _empty()
    version = await _write(store, block, None)
    start = time.perf_counter()
    for request in requests:
        block, _ = block.assign(request.holder(node=_NODE, at=time.time()))
        version = await _write(store, block, version)
    seconds = time.perf_counter() - start
    await _check(store, requests)
    return len(requests) / seconds


def _empty() -> Block:
    return Block.claimed(_CIDR, node=_NODE, at=time.time())


async def _write(store: Store, block: Block, expected: Version | None) -> Version:
    return (await store.commit([Put(_KEY, encode_block(block), expected)]))[_KEY]


async def _check(store: Store, requests: list[AssignRequest]) -> None:
    """Raise `RuntimeError` unless each of the requests holds an address in the store."""
    block = decode_block(_KEY, (await store.get([_KEY]))[_KEY].value)
    if {holder.handle for holder in block.holders.values()} != {request.handle for request in requests}:
        raise RuntimeError(f"{block.in_use} addresses are held, {len(requests)} should be")

"""The node's own record in the store: written at the start, put back when somebody takes it away."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from controller.datamodel import keys
from controller.datamodel.records import decode_node, encode_node
from controller.errors import ConflictError, MalformedRecord, TortieError
from controller.ports import ABSENT, Put

if TYPE_CHECKING:
    from controller.agent.complaints import Complaints
    from controller.datamodel.records import Node
    from controller.ports import Entry, Operation, Store

log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_UNREGISTERED: Final = "node could not be registered yet"


class Registration:
    """Keeps the store's record of this node true."""

    def __init__(self, store: Store, node: Node, complaints: Complaints) -> None:
        self._store = store
        self._node = node
        self._complaints = complaints
        self._due = asyncio.Event()

    def compare(self, recorded: Node | None) -> None:
        """Take note of what the store says of the node; what is wrong is written again."""
        if recorded != self._node:
            self._due.set()

    async def run(self) -> None:
        """Write the record, and write it again when somebody took it away or changed it, until cancelled."""
        while True:
            self._due.clear()  # before reading: a deletion during the reading must wake us again
            try:
                if await register(self._store, self._node):
                    log.info("node registered", extra={"node": self._node.name, "addresses": self._node.addresses})
                self._complaints.settle(_UNREGISTERED)
                await self._due.wait()
            except ConflictError:
                continue
            except TortieError as error:
                self._complaints.tell(_UNREGISTERED, error)
            await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  spreads retries


async def register(store: Store, node: Node) -> bool:
    """Make the store's record of this node say what is true, and return whether it had to be written.

    The anchor of the node's share is there afterwards too; that of the cluster is the operators'. Raises what
    `Store.commit` raises; a conflict means that somebody wrote at the same moment, and the caller tries again.
    """
    wanted = encode_node(node)
    key, anchor = keys.node(node.name), keys.share_anchor(node.name)
    found = await store.get([key, anchor])
    operations: list[Operation] = [] if anchor in found else [Put(anchor, b"{}", ABSENT)]
    entry = found.get(key)
    if entry is None or entry.value != wanted:
        if entry is not None:
            _warn_of_another(key, entry, node)
        operations.append(Put(key, wanted, ABSENT if entry is None else entry.version))
    if operations:
        await store.commit(operations)
    return bool(operations)


def _warn_of_another(key: str, entry: Entry, node: Node) -> None:
    """Two hosts of one name would take turns; the operator has to know."""
    try:
        before = decode_node(key, entry.value)
    except MalformedRecord as error:
        log.warning("own record was malformed and is replaced", extra={"reason": str(error)})
        return
    if before.addresses != node.addresses:
        log.warning(
            "node had another address before; if two hosts have this name, give one a node_name of its own",
            extra={"node": node.name, "before": before.addresses, "now": node.addresses},
        )

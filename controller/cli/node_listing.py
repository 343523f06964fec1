"""How nodes are shown: what the store says of each, and whether its agent gives signs of life and takes traffic."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from controller.agent.publishing import REFRESH_SECONDS
from controller.cli.listings import Listing
from controller.cli.reading import decoded_each
from controller.cli.stored import description_of
from controller.datamodel import keys
from controller.datamodel.bgp_records import decode_drain
from controller.datamodel.endpoints import decode_endpoints
from controller.datamodel.records import decode_node
from controller.resources import resource_document

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from controller.datamodel.bgp_records import Drain
    from controller.datamodel.records import Node
    from controller.ports import Entry, Store

#: An agent that has a store refreshes its endpoints more often than this.
_SILENT_AFTER_SECONDS: Final = 2 * REFRESH_SECONDS


class NodeState(Enum):
    """What the store tells of a node's state; whether it is ready its own agent knows (`tortiectl node status`)."""

    RUNNING = "running"
    SILENT = "silent"
    DRAINING = "draining"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True)
class NodeStates:
    """The nodes that are drained, and those whose agents have written something lately."""

    drain_by_node: Mapping[str, Drain]
    lively: Collection[str]
    now: float

    def of(self, node: str) -> NodeState:
        """Return a node's state; the clocks of its host and of this one are taken to agree."""
        drain = self.drain_by_node.get(node)
        if drain is not None:
            return NodeState.DRAINED if self.now >= drain.since + drain.grace_seconds else NodeState.DRAINING
        return NodeState.RUNNING if node in self.lively else NodeState.SILENT


async def read_states(store: Store, names: Sequence[str]) -> NodeStates:
    """Return the states of these nodes, or of all without a name; a record that cannot be read counts as none."""
    if names:
        entries: Mapping[str, Entry] = await store.get(
            [key for name in names for key in (keys.drain(name), keys.endpoints(name))]
        )
    else:
        entries = {**(await store.list(keys.DRAINS)), **(await store.list(keys.ENDPOINTS))}
    drains, _ = decoded_each(_below(keys.DRAINS, entries), decode_drain)
    endpoints, _ = decoded_each(_below(keys.ENDPOINTS, entries), decode_endpoints)
    now = time.time()
    return NodeStates(
        {drain.node: drain for drain in drains},
        {each.node for each in endpoints if now - each.seen_at < _SILENT_AFTER_SECONDS},
        now,
    )


def node_listing(states: NodeStates) -> Listing[Node]:
    """Return how nodes in these states are shown."""

    def row(node: Node) -> Sequence[object]:
        labels = ", ".join(f"{label}={value}" for label, value in sorted(node.labels.items()))
        state = states.of(node.name).value
        addresses = (node.ipv4 or "-", node.ipv6 or "-")
        return (node.name, state, node.as_number, *addresses, node.cluster_id or "-", labels or "-")

    def document(node: Node) -> Mapping[str, object]:
        return {**resource_document(description_of(node)), "status": {"state": states.of(node.name).value}}

    headers = ("NAME", "STATUS", "AS", "IPV4", "IPV6", "CLUSTER ID", "LABELS")
    return Listing(
        keys.NODES, decode_node, lambda node: node.name, list, headers, 5, lambda node: [row(node)], document
    )


def _below(prefix: str, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    return {key: entry for key, entry in entries.items() if key.startswith(prefix)}

"""How nodes are shown: what the store says of each, and whether its agent gives signs of life and takes traffic."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from controller.agent.publishing import REFRESH_SECONDS
from controller.cli.listings import Listing
from controller.cli.reading import decoded_each
from controller.datamodel import keys
from controller.datamodel.bgp_records import decode_drain
from controller.datamodel.endpoints import decode_endpoints
from controller.datamodel.records import decode_node
from controller.resources import API_VERSION

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


async def read_states(store: Store, name: str | None) -> NodeStates:
    """Return the states of this node or of all; a record that cannot be read counts as none."""
    if name is None:
        entries: Mapping[str, Entry] = {**(await store.list(keys.DRAINS)), **(await store.list(keys.ENDPOINTS))}
    else:
        entries = await store.get([keys.drain(name), keys.endpoints(name)])
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
        spec = {
            "asNumber": node.as_number,
            "ipv4Address": str(node.ipv4) if node.ipv4 else None,
            "ipv6Address": str(node.ipv6) if node.ipv6 else None,
            "clusterID": node.cluster_id,
        }
        metadata = {"name": node.name, "labels": dict(sorted(node.labels.items()))}
        status = {"state": states.of(node.name).value}
        return {"apiVersion": API_VERSION, "kind": "Node", "metadata": metadata, "spec": spec, "status": status}

    headers = ("NAME", "STATUS", "AS", "IPV4", "IPV6", "CLUSTER ID", "LABELS")
    return Listing("Node", keys.NODES, decode_node, lambda node: node.name, list, headers, 5, row, document)


def _below(prefix: str, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    return {key: entry for key, entry in entries.items() if key.startswith(prefix)}

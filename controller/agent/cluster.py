"""What the agent knows of the cluster: its pools, nodes and rules, folded from the watch of the cluster's prefix."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from controller.assignment.knowledge import Rules
from controller.datamodel import keys
from controller.datamodel.records import Node, decode_configuration, decode_node, decode_pool, decode_reservation
from controller.errors import MalformedRecord
from controller.ports import Changes, Entry, Snapshot
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.ports import Version
    from ipam.pool import Pool
    from ipam.reservation import Reservation

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as of one moment.

    `pools` maps a pool's name to it and the version of its record; `nodes` maps a node's name to it, `reservations` a
    reservation's. `malformed` maps the key of a record that does not decode to the reason; it is reported, and what
    the record said before stays good, so that a slip in one record ends no session and withdraws no route.
    """

    pools: Mapping[str, tuple[Pool, Version]] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    configuration: IpamConfiguration = field(default_factory=IpamConfiguration)
    malformed: Mapping[str, str] = field(default_factory=dict)

    @property
    def rules(self) -> Rules:
        """What operators have set for address management."""
        return Rules(self.pools, tuple(self.reservations.values()), self.configuration)


def fold(cluster: Cluster, event: Snapshot | Changes) -> Cluster:
    """Return the cluster after the event; a snapshot replaces everything known before."""
    if isinstance(event, Snapshot):
        return _written(Cluster(), event.entries)
    gone = event.deleted
    kept = replace(
        cluster,
        pools={name: pool for name, pool in cluster.pools.items() if keys.pool(name) not in gone},
        nodes={name: node for name, node in cluster.nodes.items() if keys.node(name) not in gone},
        reservations={
            name: found for name, found in cluster.reservations.items() if keys.reservation(name) not in gone
        },
        configuration=IpamConfiguration() if keys.IPAM_CONFIGURATION in gone else cluster.configuration,
        malformed={key: reason for key, reason in cluster.malformed.items() if key not in gone},
    )
    return _written(kept, event.written)


def _written(cluster: Cluster, entries: Mapping[str, Entry]) -> Cluster:
    pools, nodes, reservations = dict(cluster.pools), dict(cluster.nodes), dict(cluster.reservations)
    configuration = cluster.configuration
    malformed = {key: reason for key, reason in cluster.malformed.items() if key not in entries}
    for key, entry in entries.items():
        if key.startswith(keys.POOLS):
            name = key.removeprefix(keys.POOLS)
            pool = _decoded(decode_pool, key, entry, malformed)
            if pool is not None:
                pools[name] = (pool, entry.version)
        elif key.startswith(keys.NODES):
            name = key.removeprefix(keys.NODES)
            node = _decoded(decode_node, key, entry, malformed)
            if node is not None:
                nodes[name] = node
        elif key.startswith(keys.RESERVATIONS):
            reservation = _decoded(decode_reservation, key, entry, malformed)
            if reservation is not None:
                reservations[reservation.name] = reservation
        elif key == keys.IPAM_CONFIGURATION:
            configuration = _decoded(decode_configuration, key, entry, malformed) or configuration
    return Cluster(pools, nodes, reservations, configuration, malformed)


def _decoded(decode: Callable[[str, bytes], T], key: str, entry: Entry, malformed: dict[str, str]) -> T | None:
    try:
        return decode(key, entry.value)
    except MalformedRecord as error:
        log.warning("record is malformed; what it said before stays", extra={"key": key, "reason": str(error)})
        malformed[key] = str(error)
        return None

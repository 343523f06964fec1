"""What the agent knows of the cluster: its pools, nodes and rules, folded from the watch of the cluster's prefix."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from bgp.configuration import BgpConfiguration
from controller.assignment.knowledge import Rules
from controller.datamodel import keys
from controller.datamodel.bgp_records import (
    Drain,
    decode_bgp_configuration,
    decode_drain,
    decode_filter,
    decode_peer,
)
from controller.datamodel.records import Node, decode_configuration, decode_node, decode_pool, decode_reservation
from controller.errors import MalformedRecord
from controller.ports import Changes, Entry, Snapshot
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bgp.peering import Filter, PeerDefinition
    from controller.ports import Version
    from ipam.pool import Pool
    from ipam.reservation import Reservation

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as of one moment, each mapping by name.

    `pools` holds each pool with the version of its record; `configuration` is that of address management. `malformed`
    maps the key of a record that does not decode to the reason; it is reported, and what the record said before stays
    good, so that a slip in one record ends no session and withdraws no route. `unread` are those of the keys of which
    nothing was ever known: they were malformed already when this agent started.
    """

    pools: Mapping[str, tuple[Pool, Version]] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    configuration: IpamConfiguration = field(default_factory=IpamConfiguration)
    bgp_configuration: BgpConfiguration = field(default_factory=BgpConfiguration)
    peers: Mapping[str, PeerDefinition] = field(default_factory=dict)
    filters: Mapping[str, Filter] = field(default_factory=dict)
    drains: Mapping[str, Drain] = field(default_factory=dict)
    malformed: Mapping[str, str] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()

    @property
    def rules(self) -> Rules:
        """What operators have set for address management."""
        return Rules(self.pools, tuple(self.reservations.values()), self.configuration)


def fold(cluster: Cluster | None, event: Snapshot | Changes) -> Cluster:
    """Return the cluster after the event, None being nothing known yet.

    A snapshot says all there is: of what was known before, that stays whose record is malformed now.
    """
    news = _News(event, cluster)
    cluster = cluster or Cluster()
    return Cluster(
        pools=news.named(keys.POOLS, cluster.pools, _decode_pool),
        nodes=news.named(keys.NODES, cluster.nodes, _of_value(decode_node)),
        reservations=news.named(keys.RESERVATIONS, cluster.reservations, _of_value(decode_reservation)),
        configuration=news.single(keys.IPAM_CONFIGURATION, cluster.configuration, decode_configuration)
        or IpamConfiguration(),
        bgp_configuration=news.single(keys.BGP_CONFIGURATION, cluster.bgp_configuration, decode_bgp_configuration)
        or BgpConfiguration(),
        peers=news.named(keys.PEERS, cluster.peers, _of_value(decode_peer)),
        filters=news.named(keys.FILTERS, cluster.filters, _of_value(decode_filter)),
        drains=news.named(keys.DRAINS, cluster.drains, _of_value(decode_drain)),
        malformed=news.malformed,
        unread=news.unread,  # last: only now all that is malformed is known
    )


class _News:
    """What was written and deleted, taken in kind by kind; `malformed` collects what does not decode."""

    def __init__(self, event: Snapshot | Changes, cluster: Cluster | None) -> None:
        self._is_whole = isinstance(event, Snapshot)
        self._written = event.entries if isinstance(event, Snapshot) else event.written
        self._deleted = frozenset() if isinstance(event, Snapshot) else event.deleted
        self._unread_before = None if cluster is None else cluster.unread
        before = {} if cluster is None else cluster.malformed
        self.malformed = {
            key: reason for key, reason in before.items() if not self._is_gone(key) and key not in self._written
        }

    @property
    def unread(self) -> frozenset[str]:
        """Those of `malformed` of which nothing was ever known."""
        malformed = frozenset(self.malformed)
        return malformed if self._unread_before is None else malformed & self._unread_before

    def named(self, prefix: str, known: Mapping[str, T], decode: Callable[[str, Entry], T]) -> Mapping[str, T]:
        """Return the records below a prefix by name, those known before included."""
        found = {name: value for name, value in known.items() if not self._is_gone(prefix + name)}
        for key, entry in self._written.items():
            if key.startswith(prefix):
                value = self._decoded(key, entry, decode)
                if value is not None:
                    found[key.removeprefix(prefix)] = value
        return found

    def single(self, key: str, known: T, decode: Callable[[str, bytes], T]) -> T | None:
        """Return the one record under a key; None if it was deleted."""
        if self._is_gone(key):
            return None
        entry = self._written.get(key)
        found = None if entry is None else self._decoded(key, entry, _of_value(decode))
        return known if found is None else found

    def _is_gone(self, key: str) -> bool:
        return key not in self._written if self._is_whole else key in self._deleted

    def _decoded(self, key: str, entry: Entry, decode: Callable[[str, Entry], T]) -> T | None:
        try:
            return decode(key, entry)
        except MalformedRecord as error:
            known = "nothing is known of it" if self._unread_before is None else "what it said before stays"
            log.warning("record is malformed", extra={"key": key, "reason": str(error), "known": known})
            self.malformed[key] = str(error)
            return None


def _of_value(decode: Callable[[str, bytes], T]) -> Callable[[str, Entry], T]:
    return lambda key, entry: decode(key, entry.value)


def _decode_pool(key: str, entry: Entry) -> tuple[Pool, Version]:
    return decode_pool(key, entry.value), entry.version

"""What the controller needs of the world, as protocols; adapters implement them and never know each other.

Every port that changes something takes the whole desired state and applies the difference itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, NewType, Protocol, TypeAlias

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import AsyncGenerator, Collection, Container, Iterable, Mapping, Sequence

    from bgp.events import SpeakerEvent
    from bgp.peer import Peer
    from bgp.route import Announcement
    from ipam.address import IPAddress, IPNetwork

# ---------------------------------------------------------------------------------------------------------------- store

#: A key's version: opaque, comparable for equality only, and never zero for a key that exists.
Version = NewType("Version", int)
#: The version of a key that does not exist.
ABSENT: Final = Version(0)
#: The most operations one transaction may hold (Consul: "Transactions", 64 operations).
MAX_OPERATIONS: Final = 64
#: The largest value in bytes (Consul's kv_max_value_size default is 512 KiB for the request, base64 included).
MAX_VALUE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and the version it was read at."""

    value: bytes
    version: Version


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value. `expected` is the version the key must have: ABSENT to create, None to write whatever is there."""

    key: str
    value: bytes
    expected: Version | None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key. With `expected` None an absent key is no error; otherwise the key must have that version.

    With a version it counts as two of MAX_OPERATIONS: Consul has to be asked for the check and the deletion apart.
    """

    key: str
    expected: Version | None


@dataclass(frozen=True, slots=True)
class Check:
    """Change nothing; the transaction fails unless the key has this version (ABSENT: unless it does not exist)."""

    key: str
    expected: Version


Operation: TypeAlias = Put | Delete | Check


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under a watched prefix, key by key; the first thing a watch delivers."""

    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed under a watched prefix since the last delivery; several writes of one key may be one change."""

    written: Mapping[str, Entry]
    deleted: frozenset[str]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The watch lost its store and is trying again; what was delivered before is still the best knowledge there is."""

    reason: str


WatchEvent: TypeAlias = Snapshot | Changes | Interrupted


class Store(Protocol):
    """Keys, values, transactions and watches. Every method raises `StoreUnavailable` or `StoreDenied` where it must."""

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries of those keys that exist, as they are now (not from a stale replica)."""
        ...

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Return every entry whose key starts with the prefix, as of one instant."""
        ...

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Apply all operations or none, and return the version of every key written.

        Writing the value a key already has changes nothing, its version included. A key may be named only once.
        Raises `ConflictError` if any expected version did not hold, `TooManyOperations` beyond MAX_OPERATIONS.
        `StoreUnavailable` leaves open whether it was applied: the caller reads again before it acts.
        """
        ...

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Deliver a `Snapshot` of the prefix, then `Changes`, for as long as the iterator is consumed.

        Never raises for a store that is down, also at the start: it delivers one `Interrupted` per outage, retries
        with jittered backoff, and afterwards delivers the `Changes` since its last delivery (or the first `Snapshot`),
        even if there are none: that is how the consumer learns that the outage is over. Ends when the store is closed.
        """
        ...

    async def close(self) -> None:
        """Release connections and files; the store may not be used afterwards."""
        ...


# --------------------------------------------------------------------------------------------------------------- kernel

#: The route protocol number that marks every route of ours (RTPROT_* in include/uapi/linux/rtnetlink.h; 116 is free).
ROUTE_PROTOCOL: Final = 116
#: The metric of every route of ours; it is part of a route's identity in the kernel.
ROUTE_METRIC: Final = 1024
#: The group of the links that carry the addresses of several: no reverse path check fits them, so a rule lists them.
SHARED_LINK_GROUP: Final = 116
#: The group of the links whose workload has rules of ours in its namespace, which go with the link.
RULED_LINK_GROUP: Final = 117


class RouteKind(Enum):
    """What the kernel does with a packet that matches the route."""

    UNICAST = "unicast"
    BLACKHOLE = "blackhole"


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a unicast route leads: out of a link (by its index), through a gateway or directly."""

    gateway: IPAddress | None
    link_index: int


class KernelRoute(NamedTuple):
    """A route of the main table. `next_hops` is empty for a blackhole, sorted, and has several entries for ECMP.

    A tuple is made in less than half the time that a frozen dataclass takes; these are made by the ten thousand.
    """

    prefix: IPNetwork
    kind: RouteKind
    next_hops: tuple[NextHop, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteFailure:
    """A route the kernel did not take or give up, and why."""

    prefix: IPNetwork
    error_number: int
    reason: str


@dataclass(frozen=True, slots=True)
class ForeignRoute:
    """A route that somebody else put on a workload's link; `protocol` says who (RTPROT_* in linux/rtnetlink.h)."""

    prefix: IPNetwork
    link_index: int
    protocol: int


class Fib(Protocol):
    """The kernel's forwarding table, as far as it is ours: nothing else in it is ever changed.

    `read`, `foreign` and `foreign_on` may run in one thread while `apply` runs in another.
    """

    def expect(self, routes: Iterable[KernelRoute]) -> None:
        """Take note of what `read` will probably find: what it does find of that costs next to nothing."""
        ...

    def read(self) -> list[KernelRoute]:
        """Return every route of ours, both families; one that did not change is the same object as before.

        What is written meanwhile may be among them or not.
        """
        ...

    def foreign(self, link_indexes: Collection[int]) -> list[ForeignRoute]:
        """Return the routes on these links that people and network managers made, both families."""
        ...

    def foreign_on(self, link_index: int) -> list[ForeignRoute]:
        """Return the routes on this link that neither they made nor we or the kernel itself; none if it is gone.

        Of very many only the first are returned.
        """
        ...

    def apply(
        self,
        upserts: Iterable[KernelRoute],
        removals: Iterable[KernelRoute],
        *,
        replaceable: Container[IPNetwork] = (),
    ) -> list[RouteFailure]:
        """Add or replace the first, then remove the second; return what failed. Removing what is gone is success.

        Only a prefix in `replaceable`, whose route is known to be ours, is replaced. Any other one that has a route of
        our metric already, whoever made it, fails with EEXIST and is left as it is.
        """
        ...


class Connections(Protocol):
    """The kernel's table of the connections that pass this host."""

    def flush(self, addresses: Collection[IPAddress]) -> int:
        """Forget every connection from or to one of these addresses, and return how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class WorkloadLink:
    """A workload's link as it should be.

    `host_name` is the link on the host, at most 15 characters; `container_name` the one in the workload's namespace;
    `container_mac` its fixed MAC address (`xx:xx:xx:xx:xx:xx`); `addresses` at most one for each IP version;
    `mtu_bytes` the MTU of both ends.
    """

    host_name: str
    container_name: str
    container_mac: str
    addresses: tuple[IPAddress, ...]
    mtu_bytes: int


class Links(Protocol):
    """The workload links of this host."""

    def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link, its addresses, routes and neighbours as described, and return the host link's index.

        What is already there and right stays. On an error nothing of a new link is left. Raises `RefusedError` when the
        descriptor is no network namespace or the container's interface name is taken, `KernelRefused` otherwise.
        """
        ...

    def unwire(self, host_name: str, namespace_descriptor: int | None = None) -> None:
        """Remove the link; one that is already gone is no error.

        With the workload's namespace what the link does not take along goes as well. Any other namespace, or what is
        none, is left alone.
        """
        ...

    def list(self) -> dict[str, int]:
        """Return the index of every workload link of ours on this host, by its host name."""
        ...


class Wiring(Protocol):
    """Another way to wire links, for when many come; only a hope: what it does not wire is wired as ever."""

    def start(self) -> None:
        """See to it that links are wired in this way soon, if that is possible."""
        ...

    def wire(self, namespace_descriptor: int, link: WorkloadLink) -> Future[int | None] | None:
        """Begin to do what `Links.wire` does; None if it cannot begin. The descriptor may be closed at once.

        The outcome is the host link's index, None if the link was not wired, for whatever reason.
        """
        ...


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address on one of the host's interfaces.

    `network` is the subnet that comes with it; `scope_global` is false for link-local and loopback addresses.
    A `deprecated` one is past its preferred lifetime: it works, but nothing new should begin with it.
    """

    interface: str
    link_index: int
    address: IPAddress
    network: IPNetwork
    scope_global: bool
    deprecated: bool = False


# -------------------------------------------------------------------------------------------------------------- speaker


class Speaker(Protocol):
    """The BGP speaker, as the agent sees it; it outlives the agent and the agent outlives it."""

    async def set(self, peers: Collection[Peer], announcements: Collection[Announcement]) -> None:
        """Make these the whole desired state: sessions with exactly these peers, exactly these prefixes announced.

        Returns at once. What is desired is kept, and sent again whenever the speaker comes back.
        """
        ...

    def events(self) -> AsyncGenerator[SpeakerEvent, None]:
        """Deliver a `SpeakerSnapshot` at every connection, then events; a `SpeakerLost` when the connection ends.

        Never raises for a speaker that is down: it retries with jittered backoff.
        """
        ...

    async def close(self) -> None:
        """End the connection; sessions and announcements stay as they are."""
        ...

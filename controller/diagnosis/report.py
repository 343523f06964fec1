"""What one node says of itself: what it wants, what its kernel has, and what BGP told it, as of one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from controller.ports import RouteKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.address import IPAddress, IPNetwork


class Hop(NamedTuple):
    """Where a route leads: out of a device, through a gateway or directly."""

    gateway: IPAddress | None
    device: str

    def __str__(self) -> str:
        return f"dev {self.device}" if self.gateway is None else f"via {self.gateway} dev {self.device}"


class Route(NamedTuple):
    """A route of ours, wanted or in the kernel; `hops` are in a fixed order and empty for a blackhole."""

    prefix: IPNetwork
    kind: RouteKind
    hops: tuple[Hop, ...] = ()

    def __str__(self) -> str:
        if self.kind is RouteKind.BLACKHOLE:
            return f"blackhole {self.prefix}"
        return f"{self.prefix} {', '.join(map(str, self.hops)) or 'of a form that is not ours'}"


@dataclass(frozen=True, slots=True)
class ForeignRoute:
    """A route of somebody else in the main table; `protocol` says whose (RTPROT_* in linux/rtnetlink.h)."""

    prefix: IPNetwork
    protocol: int
    metric: int
    hops: tuple[Hop, ...] = ()

    def __str__(self) -> str:
        way = "".join(f" {hop}" for hop in self.hops)
        return f"{self.prefix}{way} metric {self.metric} of protocol {self.protocol}"


class Rule(Enum):
    """Why a node announces a prefix; the value is the end of a sentence."""

    OWNED = "it owns the block"
    BORROWED = "it holds the address out of another node's block"
    UNOWNED = "it holds the address out of a block that no node owns"


@dataclass(frozen=True, slots=True)
class Path:
    """A peer's route for a prefix; `rejected` is the rule that refused it, None for one that may be used."""

    peer: IPAddress
    next_hop: IPAddress
    rejected: str | None = None


@dataclass(frozen=True, slots=True)
class SessionReport:
    """A configured peer and its session; `since` is in epoch seconds, 0 when unknown."""

    peer: IPAddress
    name: str
    state: str
    since: float
    info: str

    @property
    def established(self) -> bool:
        """Whether routes are exchanged."""
        return self.state == "established"


@dataclass(frozen=True, slots=True)
class LinkReport:
    """A workload's link on the host; `wired` are the addresses that its permanent neighbours say."""

    name: str
    up: bool
    wired: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class StoreReport:
    """Whether the agent sees its store; otherwise `reason` says why not and `lost_at` since when, in epoch seconds."""

    kind: str
    connected: bool
    reason: str = ""
    lost_at: float | None = None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node as of `taken_at`, in epoch seconds.

    `speaker` is the reason why the BGP sidecar is not connected, None while it is. `drain` is as in the agent's status.
    `announced` are the prefixes it wants announced, each with the reason; `unresolved` those it accepted and cannot
    route to their next hop. `failures` maps a prefix to the kernel's refusal. `left_off` counts the prefixes for which
    there was no room. `problems` are other sentences for the operator.
    """

    node: str
    version: str
    taken_at: float
    addresses: tuple[IPAddress, ...]
    store: StoreReport
    speaker: str | None = None
    drain: str = ""
    decided: bool = True
    blocks: frozenset[IPNetwork] = frozenset()
    announced: Mapping[IPNetwork, Rule] = field(default_factory=dict)
    sessions: tuple[SessionReport, ...] = ()
    learned: Mapping[IPNetwork, tuple[Path, ...]] = field(default_factory=dict)
    unresolved: frozenset[IPNetwork] = frozenset()
    wanted: Mapping[IPNetwork, Route] = field(default_factory=dict)
    kernel: Mapping[IPNetwork, Route] = field(default_factory=dict)
    failures: Mapping[IPNetwork, str] = field(default_factory=dict)
    foreign: tuple[ForeignRoute, ...] = ()
    links: Mapping[str, LinkReport] = field(default_factory=dict)
    forwarding: Mapping[int, bool] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    left_off: int = 0

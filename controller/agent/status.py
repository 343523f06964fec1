"""What the agent tells about itself, made of what its parts know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from bgp.events import SessionState
from controller.agent.api import (
    BgpStatus,
    PeerProblem,
    PeerStatus,
    RejectedStatus,
    RouteProblem,
    RoutesStatus,
    Status,
    StoreStatus,
    WorkloadStatus,
)
from controller.agent.decision import DrainPhase
from controller.reconcile.failures import EXAMPLES, by_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bgp.events import SessionStatus
    from bgp.peer import Peer
    from bgp.policy import RejectedRoutes
    from controller.agent.decision import Decision
    from controller.datamodel.records import Node
    from controller.ports import ForeignRoute, RouteFailure
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Holder


#: What the status says of each phase.
_DRAIN_WORD: Final = {DrainPhase.NONE: "", DrainPhase.ASKING: "draining", DrainPhase.WITHDRAWN: "drained"}


_SPEAKER_IS_LEFT: Final = (
    "BGP sessions and announcements stay as they were before the agent started: with records that cannot be read, it "
    "cannot tell which of them to end; write those anew, or remove them with tortiectl delete record"
)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the parts of the agent know at one moment.

    `malformed` maps the key of each record that does not decode to the reason, which names the key.
    `store_reason` and `speaker_reason` are None while connected, `decision` is None before the first one, and
    `complaints` are sentences about what has failed and is tried again. `peer_names` are the names of nodes and of
    defined peers, `peer_problems` the reasons why defined peers make no session, by their names. `unread` are the keys
    among `malformed` of which nothing is known, and `leaves_speaker` says that the speaker is left as it was for them.
    """

    node: Node
    version: str
    peer_names: Mapping[IPAddress, str]
    store_kind: str
    store_reason: str | None
    complaints: tuple[str, ...]
    speaker_reason: str | None
    peers: tuple[Peer, ...]
    sessions: Mapping[IPAddress, SessionStatus]
    decision: Decision | None
    routes_in_sync: bool
    route_failures: Mapping[IPNetwork, RouteFailure]
    missing_addresses: tuple[IPAddress, ...]
    holders: Mapping[IPAddress, Holder]
    pool_count: int
    malformed: Mapping[str, str]
    foreign_routes: tuple[ForeignRoute, ...] = ()
    peer_problems: Mapping[str, str] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    leaves_speaker: bool = False


def status_of(observed: Observed) -> Status:
    """Return the status; an ADD would succeed while `ready` is true."""
    problems = _problems(observed)
    return Status(
        node=observed.node.name,
        version=observed.version,
        ready=obstacle(observed) is None,
        problems=problems,
        addresses=tuple(str(address) for address in observed.node.addresses),
        store=StoreStatus(observed.store_kind, observed.store_reason is None, observed.store_reason or ""),
        routes=_routes(observed),
        bgp=_bgp(observed),
        workloads=_workloads(observed.holders),
        drain="" if observed.decision is None else _DRAIN_WORD[observed.decision.drain],
    )


def obstacle(observed: Observed) -> str | None:
    """Return why a new workload could not be wired now, or None."""
    if observed.store_reason is not None:
        return f"the {observed.store_kind} store is not reachable: {observed.store_reason}"
    if observed.decision is None:
        return "the store's snapshot is not known yet"
    if observed.pool_count == 0:
        return "there is no pool; create one with tortiectl apply"
    return None


def hindrances(observed: Observed) -> tuple[str, ...]:
    """Return why a new workload could not be wired now, or other hosts would not learn of it; none while neither is so.

    The second stops no workload: whoever would take away what runs here asks for `obstacle` alone.
    """
    return tuple(reason for reason in (obstacle(observed), _isolation(observed)) if reason is not None)


def _isolation(observed: Observed) -> str | None:
    """Return why other hosts would not learn of a new block, or None; a node without peers has nobody to tell."""
    if observed.speaker_reason is not None:
        return _speaker_lost(observed.speaker_reason)
    sessions = [observed.sessions.get(peer.address) for peer in observed.peers]
    if any(session is not None and session.state is SessionState.ESTABLISHED for session in sessions):
        return None
    return (
        f"none of {len(sessions)} BGP sessions is established; `tortiectl node status` tells each one's reason"
        if sessions
        else None
    )


def _speaker_lost(reason: str) -> str:
    return f"the BGP sidecar is not connected: {reason}; learned routes stay as they are"


def lasting_obstacle(observed: Observed) -> str | None:
    """Return why no new workload can be expected to be wired, or None.

    A store that is away is no reason once its snapshot is known: what exists goes on, and a call is to be tried again.
    """
    return obstacle(observed if observed.decision is None else replace(observed, store_reason=None))


def _problems(observed: Observed) -> tuple[str, ...]:
    first = obstacle(observed)
    problems = [] if first is None else [first]
    if observed.store_reason is None:  # otherwise they only repeat it
        problems += observed.complaints
    if observed.speaker_reason is not None:
        problems.append(_speaker_lost(observed.speaker_reason))
    problems += _problems_of_records(observed)
    problems += [
        f"{_named(refused.examples, refused.count)}: {refused.reason}"
        for refused in by_error(observed.route_failures.values())
    ]
    problems += _problems_of_foreign_routes(observed)
    problems += _problems_of_addresses(observed)
    problems += _problems_of_next_hops(observed)
    return tuple(problems)


def standing_problems(observed: Observed) -> tuple[str, ...]:
    """Return the problems that are neither the store's, nor the speaker's, nor those of single routes."""
    complaints = observed.complaints if observed.store_reason is None else ()
    return (*complaints, *_problems_of_records(observed), *_problems_of_addresses(observed))


def _problems_of_records(observed: Observed) -> list[str]:
    return [
        *(
            f"{reason}; "
            + ("nothing is known of it" if key in observed.unread else "what it said before stays")
            + " until it is written anew"
            for key, reason in observed.malformed.items()
        ),
        *([_SPEAKER_IS_LEFT] if observed.leaves_speaker else ()),
        *(f"bgppeer {name} has no session: {reason}" for name, reason in observed.peer_problems.items()),
    ]


def _problems_of_addresses(observed: Observed) -> list[str]:
    return [
        f"address {address} of this node is on no interface; restart the agent if the host was given another one"
        for address in observed.missing_addresses
    ]


def _problems_of_foreign_routes(observed: Observed) -> list[str]:
    found: dict[tuple[int, int], list[IPNetwork]] = {}
    for route in observed.foreign_routes:
        found.setdefault((route.protocol, route.link_index), []).append(route.prefix)
    return [
        f"{_named(prefixes, len(prefixes))}, of protocol {protocol}, out of a workload's link (number {link}): "
        "not ours, and left alone"
        for (protocol, link), prefixes in found.items()
    ]


def _problems_of_next_hops(observed: Observed) -> list[str]:
    found: dict[IPAddress, list[IPNetwork]] = {}
    for missing in () if observed.decision is None else observed.decision.unresolved:
        found.setdefault(missing.next_hop, []).append(missing.prefix)
    return [
        f"{_named(prefixes, len(prefixes))}: the next hop {next_hop} lies in no subnet of this host's interfaces"
        for next_hop, prefixes in found.items()
    ]


def _named(prefixes: Sequence[IPNetwork], count: int) -> str:
    """Return words for so many routes, of which some prefixes are given."""
    if count == 1:
        return f"route {prefixes[0]}"
    listed = ", ".join(map(str, prefixes[:EXAMPLES]))
    return f"{count} routes ({listed}{', ...' if count > EXAMPLES else ''})"


def _routes(observed: Observed) -> RoutesStatus:
    count = 0 if observed.decision is None else len(observed.decision.routes.routes)
    failures = tuple(
        RouteProblem(refused.reason, refused.count, tuple(map(str, refused.examples)))
        for refused in by_error(observed.route_failures.values())
    )
    return RoutesStatus(observed.routes_in_sync, count, failures)


def _bgp(observed: Observed) -> BgpStatus:
    decision = observed.decision
    return BgpStatus(
        connected=observed.speaker_reason is None,
        peers=tuple(_peer(peer, observed) for peer in observed.peers),
        learned_count=0 if decision is None else decision.learned_count,
        rejected_counts={} if decision is None else _rejected_counts(decision.rejected),
        rejected=() if decision is None else tuple(map(_rejected, _in_order(decision.rejected))),
        problems=tuple(PeerProblem(name, reason) for name, reason in observed.peer_problems.items()),
    )


def _peer(peer: Peer, observed: Observed) -> PeerStatus:
    session = observed.sessions.get(peer.address)
    state, since, info = ("unknown", 0.0, "") if session is None else (session.state.value, session.since, session.info)
    if observed.speaker_reason is not None:
        state, info = "unknown", "the BGP sidecar is not connected"
    name = observed.peer_names.get(peer.address, "")
    return PeerStatus(str(peer.address), name, peer.origin.value, state, since, info)


def _workloads(holders: Mapping[IPAddress, Holder]) -> tuple[WorkloadStatus, ...]:
    addresses_of: dict[str, list[IPAddress]] = {}
    holder_of: dict[str, Holder] = {}
    for address, holder in holders.items():
        addresses_of.setdefault(holder.handle, []).append(address)
        holder_of[holder.handle] = holder
    return tuple(
        WorkloadStatus(
            handle=handle,
            workload=holder.workload,
            namespace=holder.namespace,
            interface=holder.interface,
            addresses=tuple(str(a) for a in sorted(addresses_of[handle], key=lambda a: (a.version, int(a)))),
        )
        for handle, holder in sorted(holder_of.items())
    )


def _in_order(rejected: Iterable[RejectedRoutes]) -> list[RejectedRoutes]:
    return sorted(rejected, key=lambda each: (each.peer.version, int(each.peer), each.reason.value))


def _rejected(routes: RejectedRoutes) -> RejectedStatus:
    return RejectedStatus(str(routes.peer), routes.reason.value, routes.count, tuple(map(str, routes.examples)))


def _rejected_counts(rejected: Iterable[RejectedRoutes]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for routes in rejected:
        counts[routes.reason.value] += routes.count
    return dict(counts)

"""The metrics of BGP that are read off what the agent knows, at the moment of a scrape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from bgp.events import SessionState
from controller.agent.metrics_samples import counters, gauge, gauges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from controller.agent.metrics_reading import Reading
    from controller.agent.status import Observed
    from ipam.address import IPAddress

#: The labels of a peer: its address, and the name of the node or of the definition.
_PEER: Final = ("peer", "name")


def bgp_families(reading: Reading) -> Iterator[Metric]:
    """Yield the metrics of sessions and of what was learned and announced."""
    observed, heard = reading.observed, reading.heard
    labels: dict[IPAddress, tuple[str, ...]] = {
        peer.address: (str(peer.address), observed.peer_names.get(peer.address, "")) for peer in observed.peers
    }
    states = {address: _state(observed, address) for address in labels}
    count_by_state = Counter(states.values())
    yield gauge("tortie_bgp_connected", "1 while the BGP sidecar is connected.", observed.speaker_reason is None)
    yield gauges(
        "tortie_bgp_sessions",
        "Configured peers by the state of their session.",
        ("state",),
        {(state,): count_by_state[state] for state in (*(state.value for state in SessionState), "unknown")},
    )
    up = {labels[address]: state == SessionState.ESTABLISHED.value for address, state in states.items()}
    yield gauges("tortie_bgp_session_up", "1 while the peer's session is established.", _PEER, up)
    yield gauge(
        "tortie_bgp_peers_without_session",
        "Defined peers that make no session because their definition does not fit.",
        len(observed.peer_problems),
    )
    for name, text, counts in (
        ("session_losses", "Established sessions that ended.", heard.loss_counts),
        ("updates", "Updates of the peer with routes.", heard.update_counts),
    ):
        by_peer = {label: counts.get(address, 0) for address, label in labels.items()}
        yield counters(f"tortie_bgp_{name}", text, _PEER, by_peer)
    yield from _prefixes(reading, labels)


def _prefixes(reading: Reading, labels: Mapping[IPAddress, tuple[str, ...]]) -> Iterator[Metric]:
    counts = reading.heard.route_counts
    rejected = () if reading.observed.decision is None else reading.observed.decision.rejected
    refused = Counter[object]()
    for each in rejected:
        refused[each.peer] += each.count
    received = {label: counts.get(address, 0) for address, label in labels.items()}
    yield gauges("tortie_bgp_prefixes_received", "Prefixes that the peer announces.", _PEER, received)
    # The counts are of two moments: what was just received is not judged yet.
    accepted = {label: max(0, counts.get(address, 0) - refused[address]) for address, label in labels.items()}
    yield gauges("tortie_bgp_prefixes_accepted", "Prefixes of the peer that may be used.", _PEER, accepted)
    yield gauges(
        "tortie_bgp_prefixes_rejected",
        "Prefixes of the peer that are not used, by the rule that they break; session_full counts announcements.",
        (*_PEER, "reason"),
        {(*labels[each.peer], each.reason.value): each.count for each in rejected if each.peer in labels},
    )
    yield gauge("tortie_bgp_prefixes_stale", "Prefixes kept although their session ended.", reading.heard.stale_count)
    yield gauge(
        "tortie_bgp_prefixes_announced",
        "Prefixes that every established session has been given.",
        reading.announced_count,
    )
    yield gauge(
        "tortie_unannounced_addresses",
        "Addresses of workloads that are routed here and wait for their announcement.",
        reading.waiting_count,
    )


def _state(observed: Observed, address: IPAddress) -> str:
    session = observed.sessions.get(address)
    return "unknown" if session is None or observed.speaker_reason is not None else session.state.value

"""What can be wrong with a node as a whole: each would explain many routes that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.diagnosis.facts import moment
from controller.diagnosis.finding import Finding, FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controller.datamodel.records import Node
    from controller.diagnosis.report import NodeReport, SessionReport
    from ipam.address import IPAddress


def silent(node: str, reason: str) -> Finding:
    """Return that a node's agent did not answer; what the kernel there does nobody knows."""
    return Finding(
        FindingKind.NODE_SILENT,
        node,
        node,
        f"the agent of {node} does not answer ({reason}), so what its kernel has is not known",
        f"see `systemctl status tortie-agent` and its log on {node}, and whether its http_listen is reached from here; "
        f"a host that is gone for good goes with `tortiectl node delete {node}`",
    )


def store_stale(report: NodeReport) -> Finding | None:
    """Return that a node is cut off from the store, if it is."""
    if report.store.connected:
        return None
    since = "" if report.store.lost_at is None else f" since {moment(report.store.lost_at)}"
    return Finding(
        FindingKind.STORE_STALE,
        report.node,
        report.store.kind,
        f"{report.node} has not reached the {report.store.kind} store{since} ({report.store.reason}), so it goes by "
        f"what it knew and wires no new workload",
        f"see from {report.node} whether the store's address and port are reached and its credentials are good",
    )


def speaker_lost(report: NodeReport) -> Finding | None:
    """Return that a node's agent has no BGP sidecar, if it has none."""
    if report.speaker is None:
        return None
    return Finding(
        FindingKind.SPEAKER_LOST,
        report.node,
        "tortie-bgp",
        f"the BGP sidecar of {report.node} is not connected ({report.speaker}), so the node tells nobody of its "
        f"blocks and hears of none",
        f"see `systemctl status tortie-bgp` and its log on {report.node}",
    )


def undecided(report: NodeReport) -> Finding | None:
    """Return that a node's agent has not decided on any route yet, if so."""
    if report.decided:
        return None
    return Finding(
        FindingKind.UNDECIDED,
        report.node,
        report.node,
        f"the agent of {report.node} has not decided on any route yet, so its kernel has what an earlier one left",
        f"see its log on {report.node} for what it waits for",
    )


def behind(report: NodeReport) -> Iterator[Finding]:
    """Yield why a node may not know or tell what it should, the deepest reason first."""
    yield from filter(None, (store_stale(report), speaker_lost(report)))
    if report.store.connected:
        yield from filter(None, (undecided(report),))


def node_findings(report: NodeReport) -> Iterator[Finding]:
    """Yield what is wrong with a node as a whole, the deepest reason first."""
    yield from behind(report)
    for version, on in report.forwarding.items():
        if not on:
            name = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"  # noqa: PLR2004  IP version
            yield Finding(
                FindingKind.FORWARDING_OFF,
                report.node,
                name,
                f"{name} is off on {report.node}, so no packet passes from or to its workloads",
                f"`sysctl -w {name}=1` on {report.node}, and find out who turned it off",
            )
    for problem in report.problems:
        yield Finding(FindingKind.NODE_PROBLEM, report.node, problem, f"{report.node} says: {problem}", "")
    if report.left_off:
        yield Finding(
            FindingKind.NOT_COMPARED,
            report.node,
            "report",
            f"{report.left_off} prefixes of {report.node} had no room in its report and were not compared",
            "ask for single ones with `tortiectl explain`",
        )


def session_down(report: NodeReport, session: SessionReport, node_of: Mapping[IPAddress, Node]) -> Finding:
    """Return that a session is not established; of a session between nodes both ends tell the same."""
    other = node_of.get(session.peer)
    info = f", {session.info}" if session.info else ""
    since = f" since {moment(session.since)}" if session.since else ""
    if other is None:
        node, subject = report.node, str(session.peer)
        peer = f"peer {session.name} ({session.peer})" if session.name else f"peer {session.peer}"
    else:
        node = min(report.node, other.name)
        subject = f"{node} - {max(report.node, other.name)}"
        peer = f"{other.name} ({session.peer})"
    return Finding(
        FindingKind.SESSION_DOWN,
        node,
        subject,
        f"{report.node} has no BGP session with {peer}: {session.state}{since}{info}; routes it told stay for the "
        f"restart time at most",
        "see that TCP port 179 passes between them and that both have the same password and each other's AS number: "
        "`tortiectl get bgppeers -o yaml`, `tortiectl node status` on both",
    )

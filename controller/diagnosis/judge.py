"""The chains by which a packet reaches a workload, link by link: each question returns the first that is broken.

    wired      link there, up, neighbour, host route            on the node of the workload
    owned      the agent knows its block, blackhole             on the block's owner
    announced  the prefix is announced                          on the node that has to
    delivered  session, learned, accepted, wanted, in the FIB   on every other node
    captured   no more specific route of somebody else          on every node

What a silent node would say is not known, and no question about it is answered.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from controller.diagnosis.finding import Finding, FindingKind
from controller.diagnosis.kernel_difference import in_the_way, programmed
from controller.diagnosis.node_state import behind, session_down, silent, speaker_lost
from controller.diagnosis.report import Hop, Route
from controller.ports import RouteKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controller.datamodel.records import Node
    from controller.diagnosis.report import NodeReport, Path, SessionReport
    from controller.diagnosis.snapshot import Delivery, Held, Snapshot
    from ipam.address import IPAddress
    from ipam.block import Block


class Judge:
    """Answers about one snapshot of the store and the reports of the nodes; `silence` says why others have none."""

    def __init__(
        self, snapshot: Snapshot, reports: Mapping[str, NodeReport], silence: Mapping[str, str] | None = None
    ) -> None:
        self.snapshot = snapshot
        self.reports = reports
        self.silence = silence or {}
        self.node_of: dict[IPAddress, Node] = {
            address: node for node in snapshot.nodes.values() for address in node.addresses
        }
        # Two nodes have thousands of prefixes between them, and one session.
        self._sessions: dict[tuple[str, str], Finding | None] = {}
        self._versions = {
            name: frozenset(address.version for address in report.addresses) for name, report in reports.items()
        }

    def wired(self, held: Held) -> Finding | None:
        """Return what keeps a packet that has come to the workload's node from the workload."""
        address, holder = held.address, held.holder
        report = self.reports.get(holder.node)
        if report is None:
            return None
        link = report.links.get(holder.interface)
        who = f"{holder.full_name} on {holder.node}"
        again = f"remove and create workload {holder.full_name} again"
        found = None
        if link is None:
            found = (
                FindingKind.LINK_MISSING,
                f"{address} is held by {who}, whose link {holder.interface} is not there",
                f"{again}, or wait: what stays so for the grace period is collected",
            )
        elif not link.up:
            found = (
                FindingKind.LINK_DOWN,
                f"link {link.name} of {who} is down, so nothing reaches {address}",
                f"`ip link set {link.name} up` on {holder.node}, or {again}",
            )
        elif address not in link.wired:
            found = (
                FindingKind.NEIGHBOUR_MISSING,
                f"link {link.name} of {who} has no permanent neighbour {address}, so packets may wait for it in vain",
                again,
            )
        if found is not None:
            kind, text, remedy = found
            return Finding(kind, holder.node, str(address), text, remedy)
        route = Route(ipaddress.ip_network(address), RouteKind.UNICAST, (Hop(None, holder.interface),))
        return programmed(report, route)

    def owned(self, block: Block) -> Finding | None:
        """Return what is wrong with a block on the node that owns it, apart from its announcement."""
        report = None if block.affinity is None else self.reports.get(block.affinity)
        if report is None:
            return None
        if block.cidr not in report.blocks:
            return _behind(report) or Finding(
                FindingKind.BLOCK_UNKNOWN,
                report.node,
                str(block.cidr),
                f"{report.node} owns block {block.cidr} by the store and its agent does not know, so nobody announces "
                f"it",
                f"see the agent's log on {report.node}; restarted, it reads its blocks anew",
            )
        if block.cidr.prefixlen == block.cidr.max_prefixlen:  # the workload's own route has its place
            return None
        return programmed(report, Route(block.cidr, RouteKind.BLACKHOLE))

    def announced(self, delivery: Delivery) -> Finding | None:
        """Return why a prefix is not announced by the node that has to."""
        report = self.reports.get(delivery.node)
        if report is None or delivery.prefix in report.announced:
            return None
        return _behind(report) or Finding(
            FindingKind.NOT_ANNOUNCED,
            report.node,
            str(delivery.prefix),
            f"{report.node} does not announce {delivery.prefix}, though {delivery.rule.value}",
            f"see `tortiectl node status` and the agent's log on {report.node}; restarted, it reads what it holds anew",
        )

    def delivered(self, delivery: Delivery, receiver: str) -> Finding | None:
        """Return what keeps another node from sending packets for an announced prefix to the node that announces it."""
        report, node = self.reports.get(receiver), self.snapshot.nodes.get(delivery.node)
        if report is None or node is None or delivery.prefix.version not in self._versions[receiver]:
            return None
        paths = report.learned.get(delivery.prefix, ())
        return (
            self._session(report, node)
            or self._learned(report, delivery, node, paths)
            or _accepted(report, delivery, paths)
            or self._wanted(report, delivery, node)
            or programmed(report, report.wanted[delivery.prefix])
        )

    def captured(self, report: NodeReport, only: IPAddress | None = None) -> Iterator[Finding]:
        """Yield the foreign routes that draw a part of a block's addresses in use to somewhere else.

        With `only` nothing but that address is looked at, as is right for a report about it alone.
        """
        for foreign in report.foreign:
            for block in self.snapshot.blocks_around(foreign.prefix):
                if foreign.prefix == block.cidr:  # its place is looked at with the block's own route
                    continue
                taken = [
                    address
                    for address, _ in block.assignments()
                    if only in (None, address)
                    and address in foreign.prefix
                    and ipaddress.ip_network(address) not in report.kernel
                ]
                if taken:
                    yield in_the_way(report.node, foreign, f"draws in {_some(taken)} of block {block.cidr}")

    def session(self, report: NodeReport, session: SessionReport) -> Finding | None:
        """Return the reason why a session is not established: nobody at one of its ends, or else itself."""
        node = self.node_of.get(session.peer)
        if session.established:
            return None
        if node is not None and node.name in self.silence:
            return silent(node.name, self.silence[node.name])
        other = None if node is None else self.reports.get(node.name)
        lost = (None if other is None else speaker_lost(other)) or speaker_lost(report)
        return lost or session_down(report, session, self.node_of)

    def _session(self, report: NodeReport, node: Node) -> Finding | None:
        ends = (report.node, node.name)
        if ends not in self._sessions:
            session = next((each for each in report.sessions if each.peer in node.addresses), None)
            self._sessions[ends] = None if session is None else self.session(report, session)
        return self._sessions[ends]

    def _learned(self, report: NodeReport, delivery: Delivery, node: Node, paths: tuple[Path, ...]) -> Finding | None:
        if paths:
            return None
        has_session = any(session.peer in node.addresses for session in report.sessions)
        how = "over a session that stands" if has_session else "and has no session with it"
        between = None if has_session else self._between(report, self.reports.get(node.name))
        if between is not None:
            return between
        return _behind(report) or Finding(
            FindingKind.NOT_LEARNED,
            report.node,
            str(delivery.prefix),
            f"{delivery.node} announces {delivery.prefix}, and {report.node} has not learned it, {how}",
            "see the export rules of their peers' filters (`tortiectl get bgpfilters -o yaml`), and who has to pass it "
            "on where nodes form no mesh",
        )

    def _between(self, *ends: NodeReport | None) -> Finding | None:
        """Return that one of two nodes, which have no session with each other, lacks one with a third party."""
        broken = (self.session(end, session) for end in ends if end is not None for session in end.sessions)
        return next(filter(None, broken), None)

    def _wanted(self, report: NodeReport, delivery: Delivery, node: Node) -> Finding | None:
        """Return why an accepted route is not used, or what else it leads to."""
        prefix = delivery.prefix
        wanted = report.wanted.get(prefix)
        if wanted is None and prefix in report.unresolved:
            return Finding(
                FindingKind.UNRESOLVED,
                report.node,
                str(prefix),
                f"the next hop of {prefix} lies in no subnet of {report.node}'s interfaces, so it has no route there",
                f"connect {report.node} and {delivery.node} to one subnet, or have a router between them announce it "
                f"with its own address as next hop",
            )
        if wanted is None:
            return _behind(report) or Finding(
                FindingKind.NOT_WANTED,
                report.node,
                str(prefix),
                f"{report.node} has learned {prefix} and does not use it",
                f"see the agent's log on {report.node}",
            )
        right = node.address(prefix.version)
        if not self.snapshot.plain_mesh or (wanted.hops and all(hop.gateway == right for hop in wanted.hops)):
            return None
        others = ", ".join(str(hop.gateway) for hop in wanted.hops if hop.gateway != right)
        return Finding(
            FindingKind.WRONG_NEXT_HOP,
            report.node,
            str(prefix),
            f"{report.node} was told that {prefix} is at {others}, while {delivery.node} ({right}) has it: "
            f"{delivery.rule.value}",
            "find out who announces it there (`tortiectl explain` of it shows every node) and restart that agent",
        )


def _accepted(report: NodeReport, delivery: Delivery, paths: tuple[Path, ...]) -> Finding | None:
    if any(path.rejected is None for path in paths):
        return None
    rules = ", ".join(sorted({str(path.rejected) for path in paths}))
    remedy = "see `tortiectl node status --rejected` there and the pools, blocks and nodes in the store"
    if "filtered" in rules:
        remedy = "change the import rules of its peers' filters: `tortiectl get bgpfilters -o yaml`"
    return _behind(report) or Finding(
        FindingKind.REJECTED,
        report.node,
        str(delivery.prefix),
        f"{report.node} refuses the route to {delivery.prefix} of {delivery.node} by the rule {rules}",
        remedy,
    )


def _behind(report: NodeReport) -> Finding | None:
    """Return why a node may not know or tell what it should."""
    return next(behind(report), None)


def _some(addresses: list[IPAddress]) -> str:
    return f"{addresses[0]} and {len(addresses) - 1} more addresses" if len(addresses) > 1 else str(addresses[0])

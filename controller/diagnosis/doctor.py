"""Everything that is broken in a cluster, each chain's first broken link once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.diagnosis.finding import Finding, FindingKind
from controller.diagnosis.node_state import node_findings, silent
from ipam.problem import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from controller.diagnosis.judge import Judge
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block
    from ipam.problem import Problem


def diagnose(judge: Judge) -> tuple[Finding, ...]:
    """Return every finding, once: nodes first, then sessions, addresses, links, blocks, and routes node by node."""
    found: dict[object, Finding] = {}
    for finding in _found(judge):
        found.setdefault(finding.identity, finding)
    return tuple(found.values())


def ipam_finding(problem: Problem) -> Finding:
    """Return a problem of the address management as a finding; its text says what to do."""
    return Finding(problem.kind, problem.node, str(problem.subject), problem.text, "")


def unowned(block: Block) -> Finding | None:
    """Return that a block in use has no owner, if so."""
    if block.affinity is not None or not block.holders:
        return None
    nodes = ", ".join(sorted(block.holding_nodes()))
    return Finding(
        FindingKind.UNOWNED_BLOCK,
        None,
        str(block.cidr),
        f"block {block.cidr} has no owner, and {block.in_use} of its addresses are in use on {nodes}, so each of them "
        f"is announced and routed by itself",
        "it works; create those workloads again one by one and the block becomes empty, and then some node's",
    )


class Blamed:
    """What the address management itself has wrong: routes there follow from that and are not told again."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._addresses: set[IPAddress] = set()
        self._prefixes: set[str] = set()
        for problem in problems:
            if problem.address is not None:
                self._addresses.add(problem.address)
            elif problem.kind is not ProblemKind.UNUSED_BLOCK:
                cidr = getattr(problem.subject, "cidr", problem.cidr or problem.subject)
                self._prefixes.add(str(cidr))

    def address(self, address: IPAddress) -> bool:
        """Whether something is wrong with the address."""
        return address in self._addresses

    def prefix(self, prefix: IPNetwork) -> bool:
        """Whether something is wrong with the block, or with the one address that the prefix is."""
        return str(prefix) in self._prefixes or (
            prefix.prefixlen == prefix.max_prefixlen and prefix.network_address in self._addresses
        )


def _found(judge: Judge) -> Iterator[Finding]:
    snapshot = judge.snapshot
    for node, reason in judge.silence.items():
        yield silent(node, reason)
    for report in judge.reports.values():
        yield from node_findings(report)
    yield from session_findings(judge)
    yield from map(ipam_finding, snapshot.problems)
    yield from filter(None, map(unowned, snapshot.inventory.blocks.values()))
    blamed = Blamed(snapshot.problems)
    for held in snapshot.all_held():
        if not blamed.address(held.address):
            yield from filter(None, (judge.wired(held),))
    for cidr, block in snapshot.inventory.blocks.items():
        if not blamed.prefix(cidr):
            yield from filter(None, (judge.owned(block),))
    for delivery in snapshot.deliveries():
        if blamed.prefix(delivery.prefix) or snapshot.withheld(delivery) is not None:
            continue
        broken = judge.announced(delivery)
        if broken is not None:
            yield broken
            continue
        for receiver in judge.reports:
            if receiver != delivery.node:
                yield from filter(None, (judge.delivered(delivery, receiver),))
    for report in judge.reports.values():
        yield from judge.captured(report)


def session_findings(judge: Judge) -> Iterator[Finding]:
    """Yield each session that is not established; one with a node that does not answer is told as that."""
    for report in judge.reports.values():
        for session in report.sessions:
            yield from filter(None, (judge.session(report, session),))

"""What is known of one address, prefix or node, and its chain link by link: for one screen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.diagnosis.doctor import Blamed, diagnose, ipam_finding, unowned
from controller.diagnosis.facts import announcement_facts, block_facts, block_text, moment, pool_facts
from controller.diagnosis.finding import Finding, FindingKind
from controller.diagnosis.node_state import behind, node_findings, silent
from ipam.problem import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.datamodel.records import Node
    from controller.diagnosis.judge import Judge
    from controller.diagnosis.report import Route
    from controller.diagnosis.snapshot import Delivery, Held
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block

#: How many blocks are named one by one.
_MOST_BLOCKS = 5


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node should have, what it has, and the broken link on it, if one is."""

    node: str
    expected: str
    actual: str
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is asked about, what is known of it, each node's part in it, and its broken links, the first one first."""

    subject: str
    facts: tuple[tuple[str, str], ...]
    nodes: tuple[NodeView, ...] = ()
    findings: tuple[Finding, ...] = ()


def explain_address(judge: Judge, address: IPAddress) -> Explanation:
    """Say who holds an address, in which block and pool, who announces it by which rule, and each node's route."""
    snapshot, network = judge.snapshot, ipaddress.ip_network(address)
    held = snapshot.held(address)
    block = held.block if held is not None else next(snapshot.blocks_around(address), None)
    holder = "nobody"
    if held is not None:
        who = held.holder
        holder = f"{who.full_name} on {who.node}, link {who.interface}, since {moment(who.created_at)}"
    facts = [("held by", holder), *([("handle", held.holder.handle)] if held is not None else [])]
    if block is None:
        pool = snapshot.pool_of(network)
        node = judge.node_of.get(address)
        facts += [("node", f"it is the address of {node.name}; explain {node.name}")] if node is not None else []
        facts.append(("block", "none is claimed around it" if pool is not None else "none, for it lies in no pool"))
        return Explanation(str(address), (*facts, *pool_facts(judge, network)))
    delivery = _delivery(judge, block, held)
    facts += [*block_facts(judge, block), *announcement_facts(judge, delivery)]
    findings = address_findings(judge, address)
    return Explanation(str(address), tuple(facts), _views(judge, block, held, delivery, findings), findings)


def explain_block(judge: Judge, block: Block) -> Explanation:
    """Say who owns a block, by which rule it is announced, and each node's route to it."""
    held = tuple(address for address, _ in block.assignments())
    delivery = _delivery(judge, block, None)
    findings = _once(
        finding
        for part in (_block_findings(judge, block, delivery), *(address_findings(judge, each) for each in held))
        for finding in part
    )
    facts = (*block_facts(judge, block), *announcement_facts(judge, delivery))
    return Explanation(str(block.cidr), facts, _views(judge, block, None, delivery, findings), findings)


def explain_range(judge: Judge, cidr: IPNetwork) -> Explanation:
    """Say which blocks lie in a network, whose they are, and how many of the routes to them each node has."""
    snapshot = judge.snapshot
    blocks = [block for block in snapshot.inventory.blocks.values() if _lies_in(block.cidr, cidr)]
    facts = [*pool_facts(judge, cidr), ("blocks", str(len(blocks)))]
    facts += [("block", block_text(block)) for block in blocks[:_MOST_BLOCKS]]
    if len(blocks) > _MOST_BLOCKS:
        facts.append(("", f"and {len(blocks) - _MOST_BLOCKS} more"))
    findings = _once(finding for block in blocks for finding in explain_block(judge, block).findings)
    foreign = [block.cidr for block in blocks if block.affinity is not None]
    views = []
    for node in snapshot.nodes:
        report = judge.reports.get(node)
        actual = "not known" if report is None else f"{sum(each in report.kernel for each in foreign)} routes"
        views.append(NodeView(node, f"{len(foreign)} routes", actual, _of_node(findings, node)))
    return Explanation(str(cidr), tuple(facts), tuple(views), findings)


def explain_node(judge: Judge, node: Node) -> Explanation:
    """Say what a node has and how it stands with each other one."""
    report = judge.reports.get(node.name)
    blocks = [block for block in judge.snapshot.inventory.blocks.values() if block.affinity == node.name]
    held = [held for held in judge.snapshot.all_held() if held.holder.node == node.name]
    borrowed = sum(each.block.affinity != node.name for each in held)
    facts = [
        ("addresses", ", ".join(map(str, node.addresses))),
        ("blocks", ", ".join([*(str(each.cidr) for each in blocks[:_MOST_BLOCKS]), *_more(blocks)]) or "none"),
        ("holds", f"{len(held)} addresses, {borrowed} of them out of blocks of others"),
    ]
    findings = tuple(each for each in diagnose(judge) if node.name == each.node or _names(each, node.name))
    views = []
    if report is not None:
        missing = sum(report.kernel.get(prefix) != route for prefix, route in report.wanted.items())
        facts += [
            ("agent", ", ".join(filter(None, (f"tortie {report.version}", report.drain)))),
            ("store", "connected" if report.store.connected else f"not connected: {report.store.reason}"),
            ("announces", f"{len(report.announced)} prefixes"),
            ("routes", f"{len(report.wanted)} wanted, {missing} of them not so in the kernel"),
        ]
        for session in report.sessions:
            other = judge.node_of.get(session.peer)
            broken = None if session.established else judge.session(report, session)
            name = other.name if other is not None else session.name or str(session.peer)
            views.append(NodeView(name, f"session with {session.peer}", session.state, broken))
    return Explanation(node.name, tuple(facts), tuple(views), findings)


def address_findings(judge: Judge, address: IPAddress) -> tuple[Finding, ...]:
    """Return the broken links between any node and whoever holds the address, in the order in which packets pass."""
    held = judge.snapshot.held(address)
    block = held.block if held is not None else next(judge.snapshot.blocks_around(address), None)
    if block is None:
        return ()
    delivery = _delivery(judge, block, held)
    found = list(_state_findings(judge, block, delivery))
    blamed = [each for each in judge.snapshot.problems if each.address == address]
    found += [ipam_finding(each) for each in blamed]
    if held is not None and not blamed:
        found += filter(None, (judge.wired(held),))
    found += _block_findings(judge, block, delivery)
    for report in judge.reports.values():
        found += judge.captured(report, address)
    return _once(iter(found))


def _block_findings(judge: Judge, block: Block, delivery: Delivery | None) -> tuple[Finding, ...]:
    """Return the broken links of what brings packets to a block, or to the address that is announced by itself."""
    snapshot = judge.snapshot
    own = [each for each in snapshot.problems if each.address is None and Blamed([each]).prefix(block.cidr)]
    found = [*_state_findings(judge, block, delivery), *map(ipam_finding, own)]
    if not own:
        found += filter(None, (unowned(block) or judge.owned(block),))
    if delivery is not None and not own and snapshot.withheld(delivery) is None:
        broken = judge.announced(delivery)
        receivers = [name for name in judge.reports if name != delivery.node]
        found += (
            [broken] if broken is not None else filter(None, (judge.delivered(delivery, each) for each in receivers))
        )
    for report in judge.reports.values():
        found += [each for each in node_findings(report) if each.kind is FindingKind.FORWARDING_OFF]
    found += [silent(node, reason) for node, reason in judge.silence.items()]
    return _once(iter(found))


def _state_findings(judge: Judge, block: Block, delivery: Delivery | None) -> Iterator[Finding]:
    """Yield why a block's owner and its announcer may be behind the store: other broken links follow from that."""
    for node in dict.fromkeys(filter(None, (block.affinity, None if delivery is None else delivery.node))):
        if node in judge.silence:
            yield silent(node, judge.silence[node])
        elif node in judge.reports:
            yield from behind(judge.reports[node])


def _delivery(judge: Judge, block: Block, held: Held | None) -> Delivery | None:
    if held is not None:
        return judge.snapshot.delivery_of(held)
    return next((each for each in judge.snapshot.deliveries() if each.prefix == block.cidr), None)


def _views(
    judge: Judge, block: Block, held: Held | None, delivery: Delivery | None, findings: tuple[Finding, ...]
) -> tuple[NodeView, ...]:
    """Return each node's route: to the link where the workload is, a blackhole where its block is, or to the node."""
    views = []
    for node in judge.snapshot.nodes:
        report = judge.reports.get(node)
        prefix, expected = _expected(judge, node, block, held, delivery)
        has: Route | None = None if report is None or prefix is None else report.kernel.get(prefix)
        actual = "not known" if report is None else "-" if has is None else str(has)
        views.append(NodeView(node, expected, actual, _of_node(findings, node)))
    return tuple(views)


def _expected(
    judge: Judge, node: str, block: Block, held: Held | None, delivery: Delivery | None
) -> tuple[IPNetwork | None, str]:
    if held is not None and held.holder.node == node:
        network = ipaddress.ip_network(held.address)
        return network, f"{network} dev {held.holder.interface}"
    if held is None and block.affinity == node:
        return block.cidr, f"blackhole {block.cidr}"
    if delivery is None or judge.snapshot.withheld(delivery) is not None:
        return None, "-"
    announcer = judge.snapshot.nodes[delivery.node]
    return delivery.prefix, f"{delivery.prefix} via {announcer.address(delivery.prefix.version)}"


def _of_node(findings: tuple[Finding, ...], node: str) -> Finding | None:
    return next((each for each in findings if each.node == node or _names(each, node)), None)


def _names(finding: Finding, node: str) -> bool:
    """Whether the finding is about a session with the node."""
    return finding.kind is FindingKind.SESSION_DOWN and node in finding.subject.split(" - ")


def _once(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    found: dict[object, Finding] = {}
    for finding in findings:
        if finding.kind is not ProblemKind.UNUSED_BLOCK:
            found.setdefault(finding.identity, finding)
    return tuple(found.values())


def _more(blocks: list[Block]) -> list[str]:
    return [f"and {len(blocks) - _MOST_BLOCKS} more"] if len(blocks) > _MOST_BLOCKS else []


def _lies_in(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer

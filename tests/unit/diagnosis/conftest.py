"""Three nodes that are well, as values: what the store says, and what each node reports."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from controller.datamodel.records import Node
from controller.diagnosis.doctor import diagnose
from controller.diagnosis.judge import Judge
from controller.diagnosis.report import (
    ForeignRoute,
    Hop,
    LinkReport,
    NodeReport,
    Path,
    Route,
    SessionReport,
    StoreReport,
)
from controller.diagnosis.snapshot import Snapshot
from controller.ports import RouteKind
from ipam.block import Block, Holder
from ipam.inventory import Inventory
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.diagnosis.finding import Finding
    from controller.diagnosis.snapshot import Delivery
    from ipam.address import IPNetwork
    from ipam.problem import Problem

POOLS = (Pool("four", ip_network("10.65.0.0/16"), 26), Pool("six", ip_network("fd00:65::/64"), 122))
NODES = {
    f"h{index}": Node(f"h{index}", 64512, IPv4Address(f"192.0.2.{index}"), IPv6Address(f"2001:db8::{index}"), labels={})
    for index in (1, 2, 3)
}


def holder(workload: str, node: str) -> Holder:
    """Return the holder of a workload's addresses."""
    return Holder(f"cni/{workload}", node, workload, "shop", f"tor{workload}", 1000.0)


def healthy_blocks() -> dict[IPNetwork, Block]:
    """Return a block of each node; the second one's lends an address to the third, and one is nobody's."""
    blocks = [Block.claimed(ip_network(f"10.65.{index}.0/26"), node=f"h{index}", at=1.0) for index in (1, 2, 3)]
    blocks[0], _ = blocks[0].assign(holder("w1", "h1"))
    blocks[1], _ = blocks[1].assign(holder("w2", "h2"))
    blocks[1], _ = blocks[1].assign(holder("w3", "h3"))
    six, _ = Block.claimed(ip_network("fd00:65::/122"), node="h1", at=1.0).assign(holder("w1", "h1"))
    return {block.cidr: block for block in (*blocks, six)}


@dataclass
class Case:
    """A cluster to break: `reports` and the fields of the snapshot may be changed before it is judged."""

    blocks: dict[IPNetwork, Block] = field(default_factory=healthy_blocks)
    nodes: Mapping[str, Node] = field(default_factory=lambda: dict(NODES))
    pools: tuple[Pool, ...] = POOLS
    problems: tuple[Problem, ...] = ()
    drained: frozenset[str] = frozenset()
    plain_mesh: bool = True
    silence: dict[str, str] = field(default_factory=dict)
    reports: dict[str, NodeReport] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Have each node report what follows from the blocks."""
        self.report_anew()

    def report_anew(self) -> None:
        """Have each node report what follows from the blocks as they are."""
        self.reports = {name: self._healthy_report(name) for name in self.nodes}

    @property
    def snapshot(self) -> Snapshot:
        """What the store says."""
        inventory = Inventory(now=5000.0, pools=self.pools, blocks=self.blocks, nodes=frozenset(self.nodes))
        return Snapshot(inventory, self.nodes, self.drained, self.plain_mesh, self.problems)

    @property
    def judge(self) -> Judge:
        """The judge of the case, to whom silent nodes say nothing."""
        heard = {name: report for name, report in self.reports.items() if name not in self.silence}
        return Judge(self.snapshot, heard, self.silence)

    def diagnose(self) -> tuple[Finding, ...]:
        """Return what is found."""
        return diagnose(self.judge)

    def found(self) -> list[tuple[str, str | None, str]]:
        """Return what identifies each finding."""
        return [finding.identity for finding in self.diagnose()]

    def change(self, node: str, **fields: Any) -> None:  # noqa: ANN401  the fields of a report
        """Have a node report something else."""
        self.reports[node] = replace(self.reports[node], **fields)

    def without(self, node: str, part: str, *prefixes: str) -> None:
        """Have a node not report these prefixes in a mapping or set by prefix."""
        gone = {ip_network(prefix) for prefix in prefixes}
        known = getattr(self.reports[node], part)
        left: object = {prefix for prefix in known if prefix not in gone}
        if isinstance(known, dict):
            left = {prefix: known[prefix] for prefix in known if prefix not in gone}
        self.change(node, **{part: left})

    def route(self, node: str, part: str, route: Route) -> None:
        """Have a node want, or its kernel have, a route."""
        self.change(node, **{part: {**getattr(self.reports[node], part), route.prefix: route}})

    def foreign(self, node: str, prefix: str, metric: int = 50) -> None:
        """Have somebody else's route on a node."""
        made = ForeignRoute(ip_network(prefix), 3, metric, (Hop(IPv4Address("192.0.2.77"), "eth0"),))
        self.change(node, foreign=(*self.reports[node].foreign, made))

    def via(self, prefix: str, index: int) -> Route:
        """Return a route to a prefix through a node's address."""
        network = ip_network(prefix)
        gateway = self.nodes[f"h{index}"].address(network.version)
        return Route(network, RouteKind.UNICAST, (Hop(gateway, "eth0"),))

    def _healthy_report(self, name: str) -> NodeReport:
        node, snapshot = self.nodes[name], self.snapshot
        deliveries = list(snapshot.deliveries())
        own = frozenset(cidr for cidr, block in self.blocks.items() if block.affinity == name)
        routes = {cidr: Route(cidr, RouteKind.BLACKHOLE) for cidr in own}
        links: dict[str, LinkReport] = {}
        for held in snapshot.all_held():
            if held.holder.node == name:
                link, network = held.holder.interface, ipaddress.ip_network(held.address)
                wired = links[link].wired if link in links else ()
                links[link] = LinkReport(link, up=True, wired=(*wired, held.address))
                routes[network] = Route(network, RouteKind.UNICAST, (Hop(None, link),))
        learned: dict[IPNetwork, tuple[Path, ...]] = {}
        for each in deliveries:
            if each.node != name and snapshot.withheld(each) is None:
                gateway = self._next_hop(each)
                learned[each.prefix] = (Path(self._next_hop(each, 4), gateway),)
                routes[each.prefix] = Route(each.prefix, RouteKind.UNICAST, (Hop(gateway, "eth0"),))
        return NodeReport(
            node=name,
            version="1.2.3",
            taken_at=5000.0,
            addresses=node.addresses,
            store=StoreReport("consul", connected=True),
            blocks=own,
            announced={
                each.prefix: each.rule for each in deliveries if each.node == name and snapshot.withheld(each) is None
            },
            sessions=tuple(
                SessionReport(other.addresses[0], other.name, "established", 1.0, "")
                for other in self.nodes.values()
                if other.name != name
            ),
            learned=learned,
            wanted=routes,
            kernel=dict(routes),
            links=links,
            forwarding={4: True, 6: True},
        )

    def _next_hop(self, delivery: Delivery, version: int | None = None) -> IPv4Address | IPv6Address:
        address = self.nodes[delivery.node].address(version or delivery.prefix.version)
        assert address is not None
        return address


@pytest.fixture
def case() -> Case:
    """Return a cluster that is well."""
    return Case()

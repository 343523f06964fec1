"""How a node's kernel differs from a route that it has to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.diagnosis.finding import Finding, FindingKind
from controller.ports import ROUTE_METRIC, RouteKind

if TYPE_CHECKING:
    from controller.diagnosis.report import ForeignRoute, NodeReport, Route


def programmed(report: NodeReport, route: Route) -> Finding | None:
    """Return how a node's kernel differs from a route that it has to have."""
    have = report.kernel.get(route.prefix)
    for foreign in report.foreign:
        if foreign.prefix == route.prefix and foreign.metric < ROUTE_METRIC + (have is None):
            return in_the_way(report.node, foreign, f"comes before `{route}`")
    if have == route:
        return None
    if have is None:
        failure = report.failures.get(route.prefix)
        why = f": the kernel refuses it ({failure})" if failure else ""
        is_blackhole = route.kind is RouteKind.BLACKHOLE
        effect = "so packets to its free addresses may loop" if is_blackhole else "so packets take another way"
        return Finding(
            FindingKind.BLACKHOLE_MISSING if is_blackhole else FindingKind.ROUTE_MISSING,
            report.node,
            str(route.prefix),
            f"the kernel of {report.node} does not have `{route}`{why}, {effect}",
            f"the agent adds it by itself; as it has not, see its log on {report.node} and restart it",
        )
    return Finding(
        FindingKind.WRONG_NEXT_HOP,
        report.node,
        str(route.prefix),
        f"the kernel of {report.node} has `{have}` where `{route}` has to be",
        f"the agent puts it right by itself; as it has not, see its log on {report.node} and restart it",
    )


def in_the_way(node: str, foreign: ForeignRoute, effect: str) -> Finding:
    """Return that a route of somebody else on a node has this effect."""
    return Finding(
        FindingKind.FOREIGN_ROUTE,
        node,
        str(foreign.prefix),
        f"on {node} a route of somebody else, `{foreign}`, {effect}",
        f"find out who makes it (`ip route show {foreign.prefix}` on {node}) and remove it there",
    )

"""A node's report as JSON and back. Prefixes that go the same way stand together: most of ten thousand do."""

from __future__ import annotations

import functools
import ipaddress
import json
from typing import TYPE_CHECKING, Any, Final

from controller.diagnosis.report import (
    ForeignRoute,
    Hop,
    LinkReport,
    NodeReport,
    Path,
    Route,
    Rule,
    SessionReport,
    StoreReport,
)
from controller.errors import TransientError
from controller.ports import RouteKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ipam.address import IPAddress, IPNetwork

#: The nodes of a cluster know the same prefixes, and reading one takes ten times as long as finding it.
_KEPT_PREFIXES: Final = 131_072
#: The last second that calendars of Python and JavaScript have a date for: the end of the year 9999.
_LAST_SECOND: Final = 253_402_300_799


class UnreadableReport(TransientError):
    """The answer of a node's agent is no report."""


def encode_report(report: NodeReport) -> bytes:
    """Return the report as JSON."""
    return json.dumps(
        {
            "node": report.node,
            "version": report.version,
            "takenAt": report.taken_at,
            "addresses": list(map(str, report.addresses)),
            "store": {
                "kind": report.store.kind,
                "connected": report.store.connected,
                "reason": report.store.reason,
                "lostAt": report.store.lost_at,
            },
            "speaker": report.speaker,
            "drain": report.drain,
            "decided": report.decided,
            "blocks": sorted(map(str, report.blocks)),
            "announced": {str(prefix): rule.name.lower() for prefix, rule in report.announced.items()},
            "sessions": [
                {"peer": str(each.peer), "name": each.name, "state": each.state, "since": each.since, "info": each.info}
                for each in report.sessions
            ],
            "learned": _learned_groups(report.learned),
            "unresolved": sorted(map(str, report.unresolved)),
            "wanted": _route_groups(report.wanted.values()),
            "kernel": _route_groups(report.kernel.values()),
            "failures": {str(prefix): reason for prefix, reason in report.failures.items()},
            "foreign": [_foreign(route) for route in report.foreign],
            "links": [
                {"name": link.name, "up": link.up, "wired": list(map(str, link.wired))}
                for link in report.links.values()
            ],
            "forwarding": {str(version): on for version, on in report.forwarding.items()},
            "problems": list(report.problems),
            "leftOff": report.left_off,
        }
    ).encode()


def decode_report(text: bytes) -> NodeReport:
    """Return the report that this JSON describes; raises `UnreadableReport`."""
    try:
        return _report(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UnreadableReport(
            f"its answer is no report ({type(error).__name__}: {error}); use a tortiectl of the agent's version"
        ) from error


def read_time(value: float | str) -> float:
    """Return a time that another machine tells, in epoch seconds; raises `ValueError` for one that has no date."""
    seconds = float(value)
    if not 0 <= seconds <= _LAST_SECOND:  # also what is no number, which JSON calls NaN
        raise ValueError(f"{value} is no time in epoch seconds")
    return seconds


def _report(fields: dict[str, Any]) -> NodeReport:
    store = fields["store"]
    lost_at = None if store["lostAt"] is None else read_time(store["lostAt"])
    return NodeReport(
        node=str(fields["node"]),
        version=str(fields["version"]),
        taken_at=read_time(fields["takenAt"]),
        addresses=tuple(map(ipaddress.ip_address, fields["addresses"])),
        store=StoreReport(str(store["kind"]), bool(store["connected"]), str(store["reason"]), lost_at),
        speaker=None if fields["speaker"] is None else str(fields["speaker"]),
        drain=str(fields["drain"]),
        decided=bool(fields["decided"]),
        blocks=frozenset(map(_network, fields["blocks"])),
        announced={_network(prefix): Rule[rule.upper()] for prefix, rule in fields["announced"].items()},
        sessions=tuple(
            SessionReport(
                ipaddress.ip_address(each["peer"]), each["name"], each["state"], read_time(each["since"]), each["info"]
            )
            for each in fields["sessions"]
        ),
        learned=_learned(fields["learned"]),
        unresolved=frozenset(map(_network, fields["unresolved"])),
        wanted=_routes(fields["wanted"]),
        kernel=_routes(fields["kernel"]),
        failures={_network(prefix): str(reason) for prefix, reason in fields["failures"].items()},
        foreign=tuple(
            ForeignRoute(_network(each["prefix"]), int(each["protocol"]), int(each["metric"]), _hops(each["hops"]))
            for each in fields["foreign"]
        ),
        links={
            str(each["name"]): LinkReport(
                str(each["name"]), bool(each["up"]), tuple(map(ipaddress.ip_address, each["wired"]))
            )
            for each in fields["links"]
        },
        forwarding={int(version): bool(on) for version, on in fields["forwarding"].items()},
        problems=tuple(map(str, fields["problems"])),
        left_off=int(fields["leftOff"]),
    )


def _route_groups(routes: Iterable[Route]) -> list[dict[str, Any]]:
    groups: dict[tuple[RouteKind, tuple[Hop, ...]], list[str]] = {}
    for prefix, kind, hops in routes:
        groups.setdefault((kind, hops), []).append(str(prefix))
    return [
        {"kind": kind.value, "hops": _hop_texts(hops), "prefixes": prefixes}
        for (kind, hops), prefixes in groups.items()
    ]


def _routes(groups: Iterable[Mapping[str, Any]]) -> dict[IPNetwork, Route]:
    routes = {}
    for group in groups:
        kind, hops = RouteKind(group["kind"]), _hops(group["hops"])
        for prefix in map(_network, group["prefixes"]):
            routes[prefix] = Route(prefix, kind, hops)
    return routes


def _learned_groups(learned: Mapping[IPNetwork, tuple[Path, ...]]) -> list[dict[str, Any]]:
    groups: dict[tuple[IPAddress, IPAddress, str | None], list[str]] = {}
    for prefix, paths in learned.items():
        for path in paths:
            groups.setdefault((path.peer, path.next_hop, path.rejected), []).append(str(prefix))
    return [
        {"peer": str(peer), "nextHop": str(next_hop), "rejected": rejected, "prefixes": prefixes}
        for (peer, next_hop, rejected), prefixes in groups.items()
    ]


def _learned(groups: Iterable[Mapping[str, Any]]) -> dict[IPNetwork, tuple[Path, ...]]:
    learned: dict[IPNetwork, tuple[Path, ...]] = {}
    for group in groups:
        path = Path(ipaddress.ip_address(group["peer"]), ipaddress.ip_address(group["nextHop"]), group["rejected"])
        for prefix in map(_network, group["prefixes"]):
            learned[prefix] = (*learned.get(prefix, ()), path)
    return learned


def _foreign(route: ForeignRoute) -> dict[str, Any]:
    return {
        "prefix": str(route.prefix),
        "protocol": route.protocol,
        "metric": route.metric,
        "hops": _hop_texts(route.hops),
    }


def _hop_texts(hops: Iterable[Hop]) -> list[list[str | None]]:
    return [[None if gateway is None else str(gateway), device] for gateway, device in hops]


def _hops(texts: Iterable[Any]) -> tuple[Hop, ...]:
    return tuple(
        Hop(None if gateway is None else ipaddress.ip_address(gateway), str(device)) for gateway, device in texts
    )


@functools.lru_cache(maxsize=_KEPT_PREFIXES)
def _network(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)

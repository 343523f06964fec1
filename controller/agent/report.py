"""What a node wants and has, for who compares nodes with each other and with the store: `GET /v1/report`.

With `?prefix=` (an address or a network) it is about that alone: what lies in it and what it lies in. Without it, it is
whole, but for prefixes beyond a number that no cluster should have. The kernel is read for it at that moment.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import web

from controller.agent.status import standing_problems, status_of
from controller.diagnosis.document import encode_report
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
from controller.errors import TortieError
from controller.kernel.inspection import inspect_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bgp.policy import Rejection
    from bgp.route import LearnedRoute
    from controller.agent.status import Observed
    from controller.agent.web import Page
    from controller.kernel.inspection import KernelFacts
    from controller.ports import KernelRoute, NextHop
    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block

_T = TypeVar("_T")

#: Where every agent serves its report.
PATH: Final = "/v1/report"
#: How many prefixes of one sort are told.
MOST_PREFIXES: Final = 200_000


@dataclass(frozen=True, slots=True)
class Known:
    """What the agent knows at one moment, in epoch seconds, besides what the kernel is to be asked.

    `blocks` are those it owns and those it holds addresses in; `pools` the ranges in which routes of others are told;
    `refused` names each peer whose route for a prefix a rule refused; `store_lost_at` is None while it is connected.
    """

    taken_at: float
    observed: Observed
    store_lost_at: float | None
    blocks: tuple[Block, ...]
    pools: tuple[IPNetwork, ...]
    learned: Mapping[IPNetwork, tuple[LearnedRoute, ...]]
    refused: tuple[tuple[IPNetwork, IPAddress, Rejection], ...]


def report_page(observe: Callable[[], Known]) -> Page:
    """Return the page; reports are made one at a time, in a thread, for they may be large."""
    turn = asyncio.Lock()

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            asked = _asked(request.query.get("prefix"))
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"prefix: {error}; write an address or a network as 10.0.0.0/26\n") from error
        async with turn:
            known = observe()
            try:
                body = await asyncio.to_thread(_body, known, asked)
            except TortieError as error:
                raise web.HTTPServiceUnavailable(text=f"the kernel could not be read: {error}\n") from error
        return web.Response(body=body, content_type="application/json")

    return answer


def report_of(known: Known, kernel: KernelFacts, asked: IPNetwork | None = None) -> NodeReport:
    """Return the report, whole or about what is asked."""
    status, observed, decision = status_of(known.observed), known.observed, known.observed.decision
    own = frozenset(block.cidr for block in known.blocks if block.affinity == observed.node.name)
    scope, route_of = _Scope(asked), _Routes(kernel.device_names)
    refused = {(prefix, peer): rule.value for prefix, peer, rule in known.refused if scope.has(prefix)}
    return NodeReport(
        node=observed.node.name,
        version=observed.version,
        taken_at=known.taken_at,
        addresses=observed.node.addresses,
        store=StoreReport(status.store.kind, status.store.connected, status.store.reason, known.store_lost_at),
        speaker=observed.speaker_reason,
        drain=status.drain,
        decided=decision is not None,
        blocks=frozenset(scope.within(own)),
        announced=_announced(known, own, scope),
        sessions=tuple(
            SessionReport(ipaddress.ip_address(each.address), each.name, each.state, each.since, each.info)
            for each in status.bgp.peers
        ),
        learned={
            prefix: tuple(Path(each.peer, each.next_hop, refused.get((prefix, each.peer))) for each in routes)
            for prefix, routes in scope.items(known.learned)
        },
        unresolved=frozenset(
            each.prefix for each in (decision.unresolved if decision is not None else ()) if scope.has(each.prefix)
        ),
        wanted=route_of.mapping(scope.items(decision.routes.routes if decision is not None else {})),
        kernel=route_of.mapping(scope.items({route.prefix: route for route in kernel.routes})),
        failures={prefix: failure.reason for prefix, failure in scope.items(observed.route_failures)},
        foreign=tuple(
            ForeignRoute(each.prefix, each.protocol, each.metric, route_of.hops(each.next_hops))
            for each in kernel.others
            if scope.has(each.prefix)
        ),
        links=_links(known, kernel, asked),
        forwarding=kernel.forwarding,
        problems=standing_problems(observed),
        left_off=scope.left_off,
    )


class _Scope:
    """What the report is about; it leaves off, and counts, what is too much."""

    def __init__(self, asked: IPNetwork | None) -> None:
        self._asked = asked
        # Every route is compared, and numbers are compared in a third of the time.
        self._first = 0 if asked is None else int(asked.network_address)
        self._last = 0 if asked is None else int(asked.broadcast_address)
        self.left_off = 0

    def has(self, prefix: IPNetwork) -> bool:
        """Whether the prefix lies in what is asked, or that in the prefix."""
        if self._asked is None:
            return True
        if prefix.version != self._asked.version:
            return False
        first = int(prefix.network_address)
        return first <= self._last and first + (1 << prefix.max_prefixlen - prefix.prefixlen) > self._first

    def within(self, prefixes: Iterable[IPNetwork]) -> list[IPNetwork]:
        """Return those of the prefixes that it is about."""
        return [prefix for prefix in prefixes if self.has(prefix)]

    def items(self, mapping: Mapping[IPNetwork, _T]) -> list[tuple[IPNetwork, _T]]:
        """Return those items of the mapping that it is about, as far as there is room."""
        found = [each for each in mapping.items() if self.has(each[0])] if self._asked else list(mapping.items())
        self.left_off += max(0, len(found) - MOST_PREFIXES)
        return found[:MOST_PREFIXES]


class _Routes:
    """Routes with their devices by name; thousands share their next hops."""

    def __init__(self, device_names: Mapping[int, str]) -> None:
        self._device_names = device_names
        self._hops: dict[tuple[NextHop, ...], tuple[Hop, ...]] = {}

    def hops(self, next_hops: tuple[NextHop, ...]) -> tuple[Hop, ...]:
        """Return the hops of a route."""
        found = self._hops.get(next_hops)
        if found is None:
            found = self._hops[next_hops] = tuple(
                Hop(hop.gateway, self._device_names.get(hop.link_index, f"number {hop.link_index}"))
                for hop in next_hops
            )
        return found

    def mapping(self, routes: Iterable[tuple[IPNetwork, KernelRoute]]) -> dict[IPNetwork, Route]:
        """Return the routes by prefix."""
        return {prefix: Route(prefix, route.kind, self.hops(route.next_hops)) for prefix, route in routes}


def _announced(known: Known, own: frozenset[IPNetwork], scope: _Scope) -> dict[IPNetwork, Rule]:
    """Return what the speaker is to announce, each prefix with the rule: its block says whose the address is."""
    decision = known.observed.decision
    announcements = () if decision is None else decision.announcements
    unowned = [block.cidr for block in known.blocks if block.affinity is None]

    def rule(prefix: IPNetwork) -> Rule:
        if prefix in own:
            return Rule.OWNED
        inside = any(cidr.version == prefix.version and prefix.network_address in cidr for cidr in unowned)
        return Rule.UNOWNED if inside else Rule.BORROWED

    return {each.prefix: rule(each.prefix) for each in announcements if scope.has(each.prefix)}


def _links(known: Known, kernel: KernelFacts, asked: IPNetwork | None) -> dict[str, LinkReport]:
    names = {
        holder.interface for address, holder in known.observed.holders.items() if asked is None or address in asked
    }
    return {
        name: LinkReport(name, end.up, end.wired)
        for name, end in kernel.ends.items()
        if asked is None or name in names or any(address in asked for address in end.wired)
    }


def _asked(text: str | None) -> IPNetwork | None:
    return None if text is None else ipaddress.ip_network(text)


def _body(known: Known, asked: IPNetwork | None) -> bytes:
    return encode_report(report_of(known, inspect_kernel(known.pools), asked))

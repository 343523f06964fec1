"""The table of routes against a kernel that anybody may change: whatever happened, a look at it makes it right."""

from __future__ import annotations

import errno
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.ports import ForeignRoute, KernelRoute, NextHop, RouteFailure, RouteKind
from controller.reconcile.difference import DesiredRoutes, Sweep
from controller.reconcile.route_table import RouteTable

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable

    from ipam.address import IPNetwork

PREFIXES = [ip_network(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.1.0/26", "10.0.2.0/26", "fd00::/122")]
HOPS = (NextHop(None, 7), NextHop(ip_address("192.0.2.2"), 2), NextHop(ip_address("192.0.2.3"), 2))


class Kernel:
    """Our routes and others', by prefix; each reading makes objects of its own of what others changed."""

    def __init__(self) -> None:
        self.ours: dict[IPNetwork, KernelRoute] = {}
        self.foreign_prefixes: set[IPNetwork] = set()
        self.refused: set[IPNetwork] = set()

    def expect(self, routes: Iterable[KernelRoute]) -> None:
        """Have no use for it."""

    def foreign(self, _link_indexes: Collection[int]) -> list[ForeignRoute]:
        """Return none."""
        return []

    def foreign_on(self, _link_index: int) -> list[ForeignRoute]:
        """Return none."""
        return []

    def read(self) -> list[KernelRoute]:
        """Return our routes."""
        return list(self.ours.values())

    def apply(
        self,
        upserts: Iterable[KernelRoute],
        removals: Iterable[KernelRoute],
        *,
        replaceable: Container[IPNetwork] = (),
    ) -> list[RouteFailure]:
        """Write what is not refused, exclusively where nothing may be replaced."""
        failures = []
        for route in upserts:
            if route.prefix in self.refused:
                failures.append(RouteFailure(route.prefix, errno.ENETUNREACH, "unreachable"))
                continue
            taken = route.prefix in self.ours or route.prefix in self.foreign_prefixes
            if taken and route.prefix not in replaceable:
                failures.append(RouteFailure(route.prefix, errno.EEXIST, "in the way"))
            else:
                assert route.prefix not in self.foreign_prefixes, "somebody else's route is replaced"
                self.ours[route.prefix] = route
        for route in removals:
            self.ours.pop(route.prefix, None)
        return failures


routes = st.builds(
    lambda prefix, hop: KernelRoute(prefix, RouteKind.UNICAST, (hop,)), st.sampled_from(PREFIXES), st.sampled_from(HOPS)
)
steps = st.one_of(
    st.tuples(st.just("desire"), st.lists(routes, max_size=5, unique_by=lambda route: route.prefix)),
    st.tuples(st.just("add"), st.lists(routes, min_size=1, max_size=2, unique_by=lambda route: route.prefix)),
    st.tuples(st.just("lost"), st.lists(routes, min_size=1, max_size=2)),
    st.tuples(st.just("made"), st.lists(routes, min_size=1, max_size=1)),
    st.tuples(st.just("taken"), st.lists(routes, min_size=1, max_size=1)),
    st.tuples(st.just("refused"), st.lists(routes, min_size=1, max_size=2)),
    st.tuples(st.just("look"), st.just([])),
)


def workload(prefix: IPNetwork) -> list[KernelRoute]:
    """Return the route to a workload."""
    return [KernelRoute(prefix, RouteKind.UNICAST, HOPS[:1])]


@settings(max_examples=150, deadline=None)
@example(  # a route is lost before the table is read anew for a conflict
    Sweep.LOCAL,
    [
        ("desire", workload(PREFIXES[0])),
        ("made", workload(PREFIXES[1])),
        ("lost", workload(PREFIXES[0])),
        ("add", workload(PREFIXES[1])),
    ],
)
@example(Sweep.LOCAL, [("refused", workload(PREFIXES[0])), ("desire", workload(PREFIXES[0]))])
@given(st.sampled_from([Sweep.LOCAL, Sweep.EVERYTHING]), st.lists(steps, max_size=12))
def test_a_look_at_the_kernel_makes_it_right(sweep: Sweep, happened: list[tuple[str, list[KernelRoute]]]) -> None:
    """Whatever routes are lost, changed, made and refused between passes and additions: one dump later all is right.

    Nobody else's route is replaced, and what may not be swept and was not made here stays.
    """
    kernel, desired = Kernel(), DesiredRoutes({}, sweep)
    programmed: dict[IPNetwork, KernelRoute] = {}
    made: set[IPNetwork] = set()
    table = RouteTable(kernel)
    ever_wanted: set[IPNetwork] = set()
    for what, concerned in happened:
        by_prefix = {route.prefix: route for route in concerned}
        match what:
            case "desire":
                desired, programmed = DesiredRoutes(by_prefix, sweep), {}
                ever_wanted |= by_prefix.keys()
                table.begin_pass()
                table.reconcile(desired, {}, changed=True)
            case "add":
                programmed |= by_prefix
                ever_wanted |= by_prefix.keys()
                table.add(concerned)
            case "lost":
                for prefix in by_prefix:
                    kernel.ours.pop(prefix, None)
            case "made":
                if kernel.foreign_prefixes.isdisjoint(by_prefix):
                    kernel.ours |= by_prefix
                    made |= by_prefix.keys()
            case "taken":
                kernel.foreign_prefixes |= by_prefix.keys() - kernel.ours.keys() - ever_wanted
            case "refused":
                kernel.refused |= by_prefix.keys()
            case _:
                table.begin_pass()
                table.reconcile(desired, programmed, changed=False, resync=True)
    kernel.refused.clear()
    table.begin_pass()
    table.reconcile(desired, programmed, changed=False, resync=True)
    wanted = {**desired.routes, **programmed}
    reachable = {prefix: route for prefix, route in wanted.items() if prefix not in kernel.foreign_prefixes}
    assert {prefix: kernel.ours.get(prefix) for prefix in reachable} == reachable
    surplus = [route for prefix, route in kernel.ours.items() if prefix not in wanted]
    assert all(
        sweep is Sweep.LOCAL and route.next_hops[0].gateway is not None and route.prefix in made for route in surplus
    )

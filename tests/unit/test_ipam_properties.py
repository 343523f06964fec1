"""Whatever pools, rules, reservations and nodes there are and whatever happens in whatever order, the promises hold.

Several nodes work on one store in a model of it: each plans on what it remembers, reads when a commit is overtaken or a
decision needs more, and is refused only after it has read everything. A refusal is compared with brute force.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ipam.choice import RECLAIM_AGE_SECONDS
from ipam.configuration import IpamConfiguration
from ipam.errors import MoreNeeded, PoolExhausted, Refused
from ipam.plan import Plan, plan_assign, plan_release, plan_removal, plan_return
from ipam.pool import Pool
from ipam.request import AssignRequest
from ipam.reservation import Reservation
from ipam.summary import BlockSummary
from ipam.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block

NODES: Final = ("n1", "n2", "n3")
RANGES: Final = {4: ("10.0.0.0/30", "10.0.0.64/31"), 6: ("fd00::/126",)}
LONGEST: Final = {4: 32, 6: 128}
_NODE = st.sampled_from(NODES)
_SECONDS = st.sampled_from([0, 30, 90])


@st.composite
def _pools(draw: st.DrawFn) -> list[Pool]:
    pools = []
    for version, ranges in RANGES.items():
        for number, text in enumerate(ranges[: draw(st.integers(1, 2 if version == 4 else 1))]):
            cidr = ipaddress.ip_network(text)
            length = draw(st.integers(cidr.prefixlen, LONGEST[version]))
            pools.append(Pool(f"v{version}-{number}", cidr, length))
    return pools


@st.composite
def _configurations(draw: st.DrawFn) -> IpamConfiguration:
    return IpamConfiguration(
        strict_affinity=draw(st.booleans()),
        max_blocks_per_node=draw(st.integers(1, 3)),
        cooldown_seconds=draw(_SECONDS),
        sticky_seconds=draw(_SECONDS),
    )


def _ranges(address: str, lengths: range) -> Iterator[IPNetwork]:
    return (ipaddress.ip_network(f"{address}/{length}") for length in lengths)


_RESERVATIONS = st.lists(
    st.sampled_from(
        [*_ranges("10.0.0.0", range(28, 33)), *_ranges("10.0.0.4", range(30, 33)), *_ranges("fd00::", range(124, 129))]
    ),
    max_size=2,
)


class Cluster(RuleBasedStateMachine):
    """Nodes, their memory, and the store."""

    @initialize(pools=_pools(), configuration=_configurations(), reserved=_RESERVATIONS)
    def begin(self, pools: list[Pool], configuration: IpamConfiguration, reserved: list[IPNetwork]) -> None:
        """Start with an empty store."""
        self.now = 1000.0
        self.version = 0
        self.stored: dict[IPNetwork, tuple[int, Block]] = {}
        self.held: dict[tuple[str, str], tuple[IPAddress, ...]] = {}
        self.rests: dict[IPAddress, tuple[float, str | None]] = {}
        self.freed: list[IPAddress] = []
        self.sequences: dict[IPNetwork, int] = {}
        reservations = tuple(Reservation(f"r{number}", (cidr,)) for number, cidr in enumerate(reserved))
        bare = View("").with_pools(pools)
        self.views = {
            node: replace(bare, node=node, configuration=configuration, reservations=reservations) for node in NODES
        }
        self.versions: dict[str, dict[IPNetwork, int]] = {node: {} for node in NODES}
        self.pools, self.configuration, self.reserved = pools, configuration, reserved

    @rule(seconds=st.sampled_from([0.001, 10.0, 50.0, 100.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(node=_NODE, number=st.integers(0, 4), versions=st.sampled_from([(4,), (6,), (4, 6)]), sticky=st.booleans())
    def assign(self, node: str, number: int, versions: tuple[int, ...], sticky: bool) -> None:  # noqa: FBT001  drawn
        """Ask for addresses of any kind; a refusal must be for want of every permitted address."""
        request = AssignRequest(f"{node}-{number}", f"w{number % 3}", "d", "i", versions, sticky=sticky)
        key = (node, request.handle)
        had = self.held.get(key, ())
        before = {cidr: block for cidr, (_, block) in self.stored.items()}
        try:
            plan = self._do(node, lambda view: plan_assign(view, request, now=self.now))
        except PoolExhausted:
            missing = [version for version in versions if version not in {address.version for address in had}]
            assert any(not self._has_any(node, version, request) for version in missing)
            return
        assert [address.version for address in plan.addresses] == sorted(versions)
        for address in set(plan.addresses) - set(had):
            self._check_given(node, address, request, before)
        self.held[key] = tuple(sorted({*had, *plan.addresses}, key=lambda each: (each.version, int(each))))

    @rule(node=_NODE, number=st.integers(0, 4), pool_number=st.integers(0, 1), offset=st.integers(0, 3))
    def assign_specific(self, node: str, number: int, pool_number: int, offset: int) -> None:
        """Ask for one address: reserved or not, it is given unless it is held, rests, or is for its owner alone."""
        pool = self.pools[pool_number % len(self.pools)]
        address = pool.cidr[offset % pool.cidr.num_addresses]
        request = AssignRequest(f"{node}-{number}", "w", "d", "i", (address.version,), addresses=(address,))
        had = [each for each in self.held.get((node, request.handle), ()) if each.version == address.version]
        block = next((block for _, block in self.stored.values() if address in block.cidr), None)
        free = (
            not any(address in each for each in self.held.values())
            and self.rests.get(address, (0.0, None))[0] <= self.now
            and (block is None or block.affinity in (None, node) or not self.configuration.strict_affinity)
        )
        try:
            plan = self._do(node, lambda view: plan_assign(view, request, now=self.now))
        except Refused:
            assert had != [address]
            assert had or not free
            return
        assert plan.addresses == (address,)
        assert had == [address] or (not had and free)
        self.held[node, request.handle] = tuple({*self.held.get((node, request.handle), ()), address})
        self.rests.pop(address, None)

    @rule(node=_NODE, number=st.integers(0, 4))
    def release(self, node: str, number: int) -> None:
        """Free what a handle holds: exactly that."""
        handle = f"{node}-{number}"
        holders = {address: holder for _, block in self.stored.values() for address, holder in block.assignments()}
        plan = self._do(node, lambda view: plan_release(view, handle, now=self.now))
        freed = self.held.pop((node, handle), ())
        assert set(plan.addresses) == set(freed)
        for address in freed:
            holder = holders[address]
            remembered = holder.sticky and self.configuration.sticky_seconds > 0
            seconds = max(self.configuration.cooldown_seconds, self.configuration.sticky_seconds if remembered else 0)
            if seconds:
                self.rests[address] = (self.now + seconds, holder.full_name if remembered else None)
        self._note_freed(plan)

    @rule(node=_NODE, numbers=st.lists(st.integers(0, 4), min_size=2, max_size=6), sticky=st.booleans())
    def churn(self, node: str, numbers: list[int], sticky: bool) -> None:  # noqa: FBT001  drawn
        """Let workloads come and go, one after the other, as they do all day."""
        for number in numbers:
            if (node, f"{node}-{number}") in self.held:
                self.release(node, number)
            else:
                self.assign(node, number, (4,), sticky)

    @rule(node=_NODE)
    def return_blocks(self, node: str) -> None:
        """Give up every block that is empty."""
        self._do(node, lambda view: plan_return(view, list(view.block_by_cidr), now=self.now))

    @rule(node=_NODE)
    def lose_memory(self, node: str) -> None:
        """Start the node's agent anew."""
        self._read_all(node)

    @precondition(lambda self: self.held)
    @rule(node=_NODE)
    def remove(self, node: str) -> None:
        """Take a node out of the cluster; it comes back with nothing."""
        for cidr, (_, block) in list(self.stored.items()):
            if block.affinity == node or node in block.holding_nodes():
                plan = plan_removal(block, node)
                self._apply(plan)
                self._note_freed(plan)
                if plan.writes[cidr] is None:
                    self.rests = {address: rest for address, rest in self.rests.items() if address not in cidr}
        self.held = {key: addresses for key, addresses in self.held.items() if key[0] != node}
        self._read_all(node)

    @invariant()
    def everything_is_accounted_for(self) -> None:
        """Compare the blocks with what the nodes were told; none contradicts itself or is out of reach."""
        if not hasattr(self, "stored"):
            return
        told = {(node, handle, address) for (node, handle), each in self.held.items() for address in each}
        blocks = [block for _, block in self.stored.values()]
        found = [(holder.node, holder.handle, each) for block in blocks for each, holder in block.assignments()]
        assert set(found) == told
        assert len(found) == len(told)
        for block in blocks:
            block.check()
            assert any(
                pool.contains(block.cidr) and pool.block_prefix_length == block.cidr.prefixlen for pool in self.pools
            )
            assert block.affinity is not None or block.holders or block.resting
        for node in NODES:
            for version in (4, 6):
                own = [block for block in blocks if block.affinity == node and block.version == version]
                assert len(own) <= self.configuration.max_blocks_per_node

    def _do(self, node: str, planner: Callable[[View], Plan]) -> Plan:
        """Plan and commit as a node does it, reading what is missing; a refusal counts after everything was read."""
        confirmed = False
        for _ in range(30):
            try:
                plan = planner(self.views[node])
                assert plan == planner(self._shuffled(node))
            except MoreNeeded as missing:
                self._read_more(node, missing)
            except Refused:
                if confirmed:
                    raise
                confirmed = True
                self._read_all(node)
            else:
                if self._is_current(node, plan):
                    versions = self._apply(plan)
                    self.views[node] = self.views[node].with_blocks(plan.writes).forgetful()
                    known = {**self.versions[node], **versions}
                    self.versions[node] = {cidr: known[cidr] for cidr in self.views[node].block_by_cidr}
                    return plan
                self._read_all(node)
        raise AssertionError("no end of reading")

    def _shuffled(self, node: str) -> View:
        view = self.views[node]
        return replace(view, block_by_cidr=dict(reversed(list(view.block_by_cidr.items()))))

    def _note_freed(self, plan: Plan) -> None:
        """Remember the order in which addresses became free, those of one moment in no order."""
        gone = {
            address
            for cidr, block in plan.writes.items()
            if block is None
            for address in plan.addresses
            if address in cidr
        }
        self.freed = [
            *(each for each in self.freed if each not in plan.addresses),
            *(a for a in plan.addresses if a not in gone),
        ]

    def _is_current(self, node: str, plan: Plan) -> bool:
        return all(
            self.versions[node].get(cidr) == (self.stored[cidr][0] if cidr in self.stored else None)
            for cidr in (*plan.writes, *plan.rests_on)
        )

    def _apply(self, plan: Plan) -> dict[IPNetwork, int]:
        self.version += 1
        self.now += 0.001
        for cidr, block in plan.writes.items():
            if block is None:
                del self.stored[cidr]
                self.freed = [address for address in self.freed if address not in cidr]
            else:
                assert block.sequence > self.sequences.get(cidr, 0)
                self.sequences[cidr] = block.sequence
                self.stored[cidr] = (self.version, block)
        return {cidr: self.version for cidr, block in plan.writes.items() if block is not None}

    def _read_all(self, node: str) -> None:
        view = self.views[node].with_blocks(dict.fromkeys(self.views[node].block_by_cidr))
        view = view.with_summaries(BlockSummary.of(block) for _, block in self.stored.values())
        share = {cidr: block for cidr, (_, block) in self.stored.items() if view.concerns(block)}
        self.views[node] = view.with_blocks(share)
        self.versions[node] = {cidr: self.stored[cidr][0] for cidr in share}

    def _read_more(self, node: str, missing: MoreNeeded) -> None:
        if not missing.blocks:
            view = self.views[node].with_summaries(BlockSummary.of(block) for _, block in self.stored.values())
            self.views[node] = view
            self.versions[node] = {cidr: self.versions[node][cidr] for cidr in view.block_by_cidr}
            return
        found = {cidr: self.stored.get(cidr) for cidr in missing.blocks}
        changes = {cidr: None if each is None else each[1] for cidr, each in found.items()}
        self.views[node] = self.views[node].with_blocks(changes)
        self.versions[node] |= {cidr: each[0] for cidr, each in found.items() if each is not None}

    def _check_given(
        self, node: str, address: IPAddress, request: AssignRequest, before: dict[IPNetwork, Block]
    ) -> None:
        """Check that an address could be given automatically, and that it is the one that waited longest."""
        assert not any(address.version == cidr.version and address in cidr for cidr in self.reserved)
        until, name = self.rests.pop(address, (0.0, None))
        mine = request.sticky and name == request.full_name
        assert until <= self.now or mine
        cidr = next(cidr for cidr in self.stored if address.version == cidr.version and address in cidr)
        if self.configuration.strict_affinity:
            assert self.stored[cidr][1].affinity == node
        block = before.get(cidr)
        if block is None:
            return
        if block.affinity != self.stored[cidr][1].affinity:
            assert block.is_empty(self.now)
            assert block.affinity is None or block.claimed_at + RECLAIM_AGE_SECONDS <= self.now
        if not mine and until == 0.0:
            others = [each for each in block.cidr if self._is_open(each) and each not in self.rests]
            unheld = [each for each in others if not any(each in addresses for addresses in self.held.values())]
            assert self._waited(address) <= min(map(self._waited, unheld), default=len(self.freed))

    def _waited(self, address: IPAddress) -> int:
        """Return the place of an address among those that were freed; one that was never held comes before all."""
        return self.freed.index(address) if address in self.freed else -1

    def _is_open(self, address: IPAddress) -> bool:
        return not any(address.version == cidr.version and address in cidr for cidr in self.reserved)

    def _has_any(self, node: str, version: int, request: AssignRequest) -> bool:
        """Tell by brute force whether the node might have any address of this version without asking for it."""
        blocks = [block for _, block in self.stored.values() if block.version == version]
        owned_count = sum(block.affinity == node for block in blocks)
        may_claim = owned_count < self.configuration.max_blocks_per_node
        for pool in self.pools:
            for address in pool.cidr if pool.version == version else ():
                until, name = self.rests.get(address, (0.0, None))
                rested = until <= self.now or (request.sticky and name == request.full_name)
                held = any(address in each for each in self.held.values())
                if held or not rested or not self._is_open(address):
                    continue
                block = next((block for block in blocks if address in block.cidr), None)
                if block is None:
                    if may_claim:
                        return True
                elif block.affinity == node or not self.configuration.strict_affinity:
                    return True
                elif may_claim and block.is_empty(self.now):
                    old = block.claimed_at + RECLAIM_AGE_SECONDS <= self.now
                    if old or block.affinity is None:
                        return True
        return False


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)

"""Every order in which nodes can read, plan and commit on a pool of four addresses, and every crash in between.

The store is a model: blocks with versions, and a commit that is refused unless each version it rests on is the present
one. A node plans on what it remembers, which may be stale; what it lacks it reads, and between any two of these steps
another node may do its own. At each moment every operation that makes sense is tried. States that differ only in
their numbers (versions, sequences, the time) are one, and nodes that have done nothing yet are alike.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, count, islice
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from ipam.configuration import IpamConfiguration
from ipam.errors import MoreNeeded, Refused
from ipam.plan import Plan, plan_assign, plan_release, plan_release_addresses, plan_removal, plan_return
from ipam.pool import Pool
from ipam.request import AssignRequest, ReleaseRequest
from ipam.summary import BlockSummary
from ipam.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ipam.address import IPAddress, IPNetwork
    from ipam.block import Block

#: What passes between two steps: more than the age at which an empty block is reclaimed, less than a cooldown below.
TICK_SECONDS: Final = 100
COOLDOWN_SECONDS: Final = 150

Operation: TypeAlias = tuple[str, str | None]
Key: TypeAlias = tuple[object, ...]


class Violation(AssertionError):
    """Something that must always hold does not."""


@dataclass(frozen=True)
class Planners:
    """The decisions under test, and whether the store compares versions."""

    assign: Callable[[View, AssignRequest, float], Plan] = lambda view, request, now: plan_assign(
        view, request, now=now
    )
    release_addresses: Callable[[View, list[ReleaseRequest], float], Plan] = lambda view, requests, now: (
        plan_release_addresses(view, requests, now=now)
    )
    guarded: bool = True


@dataclass(frozen=True)
class Scene:
    """What does not change: the pool, the rules, how much each node does, and how many crashes there are."""

    pool: Pool
    configuration: IpamConfiguration = field(default_factory=IpamConfiguration)
    node_count: int = 2
    operation_count: int = 2
    crash_count: int = 0
    planners: Planners = field(default_factory=Planners)


@dataclass(frozen=True)
class Node:
    """What a node remembers, and what it is about to do: `plan` is None while it has to plan (again)."""

    view: View
    versions: Mapping[IPNetwork, int]
    left: int
    handle_number: int = 0
    doing: Operation | None = None
    looked_at: ReleaseRequest | None = None
    plan: Plan | None = None
    alive: bool = True


@dataclass(frozen=True)
class World:
    """The store, the nodes, and every assignment that was answered: node, handle and address.

    `sequences` are those that a block of each CIDR ever had.
    """

    stored: Mapping[IPNetwork, tuple[int, Block]]
    sequences: Mapping[IPNetwork, frozenset[int]]
    nodes: Mapping[str, Node]
    answered: frozenset[tuple[str, str, IPAddress]]
    crashes_left: int
    now: int = 1000
    version: int = 0

    def with_node(self, name: str, node: Node) -> World:
        """Return the world in which a node is like this, a moment later."""
        return replace(self, nodes={**self.nodes, name: node}, now=self.now + TICK_SECONDS)


class Explorer:
    """Tries everything in a scene; `state_count` tells how many different states there were."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._keys: dict[int, tuple[Block, Key]] = {}
        self.state_count = 0
        self.kinds: set[str] = set()

    def run(self) -> None:
        """Visit every state; raises `Violation` with the steps that lead to the first one that must not be."""
        scene = self._scene
        names = list(islice(_names(scene.pool), scene.node_count))
        view = replace(View("").with_pools([scene.pool]), configuration=scene.configuration)
        nodes = {name: Node(replace(view, node=name), {}, scene.operation_count) for name in names}
        stack: list[tuple[World, tuple[str, ...]]] = [(World({}, {}, nodes, frozenset(), scene.crash_count), ())]
        seen: set[Key] = set()
        while stack:
            world, path = stack.pop()
            key = self._key(world)
            if key in seen:
                continue
            seen.add(key)
            for label, step in self._steps(world):
                try:
                    stack.append((step(), (*path, label)))
                except Violation as violation:
                    raise Violation(f"{violation}, after: {'; '.join((*path, label))}") from violation
        self.state_count = len(seen)

    def _steps(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        fresh = [name for name, node in world.nodes.items() if node.left == self._scene.operation_count]
        for name, node in world.nodes.items():
            if not node.alive or name in fresh[1:]:
                continue
            if node.doing is not None and node.plan is None:
                yield f"{name} plans again", partial(self._plan, world, name)
            elif node.doing is not None:
                yield f"{name} commits", partial(self._commit, world, name)
                if world.crashes_left:
                    yield f"{name} crashes", partial(self._crash, world, name)
                    yield f"{name} commits and crashes", partial(self._commit_and_crash, world, name)
            elif node.left:
                for operation in self._operations(world, name):
                    label = f"{name} plans {operation[0]} {operation[1] or ''}".rstrip()
                    yield label, partial(self._begin, world, name, operation)

    def _operations(self, world: World, name: str) -> Iterator[Operation]:
        """Yield what the node could do now; what is alike for every address is tried for one."""
        yield "assign", None
        yield "specific", str(self._scene.pool.cidr[-1])
        if handle := min((handle for node, handle, _ in world.answered if node == name), default=None):
            yield "release", handle
        if held := [address for _, block in world.stored.values() for address, _ in block.assignments()]:
            yield "release address", str(min(held, key=int))
        if any(block.affinity == name and not block.holders for _, block in world.stored.values()):
            yield "return", None
        for other, node in world.nodes.items():
            started = node.left < self._scene.operation_count
            left = any(_concerns(other, block) for _, block in world.stored.values())
            if other != name and started and (node.alive or left):
                yield "remove", other

    def _begin(self, world: World, name: str, operation: Operation) -> World:
        kind, what = operation
        node = replace(world.nodes[name], doing=operation, left=world.nodes[name].left - 1)
        if kind == "release address":
            address = ipaddress.ip_address(what or "")
            node = replace(node, looked_at=_look(world, address), doing=("release address", what))
            # The report is read now, what is planned on it later: the address may have gone through other hands.
            return world.with_node(name, _read(world, node))
        if kind == "remove":
            stopped = replace(world.nodes[what or ""], alive=False, doing=None, plan=None)
            world = replace(world, nodes={**world.nodes, what or "": stopped})
            node = _read(world, node)
        return self._plan(world.with_node(name, node), name)

    def _plan(self, world: World, name: str) -> World:
        """Plan on what is known, or read what is missing and plan with the next step."""
        node = world.nodes[name]
        try:
            plan = self._planned(world, name, node)
        except MoreNeeded as missing:
            return world.with_node(name, _read_more(world, node, missing))
        except Refused:
            return world.with_node(name, replace(node, doing=None, looked_at=None))
        return world.with_node(name, replace(node, plan=plan))

    def _planned(self, world: World, name: str, node: Node) -> Plan:
        kind, what = node.doing or ("", None)
        self.kinds.add(kind)
        if kind in ("assign", "specific"):
            asked = () if what is None else (ipaddress.ip_address(what),)
            handle = f"{name}-{node.handle_number}"
            request = AssignRequest(handle, "w", "d", "i", (self._scene.pool.version,), addresses=asked)
            return self._scene.planners.assign(node.view, request, world.now)
        if kind == "release":
            return plan_release(node.view, what or "", now=world.now)
        if kind == "release address":
            requests = [] if node.looked_at is None else [node.looked_at]
            return self._scene.planners.release_addresses(node.view, requests, world.now)
        if kind == "return":
            return plan_return(node.view, list(node.view.block_by_cidr), now=world.now)
        blocks = (block for block in node.view.block_by_cidr.values() if _concerns(what or "", block))
        return next((plan_removal(block, what or "") for block in blocks), Plan(()))

    def _commit(self, world: World, name: str, *, answers: bool = True) -> World:
        node = world.nodes[name]
        plan = node.plan or Plan(())
        known = {cidr: node.versions.get(cidr) for cidr in (*plan.writes, *plan.rests_on)}
        current = {cidr: world.stored[cidr][0] if cidr in world.stored else None for cidr in known}
        if self._scene.planners.guarded and known != current:
            return world.with_node(name, replace(_read(world, node), plan=None))
        version = world.version + 1
        stored = {cidr: each for cidr, each in world.stored.items() if cidr not in plan.writes}
        written = {cidr: (version, block) for cidr, block in plan.writes.items() if block is not None}
        after = replace(world, stored={**stored, **written}, version=version)
        after = _answer(after, name, node, plan, answers=answers)
        after = _check(self._scene, world, after, plan)
        view = node.view.with_blocks(plan.writes).forgetful()
        versions = {**node.versions, **dict.fromkeys(written, version)}
        versions = {cidr: each for cidr, each in versions.items() if cidr in view.block_by_cidr}
        more = node.doing is not None and node.doing[0] == "remove" and bool(plan.writes)
        number = node.handle_number + (answers and node.doing is not None and node.doing[0] in ("assign", "specific"))
        done = replace(node, view=view, versions=versions, handle_number=number, plan=None)
        # A node is removed block by block, each on what is in the store then.
        return after.with_node(name, _read(after, done) if more else replace(done, doing=None, looked_at=None))

    def _commit_and_crash(self, world: World, name: str) -> World:
        return self._crash(self._commit(world, name, answers=False), name)

    def _crash(self, world: World, name: str) -> World:
        """Lose what the node was doing and remembers; it reads its share again, and the same handle is next."""
        again = _read(world, replace(world.nodes[name], doing=None, looked_at=None))
        return replace(world.with_node(name, again), crashes_left=world.crashes_left - 1)

    def _key(self, world: World) -> Key:
        stored = frozenset(self._block_key(block, world.now) for _, block in world.stored.values())
        nodes = tuple(self._node_key(world, node) for node in world.nodes.values())
        return stored, nodes, world.answered, world.crashes_left

    def _node_key(self, world: World, node: Node) -> Key:
        def known(cidr: IPNetwork, block: Block) -> Key:
            current = cidr in world.stored and world.stored[cidr][0] == node.versions.get(cidr)
            return (current, self._block_key(block, world.now))

        view, looked, plan = node.view, node.looked_at, node.plan
        summaries = view.summary_by_cidr
        return (
            frozenset(known(cidr, block) for cidr, block in view.block_by_cidr.items()),
            None if summaries is None else frozenset(_summary_key(each, world.now) for each in summaries.values()),
            frozenset(view.taken_by_pool.items()),
            (node.left, node.handle_number, node.doing, node.alive),
            looked and (looked.address, looked.handle, looked == _look(world, looked.address)),
            plan
            and (
                plan.addresses,
                plan.rests_on,
                frozenset((cidr, block and self._block_key(block, world.now)) for cidr, block in plan.writes.items()),
                frozenset(
                    (cidr, node.versions.get(cidr) == (world.stored[cidr][0] if cidr in world.stored else None))
                    for cidr in (*plan.writes, *plan.rests_on)
                ),
            ),
        )

    def _block_key(self, block: Block, now: float) -> Key:
        if id(block) not in self._keys:
            holders = frozenset((ordinal, holder.handle) for ordinal, holder in block.holders.items())
            # The block is kept, so that no other one gets its identity.
            self._keys[id(block)] = (block, (block.cidr, block.affinity, holders, block.free))
        rests = frozenset((ordinal, max(rest.until - now, 0)) for ordinal, rest in block.resting.items())
        return (self._keys[id(block)][1], rests)


def _summary_key(summary: BlockSummary, now: float) -> Key:
    rests = (summary.resting_count, max(summary.rested_at - now, 0))
    return (summary.cidr, summary.affinity, summary.in_use, rests)


def _names(pool: Pool) -> Iterator[str]:
    """Yield names of nodes that all begin to look at the pool's first block: nodes that differ in nothing else."""
    return (name for name in (f"n{number}" for number in count()) if pool.start_of(name) == 0)


def _concerns(node: str, block: Block) -> bool:
    return block.affinity == node or node in block.holding_nodes()


def _look(world: World, address: IPAddress) -> ReleaseRequest | None:
    """Return what a report says of an address: who holds it, at which sequence."""
    for _, block in world.stored.values():
        if address in block.cidr and (holder := block.holders.get(block.ordinal_of(address))):
            return ReleaseRequest(address, holder.handle, block.ordinal_sequence[block.ordinal_of(address)])
    return None


def _read(world: World, node: Node) -> Node:
    """Return the node that has read its share and the list of all blocks; one that deals with others reads them all."""
    everything = node.doing is not None and node.doing[0] in ("release address", "remove")
    wanted = {cidr: each for cidr, each in world.stored.items() if everything or _concerns(node.view.node, each[1])}
    forgotten = node.view.with_blocks(dict.fromkeys(node.view.block_by_cidr))
    listed = forgotten.with_summaries(BlockSummary.of(block) for _, block in world.stored.values())
    view = listed.with_blocks({cidr: block for cidr, (_, block) in wanted.items()})
    return replace(node, view=view, versions={cidr: version for cidr, (version, _) in wanted.items()}, plan=None)


def _read_more(world: World, node: Node, missing: MoreNeeded) -> Node:
    if not missing.blocks:
        listed = node.view.with_summaries(BlockSummary.of(block) for _, block in world.stored.values())
        versions = {cidr: version for cidr, version in node.versions.items() if cidr in listed.block_by_cidr}
        return replace(node, view=listed, versions=versions)
    found = {cidr: world.stored.get(cidr) for cidr in missing.blocks}
    versions = {cidr: version for cidr, version in node.versions.items() if cidr not in found}
    versions |= {cidr: each[0] for cidr, each in found.items() if each is not None}
    return replace(
        node,
        view=node.view.with_blocks({cidr: each and each[1] for cidr, each in found.items()}),
        versions=versions,
    )


def _answer(world: World, name: str, node: Node, plan: Plan, *, answers: bool) -> World:
    """Return the world after a commit in which nodes hold what they were told, less what was freed by it."""
    kind, what = node.doing or ("", None)
    if kind in ("assign", "specific"):
        told = {(name, f"{name}-{node.handle_number}", address) for address in plan.addresses if answers}
        return replace(world, answered=world.answered | told)
    if kind == "release address" and node.looked_at is not None and node.looked_at.address in plan.addresses:
        gone = (node.looked_at.handle, node.looked_at.address)
        return replace(world, answered=frozenset(each for each in world.answered if each[1:] != gone))
    if kind == "release":
        return replace(world, answered=frozenset(each for each in world.answered if each[:2] != (name, what)))
    if kind == "remove":
        freed = set(plan.addresses)
        kept = (each for each in world.answered if each[0] != what or each[2] not in freed)
        return replace(world, answered=frozenset(kept))
    return world


def _check(scene: Scene, before: World, after: World, plan: Plan) -> World:
    """Return the world after with its sequences; raises `Violation` for anything that must not be after a commit."""
    blocks = [block for _, block in after.stored.values()]
    for block in blocks:
        block.check()
        _require(
            scene.pool.contains(block.cidr) and block.cidr.prefixlen == scene.pool.block_prefix_length,
            f"{block.cidr} is no block of the pool",
        )
        _require(block.affinity is not None or bool(block.holders or block.resting), f"{block.cidr} is out of reach")
        _require(block.ordinal_sequence.keys() >= block.holders.keys(), f"{block.cidr} forgets sequences")
    for one, other in combinations(blocks, 2):
        _require(not one.cidr.overlaps(other.cidr), f"{one.cidr} overlaps {other.cidr}")
    _check_holders(scene, after, blocks)
    written = {cidr: block.sequence for cidr, block in plan.writes.items() if block is not None}
    for cidr, sequence in written.items():
        # A claim that was planned before somebody else's and committed after that one's end may start lower.
        _require(sequence not in before.sequences.get(cidr, ()), f"{cidr} has the sequence {sequence} again")
        if cidr in before.stored:
            _require(sequence > before.stored[cidr][1].sequence, f"the sequence of {cidr} does not grow")
    used = {cidr: before.sequences.get(cidr, frozenset()) | {sequence} for cidr, sequence in written.items()}
    return replace(after, sequences={**before.sequences, **used})


def _check_holders(scene: Scene, after: World, blocks: Iterable[Block]) -> None:
    held = [(holder.node, holder.handle, address) for block in blocks for address, holder in block.assignments()]
    _require(after.answered <= set(held), f"of {set(after.answered)} only {held} is held")
    _require(len({each[2] for each in held}) == len(held), f"an address twice in {held}")
    _require(len({each[:2] for each in held}) == len(held), f"a handle twice in {held}")
    limit = scene.configuration.max_blocks_per_node
    for name in after.nodes:
        _require(sum(block.affinity == name for block in blocks) <= limit, f"{name} owns more than {limit} blocks")


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001  the condition is what this is about
    if not holds:
        raise Violation(otherwise)


def _pool(cidr: str, block_prefix_length: int) -> Pool:
    return Pool("p", ipaddress.ip_network(cidr), block_prefix_length)


FOUR: Final = "10.0.0.0/30"
LIMITED: Final = IpamConfiguration(max_blocks_per_node=1)
SCENES: Final = {
    "one block": Scene(_pool(FOUR, 30), crash_count=1),
    "two blocks": Scene(_pool(FOUR, 31)),
    "a block for each address": Scene(_pool(FOUR, 32)),
    "one address": Scene(_pool("10.0.0.0/32", 32), operation_count=3),
    "two blocks, one for each node": Scene(_pool(FOUR, 31), LIMITED, crash_count=1),
    "no borrowing": Scene(_pool(FOUR, 31), IpamConfiguration(strict_affinity=True, max_blocks_per_node=1)),
    "addresses rest": Scene(_pool("fd00::/126", 127), IpamConfiguration(cooldown_seconds=COOLDOWN_SECONDS)),
    "one IPv6 block for each node": Scene(_pool("fd00::/126", 128), LIMITED),
    "three nodes": Scene(_pool("10.0.0.0/31", 31), node_count=3, operation_count=1, crash_count=1),
    "three nodes, one block each": Scene(_pool(FOUR, 31), LIMITED, node_count=3, operation_count=1, crash_count=1),
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_no_order_of_steps_and_no_crash_breaks_anything(scene: Scene) -> None:
    """Whatever nodes do at the same time and wherever one is broken off, every promise holds after every commit."""
    explorer = Explorer(scene)
    explorer.run()
    assert explorer.state_count > 1000
    once = {"assign", "specific", "release address", "remove"}
    assert explorer.kinds == (once if scene.operation_count == 1 else {*once, "release", "return"})


def _blind_assign(view: View, request: AssignRequest, now: float) -> Plan:
    """Plan as if the blocks of others were empty."""
    others = {cidr: block for cidr, block in view.block_by_cidr.items() if block.affinity != view.node}
    emptied = {cidr: block.release(tuple(block.holders)) for cidr, block in others.items()}
    return plan_assign(view.with_blocks(emptied), request, now=now)


def _forgetful_assign(view: View, request: AssignRequest, now: float) -> Plan:
    """Plan with sequences that start anew when a block is claimed."""
    plan = plan_assign(view, request, now=now)
    return replace(
        plan,
        writes={
            cidr: block and (block if cidr in view.block_by_cidr else replace(block, sequence=1))
            for cidr, block in plan.writes.items()
        },
    )


def _forgetful_release(view: View, requests: list[ReleaseRequest], now: float) -> Plan:
    """Plan to free the addresses, whoever has them by now."""
    return plan_release_addresses(view, [ReleaseRequest(request.address) for request in requests], now=now)


@pytest.mark.parametrize(
    ("planners", "words"),
    [
        (Planners(guarded=False), "does not grow|is held"),
        (Planners(assign=_blind_assign), "is held"),
        (Planners(assign=_forgetful_assign), "again"),
        (Planners(release_addresses=_forgetful_release), "is held"),
    ],
    ids=[
        "versions ignored",
        "reclaims blocks in use",
        "sequence forgotten by a claim",
        "sequence ignored by a release",
    ],
)
def test_the_explorer_finds_what_is_broken(planners: Planners, words: str) -> None:
    """A planner or a store that breaks a promise in some order of steps is found out, and the order is told."""
    scene = Scene(_pool(FOUR, 31), LIMITED, planners=planners)
    with pytest.raises(Violation, match=f"({words}).*after: "):
        Explorer(scene).run()

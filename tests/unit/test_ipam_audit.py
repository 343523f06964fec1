"""What an audit judges, what it leaves open, and which of several effects of one fault it tells."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ipam.audit import audit
from ipam.audit_index import shares_of
from ipam.block import Block, Holder, Rest
from ipam.configuration import IpamConfiguration
from ipam.inventory import Inventory, Ranges, Wired, overlaps
from ipam.pool import Pool
from ipam.problem import ProblemKind
from ipam.summary import BlockSummary

CIDR = ip_network("10.65.1.0/26")
CREATED_AT, GRACE = 1_000.0, 900
HOLDER = Holder("a", "h1", "web", "shop", "tor1", CREATED_AT)


def inventory(*blocks: Block, wired: dict[str, Wired] | None = None) -> Inventory:
    """Return an inventory of these blocks in which all that follows from them is right."""
    return Inventory(
        now=50_000.0,
        pools=(Pool("default", ip_network("10.65.0.0/16"), 26),),
        blocks={block.cidr: block for block in blocks},
        summaries={block.cidr: BlockSummary.of(block) for block in blocks},
        shares={share: block.sequence for block in blocks for share in shares_of(block)},
        nodes=frozenset({"h1", "h2"}),
        wired_by_node=wired or {},
        configuration=IpamConfiguration(grace_seconds=GRACE),
    )


def held(holder: Holder = HOLDER) -> Block:
    """Return a block of h1 whose first address is held."""
    return Block.claimed(CIDR, node="h1", at=0.0).assign(holder)[0]


def wired(seen_at: float, **links: str) -> Wired:
    """Return what a node tells: each link with one address, none if it is empty."""
    return Wired(seen_at, {link: (ip_address(text),) if text else () for link, text in links.items()})


def kinds(found: Inventory) -> list[ProblemKind]:
    """Return the kinds of the problems."""
    return [problem.kind for problem in audit(found)]


@pytest.mark.parametrize(("late", "expected"), [(-1.0, []), (0.0, [ProblemKind.LEAKED])])
def test_an_assignment_has_the_grace_period_to_be_wired(late: float, expected: list[ProblemKind]) -> None:
    """The node must have looked that long after the assignment; how long ago that was does not matter."""
    told = {"h1": wired(CREATED_AT + GRACE + late)}
    assert kinds(inventory(held(), wired=told)) == expected


def test_a_link_that_exists_is_no_leak_whatever_it_carries() -> None:
    """The agent puts addresses back; only a link that is gone says that the workload is."""
    assert kinds(inventory(held(), wired={"h1": wired(9_000.0, tor1="")})) == []


def test_a_node_that_tells_nothing_is_not_checked_and_no_problem() -> None:
    """Nothing is said of its addresses, except that nothing was looked at."""
    found = inventory(held(), wired={"h2": wired(9_000.0)})
    assert kinds(found) == []
    assert found.unchecked_nodes() == ("h1",)


def test_what_a_node_told_before_the_assignment_is_not_held_against_the_holder() -> None:
    """An address may move from one node to another before the first has told that it is gone there."""
    told = {"h1": wired(9_000.0, tor1="10.65.1.0"), "h2": wired(CREATED_AT - 1, tor9="10.65.1.0")}
    assert kinds(inventory(held(), wired=told)) == []


def test_an_address_wired_elsewhere_is_told_as_that_and_not_as_a_leak() -> None:
    """To release it would give a used address to somebody else."""
    told = {"h1": wired(9_000.0), "h2": wired(9_000.0, tor9="10.65.1.0")}
    (problem,) = audit(inventory(held(), wired=told))
    assert (problem.kind, problem.handle, problem.repairable) == (ProblemKind.USED_BY_ANOTHER, "a", False)
    assert "tor9 on node h2" in problem.text


def test_an_address_on_two_links_of_one_node_is_wired_twice() -> None:
    """Two workloads of one node can have the same address too."""
    told = {"h1": wired(9_000.0, tor1="10.65.1.0", tor2="10.65.1.0")}
    assert kinds(inventory(held(), wired=told)) == [ProblemKind.WIRED_TWICE]


def test_nothing_is_said_of_addresses_in_a_block_that_cannot_be_read() -> None:
    """Who holds them stands in the record; its summary and share keys may be right."""
    found = inventory(held(), wired={"h1": wired(9_000.0, tor1="10.65.1.0")})
    assert kinds(replace(found, blocks={}, unreadable_blocks={CIDR: "broken"})) == [ProblemKind.UNREADABLE_BLOCK]


def test_without_every_pool_no_block_is_outside() -> None:
    """The pool that cannot be read may be the one around it."""
    found = replace(inventory(held()), pools=(), all_pools_known=False, unreadable={"pools/default": "broken"})
    assert kinds(found) == [ProblemKind.UNREADABLE_RECORD]


def test_a_leak_in_a_block_that_overlaps_is_not_repaired_by_itself() -> None:
    """Which of the two blocks stays is the operator's decision."""
    inner = Block.claimed(ip_network("10.65.1.32/27"), node="h2", at=0.0)
    leak, overlap = audit(inventory(held(), inner, wired={"h1": wired(9_000.0)}))
    assert (leak.kind, leak.repairable) == (ProblemKind.LEAKED, False)
    assert (overlap.kind, str(overlap.subject)) == (ProblemKind.BLOCKS_OVERLAP, "10.65.1.32/27")


@pytest.mark.parametrize(("until", "expected"), [(49_999.0, [ProblemKind.UNUSED_BLOCK]), (50_001.0, [])])
def test_a_block_without_owner_stays_while_an_address_rests(until: float, expected: list[ProblemKind]) -> None:
    """Deleting it would give the address away before its time."""
    block = held().release((0,), {0: Rest(until)}).disown()
    assert kinds(inventory(block)) == expected


def test_one_address_of_each_version_is_what_a_handle_holds() -> None:
    """Dual stack is no duplicate; a second address of the same version in another block is."""
    six = Block.claimed(ip_network("fd00:65::/122"), node="h1", at=0.0).assign(HOLDER)[0]
    other = Block.claimed(ip_network("10.65.2.0/26"), node="h1", at=0.0).assign(HOLDER)[0]
    pools = (*inventory().pools, Pool("six", ip_network("fd00:65::/64"), 122))
    assert kinds(replace(inventory(held(), six), pools=pools)) == []
    (problem,) = audit(replace(inventory(held(), six, other), pools=pools))
    assert problem.kind is ProblemKind.SEVERAL_ADDRESSES
    assert "10.65.1.0, 10.65.2.0" in problem.text


def test_a_share_key_may_lag_behind_its_block_and_not_run_ahead() -> None:
    """A node is not told of its own changes; a number that never was makes it read for ever."""
    found = inventory(held())
    (share,) = found.shares
    sequence = found.shares[share]
    assert sequence is not None
    assert kinds(replace(found, shares={share: sequence - 1})) == []
    assert kinds(replace(found, shares={share: sequence + 1})) == [ProblemKind.SHARE_WRONG]


def test_overlaps_are_told_with_the_smallest_network_around() -> None:
    """Each network once, also one that is there twice, whatever the order; versions are apart."""
    texts = ("10.0.0.128/25", "10.0.0.0/8", "::/0", "10.0.0.0/24", "10.0.0.0/24", "11.0.0.0/8", "10.0.0.192/32")
    found = [(str(outer), str(inner)) for outer, inner in overlaps(map(ip_network, texts))]
    assert found == [
        ("10.0.0.0/8", "10.0.0.0/24"),
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("10.0.0.0/24", "10.0.0.128/25"),
        ("10.0.0.128/25", "10.0.0.192/32"),
    ]


def test_ranges_find_what_lies_around() -> None:
    """Networks and addresses alike, the largest first."""
    ranges = Ranges(map(ip_network, ("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")))
    assert list(map(str, ranges.around(ip_network("10.1.2.0/24")))) == ["10.0.0.0/8", "10.1.0.0/16"]
    assert list(map(str, ranges.around(ip_address("10.2.0.1")))) == ["10.0.0.0/8"]
    assert list(ranges.around(ip_network("10.0.0.0/7"))) == []
    assert list(map(str, ranges.around(ip_address("fd00::1")))) == ["fd00::/8"]


@pytest.mark.parametrize(
    ("block", "way_out"),
    [
        (Block.claimed(ip_network("10.9.0.0/26"), node="h1", at=0.0), "let node h1 give it back"),
        (Block.claimed(ip_network("10.9.0.0/26"), node=None, at=0.0), "delete it with --fix"),
        (Block.claimed(ip_network("10.9.0.0/26"), node="h1", at=0.0).assign(HOLDER)[0], "remove its 1 workloads"),
        (Block.claimed(ip_network("10.65.9.0/27"), node="h2", at=0.0), "let node h2 give it back"),
    ],
)
def test_a_block_in_the_wrong_place_says_how_it_goes(block: Block, way_out: str) -> None:
    """Nobody is told to remove the workloads of an empty one."""
    texts = [
        problem.text
        for problem in audit(inventory(block))
        if problem.kind in {ProblemKind.OUTSIDE_POOLS, ProblemKind.WRONG_SIZE}
    ]
    assert len(texts) == 1
    assert way_out in texts[0]

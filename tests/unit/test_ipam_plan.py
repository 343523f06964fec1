"""Decisions about addresses on a view: which pool, which block, which address, and what is refused with which words."""

import ipaddress
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.address import IPNetwork
from ipam.block import Block, Holder
from ipam.configuration import IpamConfiguration
from ipam.errors import AddressUnavailable, NoPool, PoolDisabled, PoolExhausted, Refused, UnknownPool
from ipam.plan import Plan, plan_assign, plan_release, plan_removal
from ipam.pool import AssignmentMode, Pool
from ipam.request import AssignRequest
from ipam.summary import BlockSummary
from ipam.view import View

V4 = Pool("v4", ipaddress.ip_network("10.0.0.0/24"), 30)
V6 = Pool("v6", ipaddress.ip_network("fd00:1::/64"), 122)


def _view(*pools: Pool, blocks: tuple[Block, ...] = ()) -> View:
    return View("n1").with_pools(pools).with_blocks({block.cidr: block for block in blocks})


def _request(handle: str, *versions: int, pools: tuple[str, ...] = ()) -> AssignRequest:
    return AssignRequest(handle, "web", "default", "tt0", versions or (4,), pools)


def _full(cidr: str, node: str = "n1", at: float = 0.0) -> Block:
    block = Block.claimed(ipaddress.ip_network(cidr), node=node, at=at)
    for ordinal in range(block.size):
        block, _ = block.assign(Holder(f"{cidr}-{ordinal}", node, "w", "d", "i", at))
    return block


def _network(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def test_the_first_address_claims_a_block() -> None:
    """A node without blocks claims one and takes its head, on condition that the pool stays as it is."""
    plan = plan_assign(_view(V4), _request("a"), now=7.0)
    (block,) = plan.writes.values()
    assert block is not None
    assert (block.affinity, block.claimed_at, block.in_use) == ("n1", 7.0, 1)
    assert plan.addresses == (block.cidr[0],)
    assert plan.claims_from == {"v4"}


def test_the_same_view_and_request_give_the_same_plan() -> None:
    """Nothing but the view and the request decides."""
    assert plan_assign(_view(V4, V6), _request("a", 4, 6), now=7.0) == plan_assign(
        _view(V6, V4), _request("a", 6, 4), now=7.0
    )


def test_the_oldest_own_block_with_space_is_used_first() -> None:
    """A newer block waits until the older ones are full, and claiming waits for all."""
    old, new, full = (
        Block.claimed(_network("10.0.0.8/30"), node="n1", at=1.0),
        Block.claimed(_network("10.0.0.0/30"), node="n1", at=2.0),
        _full("10.0.0.4/30", at=0.0),
    )
    plan = plan_assign(_view(V4, blocks=(new, old, full)), _request("a"), now=7.0)
    assert set(plan.writes) == {old.cidr}
    assert not plan.claims_from


def test_asking_again_gives_the_same_addresses() -> None:
    """A handle that holds addresses gets them again, writes nothing, and insists on the block being as it was."""
    view = _view(V4, V6)
    first = plan_assign(view, _request("a", 4, 6), now=7.0)
    again = plan_assign(view.with_blocks(first.writes), _request("a", 4, 6), now=8.0)
    assert again == Plan(first.addresses, rests_on=frozenset(first.writes))


def test_a_missing_family_is_added_to_what_the_handle_holds() -> None:
    """A handle with an IPv4 address that asks for both families keeps the one and gets the other."""
    view = _view(V4, V6)
    first = plan_assign(view, _request("a", 4), now=7.0)
    both = plan_assign(view.with_blocks(first.writes), _request("a", 4, 6), now=8.0)
    assert [address.version for address in both.addresses] == [4, 6]
    assert both.addresses[:1] == first.addresses


def test_both_families_or_none() -> None:
    """When the second family cannot be had the whole request is refused."""
    with pytest.raises(NoPool, match=r"n1.*IPv6"):
        plan_assign(_view(V4), _request("a", 4, 6), now=7.0)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (replace(V4, disabled=True), "v4 is disabled"),
        (replace(V4, assignment=AssignmentMode.MANUAL), "v4 is manual"),
        (replace(V4, node_selector="rack == 'a'"), "v4 selects rack"),
        (V6, "no IPv4 pool"),
    ],
)
def test_no_pool_for_the_node_names_the_node_and_the_reason(pool: Pool, words: str) -> None:
    """A refusal says which node has no pool and why each pool was passed over."""
    with pytest.raises(NoPool, match=f"node n1.*{words}"):
        plan_assign(_view(pool), _request("a"), now=7.0)


def test_a_manual_pool_gives_addresses_by_its_name() -> None:
    """Requesting a pool by name bypasses `manual` and the selector."""
    pool = replace(V4, assignment=AssignmentMode.MANUAL, node_selector="has(never)")
    assert plan_assign(_view(pool), _request("a", pools=("v4",)), now=7.0).addresses[0] in V4.cidr


def test_unknown_and_disabled_pools_are_refused_by_name() -> None:
    """Neither a misspelt nor a disabled pool is silently replaced by another."""
    view = _view(V4, replace(V6, disabled=True))
    with pytest.raises(UnknownPool, match=r"nope.*v4, v6"):
        plan_assign(view, _request("a", pools=("nope",)), now=7.0)
    with pytest.raises(PoolDisabled, match="v6"):
        plan_assign(view, _request("a", 6, pools=("v6",)), now=7.0)
    with pytest.raises(NoPool, match="none of the requested pools"):
        plan_assign(view, _request("a", 6, pools=("v4",)), now=7.0)


def test_own_blocks_of_other_pools_are_left_alone() -> None:
    """A request for a pool is not served from a block of another one, nor one from a pool disabled meanwhile."""
    other = Pool("other", _network("10.9.0.0/24"), 30)
    own = Block.claimed(_network("10.0.0.0/30"), node="n1", at=1.0)
    view = _view(V4, other, blocks=(own,))
    assert plan_assign(view, _request("a", pools=("other",)), now=7.0).addresses[0] in other.cidr
    disabled = _view(replace(V4, disabled=True), other, blocks=(own,))
    assert plan_assign(disabled, _request("a"), now=7.0).addresses[0] in other.cidr


def test_exhaustion_says_how_full_and_what_to_do() -> None:
    """A refusal for want of addresses names each pool, how full it is, and the way out."""
    pool = Pool("tiny", _network("10.0.0.0/29"), 30)
    view = _view(pool, blocks=(_full("10.0.0.0/30"),)).with_summaries(
        map(BlockSummary.of, (_full("10.0.0.0/30"), _full("10.0.0.4/30", node="n2")))
    )
    with pytest.raises(PoolExhausted, match=r"tiny \(10.0.0.0/29\) has 2 of 2 blocks.*4 of 4 addresses.*add a pool"):
        plan_assign(view, _request("a"), now=7.0)


def test_no_node_owns_more_blocks_than_allowed() -> None:
    """At the limit nothing is claimed, and the refusal says that the limit is why; IPv6 blocks count apart."""
    full = (_full("10.0.0.0/30"), _full("10.0.0.4/30"))
    view = replace(
        _view(V4, V6, blocks=full).with_summaries(map(BlockSummary.of, full)),
        configuration=IpamConfiguration(max_blocks_per_node=2),
    )
    with pytest.raises(PoolExhausted, match=r"owns 2 blocks, and 2 is the most .* or raise the most blocks per node$"):
        plan_assign(view, _request("a"), now=7.0)
    assert plan_assign(view, _request("a", 6), now=7.0).addresses


@pytest.mark.parametrize(
    ("rules", "ways_out"),
    [
        (IpamConfiguration(), "remove workloads or add a pool"),
        (IpamConfiguration(strict_affinity=True), "remove workloads, switch strict affinity off or add a pool"),
        (
            IpamConfiguration(strict_affinity=True, max_blocks_per_node=1),
            "remove workloads, raise the most blocks per node or switch strict affinity off",
        ),
        (
            IpamConfiguration(strict_affinity=True, auto_allocate_blocks=False),
            "remove workloads, switch automatic blocks on or switch strict affinity off",
        ),
    ],
)
def test_the_way_out_of_exhaustion_is_one_that_helps(rules: IpamConfiguration, ways_out: str) -> None:
    """Another pool is of no use to a node that may not claim a block of it."""
    full = tuple(_full(cidr, node=node) for cidr, node in (("10.0.0.0/30", "n1"), ("10.0.0.4/30", "n2")))
    pool = Pool("tiny", _network("10.0.0.0/29"), 30)
    view = replace(_view(pool, blocks=full).with_summaries(map(BlockSummary.of, full)), configuration=rules)
    with pytest.raises(PoolExhausted, match=f"; {ways_out}$"):
        plan_assign(view, _request("a"), now=7.0)


def test_a_block_of_another_size_is_not_claimed_over() -> None:
    """What an earlier pool of another block size left behind is taken, in whole or in part."""
    pool = Pool("p", _network("10.0.0.0/28"), 30)
    view = _view(pool).with_taken(map(_network, ("10.0.0.0/29", "10.0.0.8/31")))
    assert set(plan_assign(view, _request("a"), now=7.0).writes) == {_network("10.0.0.12/30")}


def test_candidates_wrap_and_name_each_block_once() -> None:
    """Every block is tried once, from a start that differs between nodes and never between runs."""
    order = list(V4.candidates("n1", frozenset()))
    assert sorted(order) == list(V4.cidr.subnets(new_prefix=30))
    assert {next(V4.candidates(f"n{number}", frozenset())) for number in range(50)} > {order[0]}
    assert str(order[0]) == str(next(V4.candidates("n1", frozenset())))


def test_an_enormous_pool_is_never_walked() -> None:
    """The candidates of a pool of 2**58 blocks come one at a time."""
    assert len(list(islice(V6.candidates("n1", frozenset()), 3))) == 3


def test_releasing_what_is_not_held_changes_nothing() -> None:
    """Release is idempotent."""
    assert plan_release(_view(V4), "a", now=7.0) == Plan(())


def test_an_ownerless_block_goes_with_its_last_address() -> None:
    """A block that nobody owns and nobody uses is deleted; an owned one is kept empty."""
    block, address = Block.claimed(_network("10.0.0.0/30"), node="n1", at=1.0).assign(
        _request("a").holder(node="n1", at=1)
    )
    assert plan_release(_view(V4, blocks=(block.disown(),)), "a", now=7.0) == Plan((address,), {block.cidr: None})
    kept = plan_release(_view(V4, blocks=(block,)), "a", now=7.0).writes[block.cidr]
    assert kept is not None
    assert kept.in_use == 0


def test_removing_a_node_leaves_others_their_addresses() -> None:
    """A removed owner's block stays, ownerless, for those who hold addresses of it."""
    block = Block.claimed(_network("10.0.0.0/30"), node="n1", at=1.0)
    block, mine = block.assign(_request("a").holder(node="n1", at=1))
    block, theirs = block.assign(_request("b").holder(node="n2", at=1))
    plan = plan_removal(block, "n1")
    left = plan.writes[block.cidr]
    assert plan.addresses == (mine,)
    assert left is not None
    assert left.affinity is None
    assert [address for address, _ in left.assignments()] == [theirs]


def test_a_handle_of_another_node_is_none_of_this_nodes() -> None:
    """Another node's holding under the same handle is neither handed out again nor released, though it is known."""
    held = Holder("a", "n2", "w", "d", "i", 0.0)
    foreign, taken = Block.claimed(_network("10.0.0.0/30"), node="n2", at=0.0).assign(held)
    view = _view(V4, blocks=(foreign,))
    assert taken not in plan_assign(view, _request("a"), now=7.0).addresses
    assert plan_release(view, "a", now=7.0) == Plan(())


def test_a_block_that_cannot_be_read_stays_taken_when_another_turns_out_to_be_gone() -> None:
    """What cannot be read exists, whatever else is found out, and an address asked for in it is refused for that."""
    pool = Pool("tiny", _network("10.0.0.0/29"), 30)
    broken, gone = _network("10.0.0.0/30"), _network("10.0.0.4/30")
    summaries = [BlockSummary(cidr, "n2", 0.0, 1) for cidr in (broken, gone)]
    view = _view(pool).with_summaries(summaries).with_blocks({broken: None}).with_unreadable([broken])
    view = view.with_blocks({gone: None})
    assert set(plan_assign(view, _request("a"), now=7.0).writes) == {gone}
    asked = replace(_request("b"), addresses=(broken[1],))
    with pytest.raises(AddressUnavailable, match=r"block 10\.0\.0\.0/30, whose record cannot be read"):
        plan_assign(view, asked, now=7.0)


@pytest.mark.parametrize("versions", [(), (5,), (4, 5)])
def test_a_request_for_nothing_is_refused(versions: tuple[int, ...]) -> None:
    """A request must name IP versions that exist, and a handle."""
    with pytest.raises(Refused, match="IP versions"):
        AssignRequest("a", "web", "default", "tt0", versions)
    with pytest.raises(Refused, match="without a handle"):
        AssignRequest("", "web", "default", "tt0", (4,))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.sampled_from([(4,), (6,), (4, 6)])), max_size=40))
def test_any_sequence_keeps_addresses_apart(steps: list[tuple[bool, int, tuple[int, ...]]]) -> None:
    """Whatever is assigned and released, no two hold one address, and a handle has what it asked for."""
    small = Pool("v4", _network("10.0.0.0/29"), 31)
    view = _view(small, Pool("v6", _network("fd00::/126"), 127)).with_summaries(())
    expected: dict[str, set[int]] = {}
    for assigns, number, versions in steps:
        handle = f"h{number}"
        if not assigns:
            view = view.with_blocks(plan_release(view, handle, now=1.0).writes)
            expected.pop(handle, None)
            continue
        try:
            plan = plan_assign(view, _request(handle, *versions), now=1.0)
        except PoolExhausted:
            continue
        assert [address.version for address in plan.addresses] == list(versions)
        view = view.with_blocks(plan.writes)
        expected.setdefault(handle, set()).update(versions)
    held = [
        (address, holder.handle) for block in view.block_by_cidr.values() for address, holder in block.assignments()
    ]
    assert len({address for address, _ in held}) == len(held)
    assert sorted((handle, address.version) for address, handle in held) == sorted(
        (handle, version) for handle, versions_held in expected.items() for version in versions_held
    )

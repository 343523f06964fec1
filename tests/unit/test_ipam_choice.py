"""Which address is chosen, and why none is: reservations, rest, memory, limits, other nodes' blocks, enormous pools."""

import ipaddress
from dataclasses import replace
from itertools import islice

import pytest

from ipam.address import IPAddress, IPNetwork
from ipam.block import Block, Holder
from ipam.configuration import IpamConfiguration
from ipam.errors import AddressUnavailable, InvalidBlock, MoreNeeded, PoolExhausted
from ipam.plan import Plan, plan_assign, plan_release
from ipam.pool import Pool
from ipam.request import AssignRequest
from ipam.reservation import Reservation
from ipam.summary import BlockSummary
from ipam.view import View

POOL = Pool("v4", ipaddress.ip_network("10.0.0.0/29"), 31)
NOW = 1000.0
DEFAULT = IpamConfiguration()
STRICT = IpamConfiguration(strict_affinity=True)


def _network(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def _block(cidr: str, node: str | None, *held: int, at: float = 0.0, holding: str = "n9") -> Block:
    block = Block.claimed(_network(cidr), node=node, at=at)
    for ordinal in held:
        block, _ = block.assign(Holder(f"{cidr}-{ordinal}", holding, "w", "d", "i", at), ordinal)
    return block


def _view(*blocks: Block, reserved: str = "", rules: IpamConfiguration = DEFAULT) -> View:
    view = replace(View("n1").with_pools([POOL]), configuration=rules)
    if reserved:
        view = replace(view, reservations=(Reservation("r", (_network(reserved),)),))
    view = view.with_summaries(map(BlockSummary.of, blocks))
    return view.with_blocks({block.cidr: block for block in blocks})


def _request(handle: str = "a", *addresses: str, workload: str = "web", sticky: bool = False) -> AssignRequest:
    asked = tuple(map(ipaddress.ip_address, addresses))
    return AssignRequest(handle, workload, "d", "i", (4,), addresses=asked, sticky=sticky)


def _chosen(plan: Plan) -> tuple[IPAddress, str | None]:
    (block,) = plan.writes.values()
    assert block is not None
    return plan.addresses[0], block.affinity


FULL = tuple(_block(cidr, "n9", 0, 1) for cidr in ("10.0.0.0/31", "10.0.0.2/31", "10.0.0.4/31"))


def test_a_block_of_another_node_is_reclaimed_when_it_is_empty_and_old() -> None:
    """Nobody's block is taken while it is used or its first workload is on its way; one without an owner is at once."""
    young = _block("10.0.0.6/31", "n2", at=NOW - 59)
    for block in (young, _block("10.0.0.6/31", "n2", 0)):
        with pytest.raises(PoolExhausted, match="strict affinity"):
            plan_assign(_view(*FULL, block, rules=STRICT), _request(), now=NOW)
    for block in (replace(young, claimed_at=NOW - 60), replace(young, affinity=None)):
        assert _chosen(plan_assign(_view(*FULL, block, rules=STRICT), _request(), now=NOW))[1] == "n1"


def test_a_block_in_use_is_borrowed_from_and_stays_its_owners() -> None:
    """An address is taken out of it, and nothing else changes; one that lends to this node already comes first."""
    lending = _block("10.0.0.6/31", "n2", 0)
    assert _chosen(plan_assign(_view(*FULL, lending), _request(), now=NOW)) == (lending.cidr[1], "n2")
    known = _block("10.0.0.2/31", "n2", 0, holding="n1")
    view = _view(FULL[0], FULL[2], lending, known)
    assert plan_assign(view, _request(), now=NOW).addresses == (known.cidr[1],)


def test_what_is_not_known_of_other_blocks_is_asked_for() -> None:
    """First the list of all, then those that may lend; those that lend nothing for certain are never read."""
    full = Block.claimed(_network("10.0.0.0/31"), node="n1", at=0.0)
    full, _ = full.assign(_request("x").holder(node="n1", at=0.0))
    full, _ = full.assign(_request("y").holder(node="n1", at=0.0))
    view = replace(_view(full, rules=IpamConfiguration(max_blocks_per_node=1)), summary_by_cidr=None)
    with pytest.raises(MoreNeeded) as caught:
        plan_assign(view, _request(), now=NOW)
    assert caught.value.blocks == ()
    others = [full, *FULL[1:], _block("10.0.0.6/31", "n2", 0)]
    with pytest.raises(MoreNeeded) as caught:
        plan_assign(view.with_summaries(map(BlockSummary.of, others)), _request(), now=NOW)
    assert caught.value.blocks == (_network("10.0.0.6/31"),)
    reserved = replace(view, reservations=(Reservation("r", (_network("10.0.0.6/31"),)),))
    with pytest.raises(PoolExhausted, match="2 of its 8 addresses are reserved"):
        plan_assign(reserved.with_summaries(map(BlockSummary.of, others)), _request(), now=NOW)


def test_a_block_without_an_owner_lends_too() -> None:
    """It is listed among those to read, and its addresses are borrowed like any other's."""
    orphan = _block("10.0.0.6/31", None, 0)
    listed = replace(_view(*FULL, orphan), block_by_cidr={})
    with pytest.raises(MoreNeeded) as caught:
        plan_assign(listed, _request(), now=NOW)
    assert caught.value.blocks == (orphan.cidr,)
    assert _chosen(plan_assign(_view(*FULL, orphan), _request(), now=NOW)) == (orphan.cidr[1], None)


def test_what_has_rested_longest_is_given_first() -> None:
    """Of addresses whose rest is over the one that was released first comes first."""
    block = _block("10.0.0.0/31", "n1", 0, 1)
    view = _view(block, rules=IpamConfiguration(cooldown_seconds=30))
    for handle, now in (("10.0.0.0/31-1", NOW), ("10.0.0.0/31-0", NOW + 10)):
        mine = replace(view, node="n9")
        view = view.with_blocks(plan_release(mine, handle, now=now).writes)
    assert plan_assign(view, _request(), now=NOW + 100).addresses == (block.cidr[1],)


def test_a_reserved_address_is_given_to_who_asks_for_it_alone() -> None:
    """Automatic assignment passes it over, also where it is remembered; asked for it is given."""
    view = _view(_block("10.0.0.0/31", "n1"), reserved="10.0.0.0/32", rules=IpamConfiguration(sticky_seconds=60))
    assert plan_assign(view, _request(), now=NOW).addresses == (ipaddress.ip_address("10.0.0.1"),)
    plan = plan_assign(view, _request("a", "10.0.0.0", sticky=True), now=NOW)
    assert plan.addresses == (ipaddress.ip_address("10.0.0.0"),)
    view = view.with_blocks(plan.writes)
    view = view.with_blocks(plan_release(view, "a", now=NOW).writes)
    assert plan_assign(view, _request("b", sticky=True), now=NOW).addresses == (ipaddress.ip_address("10.0.0.1"),)


def test_a_pool_that_is_all_reserved_says_so() -> None:
    """Nobody has to guess why an empty pool gives nothing."""
    with pytest.raises(PoolExhausted, match=r"0 of 4 blocks claimed.*all of it is reserved"):
        plan_assign(_view(reserved="10.0.0.0/8"), _request(), now=NOW)


def test_an_address_rests_for_everybody_but_whom_it_is_kept_for() -> None:
    """During its rest a released address is for the workload of that name, and for nobody who merely asks for it."""
    view = _view(_block("10.0.0.0/31", "n1"), rules=IpamConfiguration(cooldown_seconds=30, sticky_seconds=60))
    first = plan_assign(view, _request("a", sticky=True), now=NOW)
    view = view.with_blocks(first.writes)
    view = view.with_blocks(plan_release(view, "a", now=NOW).writes)
    address = str(first.addresses[0])
    with pytest.raises(AddressUnavailable, match="rests for another 10 s, kept for d/web"):
        plan_assign(view, _request("b", address, workload="other", sticky=True), now=NOW + 50)
    assert plan_assign(view, _request("b", workload="other", sticky=True), now=NOW + 50).addresses != first.addresses
    for request in (_request("b", sticky=True), _request("b", address, sticky=True)):
        assert plan_assign(view, request, now=NOW + 1).addresses == first.addresses
    assert plan_assign(view, _request("b", address), now=NOW + 60).addresses == first.addresses


def test_an_address_asked_for_makes_no_node_own_more_than_it_may() -> None:
    """At the limit it is given in a block that nobody owns, which goes with it."""
    for strict in (False, True):
        view = _view(
            _block("10.0.0.0/31", "n1"), rules=IpamConfiguration(max_blocks_per_node=1, strict_affinity=strict)
        )
        plan = plan_assign(view, _request("a", "10.0.0.7"), now=NOW)
        assert _chosen(plan) == (ipaddress.ip_address("10.0.0.7"), None)
        assert plan_release(view.with_blocks(plan.writes), "a", now=NOW).writes == {_network("10.0.0.6/31"): None}


def test_an_address_of_somebody_elses_block_under_strict_affinity_names_the_owner() -> None:
    """The refusal says whose block it is; one that nobody owns gives it."""
    with pytest.raises(AddressUnavailable, match=r"10\.0\.0\.6/31 of node n2"):
        plan_assign(_view(_block("10.0.0.6/31", "n2", 0), rules=STRICT), _request("a", "10.0.0.7"), now=NOW)
    plan = plan_assign(_view(_block("10.0.0.6/31", None, 0), rules=STRICT), _request("a", "10.0.0.7"), now=NOW)
    assert _chosen(plan) == (ipaddress.ip_address("10.0.0.7"), None)


def test_another_nodes_workload_of_the_same_handle_is_another_one() -> None:
    """An address that a node lends is not handed to its own workload because their handles are alike."""
    lent, address = Block.claimed(_network("10.0.0.0/31"), node="n1", at=0.0).assign(
        _request("a").holder(node="n2", at=0.0)
    )
    view = _view(lent)
    plan = plan_assign(view, _request("a"), now=NOW)
    assert plan.addresses != (address,)
    assert plan_release(view.with_blocks(plan.writes), "a", now=NOW).addresses == plan.addresses


def test_equal_views_give_equal_plans() -> None:
    """The order in which blocks came to be known decides nothing."""
    blocks = [_block(f"10.0.0.{number}/31", f"n{number + 2}", 0) for number in (0, 2, 4, 6)]
    plans = [plan_assign(_view(*order), _request(), now=30.0) for order in (blocks, blocks[::-1])]
    assert plans[0] == plans[1]


def test_an_enormous_pool_is_never_walked_past_a_reservation() -> None:
    """Of 2**50 blocks of which the most are reserved the next one comes at once."""
    pool = Pool("v6", _network("fd00::/72"), 122)
    ranges = tuple(ipaddress.IPv6Network("fd00::/72").subnets(new_prefix=73))
    reserved = Reservation("r", (ranges[0], *islice(ranges[1].subnets(new_prefix=122), 500)))
    view = replace(View("n1").with_pools([pool]), reservations=(reserved,))
    block = next(iter(plan_assign(view, AssignRequest("a", "w", "d", "i", (6,)), now=NOW).writes))
    assert block.version == 6
    assert not any(block[0] in each for each in reserved.cidrs)
    everything = replace(view, reservations=(Reservation("r", ranges),))
    with pytest.raises(PoolExhausted, match="all of it is reserved"):
        plan_assign(everything.with_summaries(()), AssignRequest("a", "w", "d", "i", (6,)), now=NOW)


def test_a_summary_of_a_size_that_no_block_has_is_refused() -> None:
    """No record makes a whole pool taken."""
    with pytest.raises(InvalidBlock, match=r"0\.0\.0\.0/0"):
        BlockSummary(_network("0.0.0.0/0"), None, 0.0, 0)


def test_what_cannot_be_read_stays_taken_when_all_blocks_are_listed() -> None:
    """A block whose record and summary are both broken is not claimed over; read again, it counts as it then is."""
    broken = _network("10.0.0.6/31")
    view = View("n1").with_pools([POOL]).with_unreadable([broken]).with_summaries([])
    assert broken in view.unreadable
    assert broken not in list(POOL.candidates("n1", view.existing(POOL)))
    assert view.with_blocks({broken: None}).existing(POOL) == frozenset()


def test_the_list_of_all_blocks_tells_of_a_new_pool_too() -> None:
    """A pool that was created over what an earlier one left behind does not claim over it."""
    view = View("n1").with_summaries([BlockSummary(_network("10.0.0.0/30"), "n2", 0.0, 1)]).with_pools([POOL])
    assert view.existing(POOL) == {0, 1}


def test_a_copied_block_knows_its_own_holders() -> None:
    """Whichever way a block came about, its handles are those of its holders."""
    block = _block("10.0.0.0/31", "n1", 0)
    assert block.ordinals_of_handle("10.0.0.0/31-0") == (0,)
    other = replace(block, holders={1: Holder("b", "n1", "w", "d", "i", 0.0)}, free=(0,))
    assert (other.ordinals_of_handle("10.0.0.0/31-0"), other.ordinals_of_handle("b")) == ((), (1,))

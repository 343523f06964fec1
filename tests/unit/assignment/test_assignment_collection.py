"""What a node gives back by itself, decided: never too soon, never what is in use, never half a handle."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.assignment.collection import (
    EmptyBlock,
    HandleAddresses,
    Moment,
    held_by_handle,
    leaked,
    unneeded,
)
from ipam.block import Block, Holder, Rest
from ipam.pool import AssignmentMode, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.assignment.collection import Finding
    from ipam.address import IPAddress

GRACE = 900.0
DAY = 1_700_000_000.0
V4, V6 = ip_address("10.0.0.0"), ip_address("fd00::")
LINK, OTHER_LINK = "tor000000000001", "tor000000000002"


def holder(handle: str = "h1", *, link: str = LINK, node: str = "n1", created_at: float = DAY) -> Holder:
    """Return a holder's attributes."""
    return Holder(handle, node, "web", "shop", link, created_at)


def block(cidr: str = "10.0.0.0/30", *holders: Holder, node: str | None = "n1", at: float = 1.0) -> Block:
    """Return a block in which these hold the first addresses."""
    made = Block.claimed(ip_network(cidr), node=node, at=at)
    for each in holders:
        made, _ = made.assign(each)
    return made


def dual_stack(v4: Holder, v6: Holder) -> tuple[HandleAddresses, ...]:
    """Return what is held in an IPv4 and an IPv6 block with one address each."""
    return held_by_handle([block("fd00::/126", v6), block("10.0.0.0/30", v4)], "n1")


def look(
    holders: tuple[HandleAddresses, ...],
    wired: Mapping[str, tuple[IPAddress, ...]],
    since: Mapping[HandleAddresses, float] | None = None,
    *,
    at: float,
    epoch: float = DAY + 10 * GRACE,
) -> Finding[HandleAddresses]:
    """Decide at a monotonic time, by default long after everything was assigned."""
    return leaked(holders, wired, since or {}, now=Moment(epoch, at), grace_seconds=GRACE)


# ------------------------------------------------------------------------------------------------------------- handles


def test_a_handle_is_everything_its_workload_holds_on_the_node() -> None:
    """Whatever blocks it lies in, IPv4 first, each with the sequence of its assignment; others' are not among it."""
    own = block("10.0.0.0/30", holder("h2"), holder("h1"))
    borrowed = block("fd00::/126", holder("h1"), holder("h3", node="n2"), node="n2")
    handles = held_by_handle([borrowed, own], "n1")
    assert [(each.handle, each.addresses) for each in handles] == [("h1", (V4 + 1, V6)), ("h2", (V4,))]
    assert [each.sequence for each in handles[0].held] == [own.sequence, borrowed.sequence - 1]
    assert handles[0].links == (LINK,)


def test_an_assignment_anew_is_another_suspect() -> None:
    """The same handle, address and attributes; its time begins anew."""
    first = block("10.0.0.0/32", holder())
    second, _ = first.release([0]).assign(holder())
    assert held_by_handle([first], "n1") != held_by_handle([second], "n1")


# --------------------------------------------------------------------------------------------------------------- leaks


def test_a_workload_that_is_there_is_no_suspect() -> None:
    """However old it is."""
    handles = held_by_handle([block("10.0.0.0/30", holder())], "n1")
    finding = look(handles, {LINK: (V4,)}, {handles[0]: 0.0}, at=10 * GRACE)
    assert (finding.due, finding.since, finding.due_at) == ((), {}, None)


@pytest.mark.parametrize(("age", "due"), [(0.0, False), (GRACE - 1, False), (GRACE, True), (10 * GRACE, True)])
def test_a_missing_link_is_collected_after_the_grace_period(age: float, *, due: bool) -> None:
    """Counted from when it was first seen missing; before that the time is told."""
    handles = held_by_handle([block("10.0.0.0/30", holder())], "n1")
    finding = look(handles, {}, {handles[0]: 50.0}, at=50.0 + age)
    assert finding.due == (handles if due else ())
    assert finding.since == {handles[0]: 50.0}
    assert finding.due_at == (None if due else 50.0 + GRACE)


def test_what_was_seen_missing_by_nobody_begins_now() -> None:
    """An agent that has just started, after a reboot or an update, waits for the whole grace period."""
    handles = held_by_handle([block("10.0.0.0/30", holder())], "n1")
    finding = look(handles, {}, at=70.0)
    assert (finding.due, finding.since, finding.due_at) == ((), {handles[0]: 70.0}, 70.0 + GRACE)


def test_a_link_that_came_back_clears_the_suspicion() -> None:
    """When it is missing again its time begins anew."""
    handles = held_by_handle([block("10.0.0.0/30", holder())], "n1")
    first = look(handles, {}, at=0.0)
    back = look(handles, {LINK: (V4,)}, first.since, at=GRACE - 1)
    again = look(handles, {}, back.since, at=GRACE)
    assert (again.due, again.since) == ((), {handles[0]: GRACE})


def test_nothing_is_collected_within_the_grace_period_after_its_assignment() -> None:
    """Even if, against all sense, it was seen missing before: its ADD may be on its way."""
    handles = held_by_handle([block("10.0.0.0/30", holder(created_at=DAY))], "n1")
    early = look(handles, {}, {handles[0]: 0.0}, at=2 * GRACE, epoch=DAY + GRACE - 5)
    assert (early.due, early.due_at) == ((), 2 * GRACE + 5)
    assert look(handles, {}, {handles[0]: 0.0}, at=2 * GRACE, epoch=DAY + GRACE).due == handles


def test_the_youngest_address_of_a_handle_counts() -> None:
    """An IPv6 address that was added later protects the IPv4 address too."""
    handles = dual_stack(holder(created_at=DAY), holder(created_at=DAY + 60))
    assert look(handles, {}, {handles[0]: 0.0}, at=2 * GRACE, epoch=DAY + GRACE + 59).due == ()
    assert look(handles, {}, {handles[0]: 0.0}, at=2 * GRACE, epoch=DAY + GRACE + 60).due == handles


def test_a_clock_that_is_set_forward_collects_nothing() -> None:
    """As many hosts do right after they have booted."""
    handles = held_by_handle([block("10.0.0.0/30", holder())], "n1")
    assert look(handles, {}, {handles[0]: 0.0}, at=1.0, epoch=DAY + 1000 * GRACE).due == ()


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    """What seems to be assigned in the future is collected once it was seen missing for the grace period."""
    handles = held_by_handle([block("10.0.0.0/30", holder(created_at=DAY + 1000 * GRACE))], "n1")
    assert look(handles, {}, {handles[0]: 0.0}, at=GRACE - 1, epoch=DAY).due == ()
    assert look(handles, {}, {handles[0]: 0.0}, at=GRACE, epoch=DAY).due == handles


@pytest.mark.parametrize("there", [LINK, OTHER_LINK])
def test_a_handle_of_which_one_link_is_there_is_left_as_a_whole(there: str) -> None:
    """All of it or none."""
    handles = dual_stack(holder(link=LINK), holder(link=OTHER_LINK))
    assert look(handles, {there: ()}, {handles[0]: 0.0}, at=GRACE).due == ()
    assert look(handles, {}, {handles[0]: 0.0}, at=GRACE).due == handles


@pytest.mark.parametrize("address", [V4, V6])
def test_an_address_that_another_link_has_is_left(address: IPAddress) -> None:
    """It is in use, whatever the records say; and its handle stays whole."""
    handles = dual_stack(holder(), holder())
    assert look(handles, {OTHER_LINK: (address,)}, {handles[0]: 0.0}, at=GRACE).due == ()


def test_a_holder_that_never_had_a_link_is_left() -> None:
    """Nothing can be missing of it."""
    handles = held_by_handle([block("10.0.0.0/30", holder(link=""))], "n1")
    assert look(handles, {}, {handles[0]: 0.0}, at=10 * GRACE).due == ()


def test_after_a_reboot_every_assignment_is_a_candidate() -> None:
    """All links are gone; after the grace period all assignments are, also those in blocks of other nodes."""
    blocks = [
        block("10.0.0.0/26", *(holder(f"h{number}", link=f"tor{number:012x}") for number in range(40))),
        block("10.0.1.0/30", holder("h90", link="tor90"), holder("foreign", node="n2"), node="n2"),
    ]
    handles = held_by_handle(blocks, "n1")
    first = look(handles, {}, at=5.0)
    assert first.due == ()
    assert len(first.since) == 41
    assert look(handles, {}, first.since, at=5.0 + GRACE).due == handles


def test_only_what_has_come_due_is_collected() -> None:
    """And the next time is that of the earliest of the others."""
    blocks = [block("10.0.0.0/30", *(holder(f"h{number}") for number in range(3)))]
    first, second, third = held_by_handle(blocks, "n1")
    finding = look((first, second, third), {}, {first: 0.0, second: 40.0, third: 20.0}, at=GRACE)
    assert (finding.due, finding.due_at) == ((first,), GRACE + 20.0)


def test_what_is_held_no_more_is_forgotten() -> None:
    """The memory holds suspects only."""
    handles = held_by_handle([block("10.0.0.0/30", holder())], "n1")
    assert look((), {}, {handles[0]: 0.0}, at=GRACE).since == {}


@given(
    steps=st.lists(st.tuples(st.integers(0, 600), st.booleans()), min_size=1, max_size=20),
    created=st.integers(-2000, 2000),
)
def test_what_is_collected_was_missing_at_every_look_of_the_grace_period(
    steps: list[tuple[int, bool]], created: int
) -> None:
    """However often and whenever it was looked, and whenever it was assigned."""
    handles = held_by_handle([block("10.0.0.0/30", holder(created_at=DAY + created))], "n1")
    since: Mapping[HandleAddresses, float] = {}
    times = itertools.accumulate(pause for pause, _ in steps)
    missing_from: float | None = None
    for time, (_, there) in zip(times, steps, strict=True):
        missing_from = None if there else time if missing_from is None else missing_from
        finding = look(handles, {LINK: (V4,)} if there else {}, since, at=float(time), epoch=DAY + time)
        since = finding.since
        assigned_lately = 0 <= time - created < GRACE
        expected = missing_from is not None and time - missing_from >= GRACE and not assigned_lately
        assert finding.due == (handles if expected else ())


# -------------------------------------------------------------------------------------------------------------- blocks


POOLS = (
    Pool("v4", ip_network("10.0.0.0/16"), 26),
    Pool("v6", ip_network("fd00::/112"), 122),
)
OLD, MIDDLE, NEW = (block(f"10.0.{number}.0/26", at=float(number)) for number in range(3))
USED = block("10.0.9.0/26", holder(), at=9.0)


def suspect(of: Block) -> EmptyBlock:
    """Return the block as a suspect."""
    return EmptyBlock(of.cidr, of.sequence)


def give_back(
    *blocks: Block,
    at: float = GRACE,
    pools: tuple[Pool, ...] = POOLS,
    since: Mapping[EmptyBlock, float] | None = None,
    claims: bool = True,
) -> Finding[EmptyBlock]:
    """Decide, by default when every block has just been empty for the grace period."""
    seen = {suspect(each): 0.0 for each in blocks} if since is None else since
    now = Moment(DAY, at)
    return unneeded(blocks, pools, {"rack": "a"}, seen, now=now, grace_seconds=GRACE, claims=claims)


def test_all_but_the_oldest_empty_block_are_returned_newest_first() -> None:
    """Those in use do not count; nothing is left to come due."""
    finding = give_back(OLD, MIDDLE, NEW, USED)
    assert finding.due == (suspect(NEW), suspect(MIDDLE))
    assert finding.since.keys() == {suspect(OLD), suspect(MIDDLE), suspect(NEW)}
    assert finding.due_at is None


def test_a_single_empty_block_is_kept() -> None:
    """The next workload needs it; it never comes due."""
    finding = give_back(OLD, USED, at=10 * GRACE)
    assert (finding.due, finding.due_at) == ((), None)


def test_each_ip_version_keeps_one() -> None:
    """An empty IPv6 block is of no use to an IPv4 workload."""
    v6_old, v6_new = block("fd00::/122", at=1.0), block("fd00::40/122", at=2.0)
    assert give_back(OLD, v6_old, v6_new, NEW).due == (suspect(NEW), suspect(v6_new))


def test_a_block_is_returned_only_after_its_own_grace_period() -> None:
    """The others may be empty for long."""
    seen = {suspect(OLD): 0.0, suspect(MIDDLE): 30.0, suspect(NEW): 0.0}
    finding = give_back(OLD, MIDDLE, NEW, since=seen)
    assert (finding.due, finding.due_at) == ((suspect(NEW),), GRACE + 30.0)


def test_a_block_seen_empty_for_the_first_time_begins_now() -> None:
    """An agent that has just started returns nothing."""
    finding = give_back(OLD, NEW, since={}, at=70.0)
    assert (finding.due, finding.due_at) == ((), 70.0 + GRACE)
    assert finding.since == {suspect(OLD): 70.0, suspect(NEW): 70.0}


def test_a_block_that_was_used_meanwhile_begins_anew() -> None:
    """Though it was empty at both looks."""
    used, address = NEW.assign(holder())
    used_and_left = used.release([used.ordinal_of(address)])
    finding = give_back(OLD, used_and_left, since={suspect(OLD): 0.0, suspect(NEW): 0.0})
    assert (finding.due, finding.since[suspect(used_and_left)]) == ((), GRACE)


def test_a_block_whose_addresses_rest_is_not_empty() -> None:
    """It is from the moment on at which the last has rested."""
    used, _ = NEW.assign(holder())
    resting = used.release([0], {0: Rest(DAY + 1)})
    assert give_back(OLD, resting).since.keys() == {suspect(OLD)}
    rested = replace(resting, resting={0: Rest(DAY)})
    assert give_back(OLD, rested).due == (suspect(rested),)


@pytest.mark.parametrize(
    "pools",
    [
        (),
        (POOLS[1],),
        (replace(POOLS[0], disabled=True),),
        (replace(POOLS[0], node_selector="rack == 'b'"),),
        (replace(POOLS[0], cidr=ip_network("10.9.0.0/16")),),
        (replace(POOLS[0], block_prefix_length=28),),
    ],
)
def test_the_last_block_of_a_pool_that_serves_the_node_no_more_is_returned_too(pools: tuple[Pool, ...]) -> None:
    """Gone, disabled, for other nodes or of other blocks; but not before the grace period."""
    assert give_back(OLD, pools=pools).due == (suspect(OLD),)
    assert give_back(OLD, pools=pools, at=GRACE - 1).due == ()
    assert give_back(OLD, NEW, pools=pools, claims=False).due == (suspect(NEW), suspect(OLD))


@pytest.mark.parametrize(
    "pool",
    [
        POOLS[0],
        replace(POOLS[0], node_selector="rack == 'a'"),
        replace(POOLS[0], assignment=AssignmentMode.MANUAL),
    ],
)
def test_a_pool_that_serves_the_node_keeps_one(pool: Pool) -> None:
    """Also one that is taken from by name only."""
    assert give_back(OLD, NEW, pools=(pool,)).due == (suspect(NEW),)


def test_the_kept_block_is_one_of_a_pool_that_serves_the_node() -> None:
    """An older one of a pool that does not is of no use."""
    other = Pool("gone", ip_network("10.0.0.0/24"), 26, disabled=True)
    rest = Pool("rest", ip_network("10.0.1.0/24"), 26)
    assert give_back(OLD, MIDDLE, pools=(other, rest)).due == (suspect(OLD),)


def test_a_node_that_claims_no_blocks_by_itself_keeps_all_it_has() -> None:
    """It could not get another."""
    assert give_back(OLD, MIDDLE, NEW, claims=False).due == ()


@given(
    empty_for=st.lists(st.tuples(st.integers(0, 2000), st.booleans()), max_size=8),
)
def test_one_empty_block_stays_and_none_is_returned_too_soon(empty_for: list[tuple[int, bool]]) -> None:
    """Whatever is in use and however long the rest is empty."""
    blocks = [
        block(f"10.0.{number}.0/26", *([holder()] if used else []), at=float(number))
        for number, (_, used) in enumerate(empty_for)
    ]
    seen = {suspect(each): 5000.0 - age for each, (age, used) in zip(blocks, empty_for, strict=True) if not used}
    finding = give_back(*blocks, since=seen, at=5000.0)
    assert all(5000.0 - seen[each] >= GRACE for each in finding.due)
    assert len(finding.due) < max(len(seen), 1)
    assert not seen or next(iter(seen)) not in finding.due

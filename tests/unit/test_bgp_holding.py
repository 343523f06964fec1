"""What is kept of a session: everything, as long as it is not too much; of the rest a count."""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from bgp.holding import Holding

MOST = 12
#: What a prefix is announced with: a name, and how much that weighs.
What: TypeAlias = tuple[str, int]

parts = st.lists(st.sampled_from([bytes([16, 10, number]) for number in range(20)]), max_size=8, unique=True)
versions = st.sampled_from([4, 6])
puts = st.tuples(versions, parts, st.tuples(st.sampled_from("ab"), st.sampled_from([0, 0, 3])))
drops = st.tuples(versions, parts)


def holding(most: int = MOST) -> Holding[What]:
    """Return one that holds nothing."""
    return Holding(lambda what: what[1], most)


def held(known: Holding[What]) -> dict[tuple[int, bytes], What]:
    """Return what is held of each prefix."""
    return {(version, part): what for version, what, found in known.alike() for part in found}


@given(st.lists(st.one_of(puts, drops), max_size=40))
def test_a_session_is_held_within_its_bound_and_nothing_is_held_that_was_said_to_be_left_out(
    changes: list[tuple[int, list[bytes], What] | tuple[int, list[bytes]]],
) -> None:
    """Whatever is announced and withdrawn, with whatever weight; what is left out had no room."""
    known, left_out = holding(), 0
    right: dict[tuple[int, bytes], What] = {}
    for version, members, *rest in changes:
        if rest:
            what = (rest[0][0], rest[0][1])  # an object of its own, as each row has
            new = [part for part in members if (version, part) not in right]
            had = len(right) + sum({id(each): each[1] for each in right.values()}.values())
            beyond = known.put(version, members, what)
            left_out += len(beyond)
            assert not beyond or had + len(new) + what[1] > MOST
            right |= {(version, part): what for part in members}
        else:
            known.drop(version, members)
            beyond = tuple(members)
        right = {key: what for key, what in right.items() if key[0] != version or key[1] not in beyond}
        assert held(known) == right
        weights = {id(what): what[1] for what in right.values()}
        assert len(right) + sum(weights.values()) <= MOST
        assert known.left_out == left_out


@given(st.lists(drops, max_size=40))
def test_what_comes_and_goes_is_never_left_out(changes: list[tuple[int, list[bytes]]]) -> None:
    """However often it is announced anew, if there is room for it once more while it is."""
    known = holding(20)
    for version, members in changes:
        for _ in range(3):
            assert known.put(version, members, ("a", 1)) == ()
        known.drop(version, members)
    assert held(known) == {}


def test_a_flood_takes_nothing_away_that_was_there_before() -> None:
    """What is known may change when there is room for nothing new, unless it grows."""
    known = holding(3)
    first, second, third, fourth = (bytes([16, 10, number]) for number in range(4))
    assert known.put(4, [first, second, third], ("a", 0)) == ()
    assert known.put(4, [third, fourth], ("b", 0)) == (fourth,)
    assert held(known) == {(4, first): ("a", 0), (4, second): ("a", 0), (4, third): ("b", 0)}
    assert known.put(4, [second], ("c", 1)) == (second,)
    assert set(held(known)) == {(4, first), (4, third)}
    assert known.left_out == 2


def test_what_is_announced_again_takes_no_room_and_what_is_left_out_again_counts_again() -> None:
    """So that all the room there is can be had, however often routes change."""
    known = holding(1000)
    everything = [bytes([24, 10, number // 256, number % 256]) for number in range(1001)]
    for at in range(0, 1000, 100):
        for part in everything[:at]:
            assert known.put(4, [part], ("a", 0)) == ()
        assert known.put(4, everything[at : at + 100], ("b", 0)) == ()
    for _ in range(2):
        assert known.put(4, everything[1000:], ("a", 0)) == (everything[1000],)
    assert (len(held(known)), known.left_out) == (1000, 2)

"""The checker of histories: what it must find, and what it must let pass."""

from __future__ import annotations

import io
import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.ports import ABSENT, Put
from ipam.block import Block, Holder
from ipam.pool import Pool
from tests.cluster.audit import audit, held_in
from tests.cluster.checker import Fault, check
from tests.cluster.history import Commit, CommitOutcome, History, Kind, Operation, Outcome, Recorder, read_history

if TYPE_CHECKING:
    from ipam.address import IPAddress

ONE = ipaddress.ip_address("10.0.0.1")
TWO = ipaddress.ip_address("10.0.0.2")
SIX = ipaddress.ip_address("fd00::1")


def _assign(handle: str, at: float, *addresses: IPAddress, outcome: Outcome = Outcome.DONE) -> Operation:
    versions = tuple(address.version for address in addresses) or (4,)
    given = addresses if outcome is Outcome.DONE else ()
    return Operation("node", Kind.ASSIGN, handle, at, at + 1, outcome, versions, (), given)


def _release(handle: str, at: float, *addresses: IPAddress, outcome: Outcome = Outcome.DONE) -> Operation:
    return Operation("node", Kind.RELEASE, handle, at, at + 1, outcome, addresses=addresses)


def _faults(*operations: Operation, held: dict[IPAddress, str], commits: tuple[Commit, ...] = ()) -> set[Fault]:
    return {finding.fault for finding in check(History(operations, commits), held)}


def test_what_was_acknowledged_and_is_there_is_right() -> None:
    """A run in which everything is answered and the store agrees has no finding."""
    operations = (
        _assign("a", 0, ONE, SIX),
        _release("a", 2, ONE, SIX),
        _assign("b", 4, ONE),
        _assign("b", 6, ONE, SIX),
    )

    assert _faults(*operations, held={ONE: "b", SIX: "b"}) == set()


def test_an_address_held_under_two_handles_is_found() -> None:
    """An address acknowledged to one handle before another one asked for its release is a duplicate."""
    operations = (_assign("a", 0, ONE), _assign("b", 2, ONE), _release("a", 4, ONE))

    assert _faults(*operations, held={ONE: "b"}) == {Fault.DUPLICATE}


def test_a_short_holding_inside_a_long_one_is_found() -> None:
    """A duplicate counts also when it was over before the first holder's end, and a third one comes later."""
    operations = (
        _assign("a", 0, ONE),
        _assign("b", 2, TWO),
        _release("b", 4, TWO),
        _assign("c", 6, ONE),
        _release("c", 8, ONE),
        _release("a", 10, ONE),
    )

    assert _faults(*operations, held={}) == {Fault.DUPLICATE}


def test_an_address_given_on_while_its_release_is_under_way_is_right() -> None:
    """From the invocation of its release on, an address may be somebody else's."""
    release = replace(_release("a", 2, ONE), completed=9.0)

    assert _faults(_assign("a", 0, ONE), release, _assign("b", 3, ONE), held={ONE: "b"}) == set()


def test_an_acknowledged_assignment_missing_at_the_end_is_found() -> None:
    """What was acknowledged and never released must be in the store."""
    assert _faults(_assign("a", 0, ONE, SIX), held={ONE: "a"}) == {Fault.LOST}


def test_an_assignment_that_became_another_one_is_found() -> None:
    """Asked again, a handle has what it had."""
    assert _faults(_assign("a", 0, ONE), _assign("a", 2, TWO), held={ONE: "a", TWO: "a"}) == {Fault.LOST}


def test_a_release_that_finds_nothing_of_what_was_acknowledged_is_found() -> None:
    """It was lost in between, unless a transaction of the agent was left unanswered meanwhile."""
    operations = (_assign("a", 0, ONE), _release("a", 2))
    unanswered = Commit("node", 2.5, CommitOutcome.UNKNOWN)

    assert _faults(*operations, held={}) == {Fault.LOST}
    assert _faults(*operations, held={}, commits=(replace(unanswered, at=1.5),)) == {Fault.LOST}
    assert _faults(*operations, held={}, commits=(replace(unanswered, agent="other"),)) == {Fault.LOST}
    assert _faults(*operations, held={}, commits=(unanswered,)) == set()


@pytest.mark.parametrize("handle", ["a", "nobody"])
def test_an_address_that_nobody_was_given_is_found(handle: str) -> None:
    """What the store holds at the end for a released handle, or one that never was, is a leak."""
    operations = (_assign("a", 0, ONE), _release("a", 2, ONE))

    assert _faults(*operations, held={ONE: handle}) == {Fault.LEAK}


def test_an_assignment_of_unknown_outcome_may_hold_or_not_until_its_release() -> None:
    """Both are right as long as a release settles it; none is right afterwards but nothing."""
    unknown = _assign("a", 0, ONE, outcome=Outcome.UNKNOWN)

    assert _faults(unknown, _release("a", 2), held={}) == set()
    assert _faults(unknown, _release("a", 2, ONE), held={}) == set()
    assert _faults(unknown, _release("a", 2), held={ONE: "a"}) == {Fault.LEAK}
    assert Fault.UNSETTLED in _faults(unknown, held={})
    assert _faults(unknown, _assign("a", 2, TWO), held={TWO: "a"}) == set()


def test_a_release_of_unknown_outcome_may_have_freed_or_not() -> None:
    """Another handle may have the address then, and this one may still be acknowledged the same."""
    unknown = _release("a", 2, outcome=Outcome.UNKNOWN)

    assert _faults(_assign("a", 0, ONE), unknown, _assign("a", 4, ONE), held={ONE: "a"}) == set()
    assert _faults(_assign("a", 0, ONE), unknown, _release("a", 4), _assign("b", 6, ONE), held={ONE: "b"}) == set()
    assert _faults(_assign("a", 0, ONE), unknown, _assign("a", 4, ONE), held={}) == {Fault.LOST}


def test_a_refusal_changes_nothing() -> None:
    """A refused handle holds nothing, and one that held something keeps it."""
    refused = _assign("a", 2, outcome=Outcome.REFUSED)

    assert _faults(refused, held={}) == set()
    assert _faults(_assign("a", 0, ONE), refused, held={ONE: "a"}) == set()
    assert _faults(_assign("a", 0, ONE), refused, held={}) == {Fault.LOST}


def test_an_answer_to_another_question_is_found() -> None:
    """An assignment gives one address of each version, and those that were asked for."""
    assert _faults(replace(_assign("a", 0, ONE), versions=(4, 6)), held={ONE: "a"}) == {Fault.ANSWER}
    assert _faults(replace(_assign("a", 0, ONE), asked=(TWO,)), held={ONE: "a"}) == {Fault.ANSWER}


def test_a_written_history_is_read_as_it_was() -> None:
    """Answered operations come back whole, and one that was never answered comes back as unknown."""
    stream = io.StringIO()
    recorder = Recorder(stream)
    assigned, released = _assign("a", 0, ONE), _release("a", 2)
    commit = Commit("node", 1.0, CommitOutcome.CONFLICT, claims=1, reclaims=2, borrows=3, returns=4)
    number = recorder.invoke(replace(assigned, asked=(ONE,)))
    recorder.invoke(released)
    recorder.commit(commit)
    recorder.complete(number, Outcome.DONE, [ONE])

    history = read_history([stream.getvalue().splitlines()])

    first, second = history.operations
    assert replace(first, completed=1.0) == replace(assigned, asked=(ONE,))
    assert second == Operation("node", Kind.RELEASE, "a", 2)
    assert history.commits == (commit,)


@pytest.fixture
def records() -> dict[str, bytes]:
    """Give the records of a block of `one` in which `two` holds an address, and of its pool."""
    pool = Pool("pool", ipaddress.ip_network("10.0.0.0/24"), 30)
    block, _ = Block.claimed(pool.block_at(0), node="one", at=1.0).assign(Holder("a", "two", "w", "n", "i", 1.0))
    operations = block_operations(None, block, version=ABSENT, writer="one")
    found = {operation.key: operation.value for operation in operations if isinstance(operation, Put)}
    return {**found, keys.pool("pool"): encode_pool(pool), keys.share_anchor("one"): b"{}"}


def test_records_that_agree_are_right(records: dict[str, bytes]) -> None:
    """A block with its summary and both share keys contradicts nothing."""
    assert audit(records) == []
    assert held_in(records) == {ipaddress.ip_address("10.0.0.0"): "a"}


@pytest.mark.parametrize("key", ["blocks/", "usage/", "share/one/own/", "share/two/held/", "cluster/pools/pool"])
def test_a_record_that_is_missing_is_found(records: dict[str, bytes], key: str) -> None:
    """Without any one of them, the others say what does not follow from the blocks."""
    left = {name: value for name, value in records.items() if not name.startswith(keys.ROOT + key)}

    assert len(left) == len(records) - 1
    assert {finding.fault for finding in audit(left)} == {Fault.STRUCTURE}


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("blocks/10.0.0.0-30", b'"free":[1,2,3]', b'"free":[1,2]'),
        ("blocks/10.0.0.0-30", b'"free":[1,2,3]', b'"free":[0,1,2,3]'),
        ("usage/10.0.0.0-30", b'"in_use":1', b'"in_use":0'),
        ("share/two/held/10.0.0.0-30", b'{"sequence":', b'{"sequence":9'),
    ],
)
def test_a_record_that_says_otherwise_is_found(
    records: dict[str, bytes], key: str, before: bytes, after: bytes
) -> None:
    """A lost or doubled ordinal, a wrong count and a share key from the future are contradictions."""
    wrong = records[keys.ROOT + key].replace(before, after)

    assert wrong != records[keys.ROOT + key]
    assert {finding.fault for finding in audit({**records, keys.ROOT + key: wrong})} == {Fault.STRUCTURE}


def test_blocks_that_overlap_are_found(records: dict[str, bytes]) -> None:
    """A block inside another one would give its addresses twice."""
    inner = Block.claimed(ipaddress.ip_network("10.0.0.0/31"), node="one", at=1.0)
    more = block_operations(None, inner, version=ABSENT, writer="one")
    both = {**records, **{operation.key: operation.value for operation in more if isinstance(operation, Put)}}

    assert any("overlap" in finding.text for finding in audit(both))

"""Blocks keep every ordinal exactly once, whatever is assigned and released."""

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, decode_share, encode_block, encode_share
from controller.errors import MalformedRecord
from controller.ports import Version
from controller.store.transaction import check_operations
from ipam.block import Block, Holder, Rest
from ipam.errors import InvalidBlock

CIDR = ipaddress.ip_network("10.1.2.64/29")


def _holder(handle: str, node: str = "n1") -> Holder:
    return Holder(handle, node, "web", "default", "tt0", 5.0)


def test_a_new_block_is_all_free() -> None:
    """A claimed block belongs to its node and lends every one of its addresses."""
    block = Block.claimed(CIDR, node="n1", at=3.0)
    assert (block.affinity, block.claimed_at, block.size, block.in_use) == ("n1", 3.0, 8, 0)
    assert list(block.assignments()) == []


def test_a_released_address_rests_as_long_as_possible() -> None:
    """Every other free address is assigned before one that was just released."""
    block = Block.claimed(CIDR, node="n1", at=3.0)
    block, first = block.assign(_holder("a"))
    block = block.release(block.ordinals_of_handle("a"))
    order = []
    for number in range(8):
        block, address = block.assign(_holder(f"h{number}"))
        order.append(address)
    assert len(set(order)) == 8
    assert order[-1] == first


def test_sequences_tell_every_change() -> None:
    """Each assignment and release moves the block's sequence and that of its ordinal, and no other."""
    block, _ = Block.claimed(CIDR, node="n1", at=3.0).assign(_holder("a"))
    block, _ = block.assign(_holder("b"))
    block = block.release((0,))
    assert block.sequence == 3003
    assert block.ordinal_sequence == {0: 3003, 1: 3002}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_no_ordinal_is_lost_and_the_record_says_all(steps: list[tuple[bool, int]]) -> None:
    """After any assignments and releases free and held make up the block, and its record reads back the same."""
    block = Block.claimed(CIDR, node="n1", at=3.0)
    for assigns, number in steps:
        if assigns and block.free:
            block, _ = block.assign(_holder(f"h{number}"))
        elif ordinals := block.ordinals_of_handle(f"h{number}"):
            block = block.release(ordinals)
    assert sorted([*block.free, *block.holders]) == list(range(8))
    assert decode_block(keys.block(CIDR), encode_block(block)) == block


@pytest.mark.parametrize("free", [(0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 4)])
def test_a_block_that_contradicts_itself_is_refused(free: tuple[int, ...]) -> None:
    """An ordinal that is missing, listed twice or out of range makes no block."""
    with pytest.raises(InvalidBlock, match=r"10\.0\.0\.0/30"):
        Block(ipaddress.ip_network("10.0.0.0/30"), None, 0.0, {}, free).check()


def test_a_block_of_a_forbidden_size_is_refused() -> None:
    """A block larger than any pool can be cut into is refused before its addresses are counted."""
    with pytest.raises(InvalidBlock, match="/20 to /32"):
        Block(ipaddress.ip_network("10.0.0.0/8"), None, 0.0, {}, ())


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"cidr":"10.1.2.64/29","holders":[],"free":[]}', b"\xff"])
def test_a_malformed_record_names_its_key(value: bytes) -> None:
    """Whatever stands in the store, decoding gives a block or says which key is to be repaired."""
    with pytest.raises(MalformedRecord, match=r"10\.1\.2\.64-29"):
        decode_block(keys.block(CIDR), value)


def test_a_record_under_the_wrong_key_is_malformed() -> None:
    """A block that was copied to another key is not taken for the block of that key."""
    value = encode_block(Block.claimed(CIDR, node="n1", at=3.0))
    with pytest.raises(MalformedRecord, match="it describes"):
        decode_block(keys.block(ipaddress.ip_network("10.1.2.72/29")), value)


def test_a_share_record_changes_with_its_block() -> None:
    """Telling a node of a changed block writes another value than before, so that its watch wakes."""
    block = Block.claimed(CIDR, node="n1", at=3.0)
    changed, _ = block.assign(_holder("a"))
    assert encode_share(block) != encode_share(changed)
    assert decode_share("k", encode_share(changed)) == changed.sequence


def test_two_of_the_largest_blocks_fit_into_one_transaction() -> None:
    """However full they are and however often lent, a workload of both IP versions can be written."""
    operations = []
    for cidr in (ipaddress.ip_network("10.0.0.0/20"), ipaddress.ip_network("fd00::/116")):
        used = {ordinal: 10**9 + ordinal for ordinal in range(4096)}
        block = Block(cidr, "n1", 5.0, {}, tuple(range(4096)), 2 * 10**9, used)
        while block.next_free(0.0) is not None:
            start = block.in_use
            lent = {number: _holder(f"cni/net/{number:064}/eth0", "node-1") for number in range(start, start + 25)}
            block = replace(block, holders={**block.holders, **lent}, free=block.free[25:])
        assert block.in_use > 256
        operations += block_operations(block, block, version=Version(1), writer="n1")
    check_operations(operations)


def test_a_block_whose_addresses_rest_stays_within_its_record() -> None:
    """What rests under long names takes room too, and what has rested takes none: the block lends again by itself."""
    cidr = ipaddress.ip_network("10.0.0.0/22")
    block = Block.claimed(cidr, node="n1", at=0.0)
    now, number = 0.0, 0
    while (ordinal := block.next_free(now)) is not None:
        holder = Holder(f"h{number}", "n1", "w" * 250, "d", "tt0", now, sticky=True)
        block, _ = block.assign(holder, ordinal)
        block = block.release((ordinal,), {ordinal: Rest(100.0, holder.full_name)})
        number += 1
    assert len(encode_block(block)) < 200_000
    assert 300 < len(block.resting) < 1024
    assert block.next_free(100.0) is not None
    assert not block.rested(100.0).resting
    block.rested(100.0).check()

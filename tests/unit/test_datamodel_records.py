"""Records of pools and nodes: what is written reads back, and whatever else lies there is malformed, never a crash."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest

from controller.datamodel import keys
from controller.datamodel.blocks import decode_share
from controller.datamodel.records import Node, decode_node, decode_pool, encode_node, encode_pool
from controller.errors import MalformedRecord
from ipam.pool import AssignmentMode, Pool

if TYPE_CHECKING:
    from collections.abc import Callable

NODE = Node("n1", 64512, ipaddress.IPv4Address("192.0.2.1"), None)
POOL = Pool("p1", ipaddress.ip_network("10.0.0.0/16"), 26, True, AssignmentMode.MANUAL, "all()", True, True)


def test_what_is_written_reads_back() -> None:
    """Every field survives."""
    assert decode_node(keys.node("n1"), encode_node(NODE)) == NODE
    assert decode_pool(keys.pool("p1"), encode_pool(POOL)) == POOL


@pytest.mark.parametrize(
    "decode",
    [lambda: decode_node(keys.node("n2"), encode_node(NODE)), lambda: decode_pool(keys.pool("p2"), encode_pool(POOL))],
)
def test_a_record_under_another_name_is_malformed(decode: Callable[[], object]) -> None:
    """A record copied by hand would otherwise be known under two names; the message has both."""
    with pytest.raises(MalformedRecord, match=r"2 in the store cannot be read: .*it describes .1, whose key is"):
        decode()


@pytest.mark.parametrize("value", [b'{"sequence": 1e999}', b"[" * 100_000])
def test_numbers_and_nesting_beyond_all_bounds_are_malformed(value: bytes) -> None:
    """What Python cannot hold is the record's fault and named as such."""
    with pytest.raises(MalformedRecord, match="tortie/v1/x"):
        decode_share("tortie/v1/x", value)

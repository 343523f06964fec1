"""What the workloads hold, remembered block by block."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from controller.agent.workloads import HeldBlocks
from controller.reconcile.desired import workload_route
from ipam.block import Block, Holder

OWN = Block.claimed(ip_network("10.0.0.0/30"), node="here", at=0.0)
THEIRS = Block.claimed(ip_network("10.0.0.4/30"), node="there", at=0.0)


def holder(number: int, node: str = "here") -> Holder:
    """Return the holder whose link has this number."""
    return Holder(f"handle{number}", node, "web", "", f"tor{number}", 0.0)


def test_held_borrowed_and_routed() -> None:
    """What is another node's is not held; what has no link is not routed; what lies in another's block is borrowed."""
    own, _ = OWN.assign(holder(1))
    own, _ = own.assign(holder(2))
    theirs, _ = THEIRS.assign(holder(3))
    theirs, _ = theirs.assign(holder(4, "there"))
    found = HeldBlocks("here").workloads([own, theirs], {"tor1": 11, "tor3": 13, "tor4": 14})
    assert found.held == {ip_network("10.0.0.0"), ip_network("10.0.0.1"), ip_network("10.0.0.4")}
    assert found.borrowed == (ip_network("10.0.0.4"),)
    routes = [workload_route(ip_address("10.0.0.0"), 11), workload_route(ip_address("10.0.0.4"), 13)]
    assert found.routes == {route.prefix: route for route in routes}


steps = st.tuples(st.sampled_from([0, 1]), st.sampled_from([None, 1, 2, 3]), st.sampled_from([None, 7, 8]))


@given(st.lists(steps, max_size=12))
def test_remembering_changes_nothing(changes: list[tuple[int, int | None, int | None]]) -> None:
    """However blocks and links change, who was asked before says what one says who never was."""
    blocks = [OWN, THEIRS]
    index_of: dict[str, int] = {}
    remembering = HeldBlocks("here")
    for which, number, index in changes:
        if number is None:
            blocks[which] = blocks[which].release(tuple(blocks[which].holders))
        elif blocks[which].free:
            blocks[which], _ = blocks[which].assign(holder(number))
        if number is not None and index is not None:
            index_of[f"tor{number}"] = index
        elif number is not None:
            index_of.pop(f"tor{number}", None)
        wanted = [block for block in blocks if block.holders]
        assert remembering.workloads(wanted, index_of) == HeldBlocks("here").workloads(wanted, index_of)

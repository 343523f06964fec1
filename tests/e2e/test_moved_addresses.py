"""An address that is borrowed, that moves, or whose block is nobody's any more is reached where it is, and soon.

A third host pings each address a hundred times a second, both families, from before the event. How long it took is
printed (`pytest -rP`); what is asserted is a deadline that a busy machine keeps too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from typing import TYPE_CHECKING

import pytest

from controller.assignment.transaction import block_operations
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.lab.lab import Lab
from controller.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import Flow

_DEADLINE_SECONDS = 5.0
#: Ordinals of a block far from those that are assigned first.
BORROWED, MOVED, ORPHANED, ADOPTED = 40, 41, 42, 43


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three dual-stack hosts with a workload each."""
    lab = Lab(f"mv{os.getpid()}")
    try:
        lab.up(nodes=3, workloads=1, dual_stack=True)
        yield lab
    finally:
        lab.down()


def addresses_of(lab: Lab, workload: str) -> tuple[str, ...]:
    """Return a workload's addresses, IPv4 first."""
    [found] = [each.addresses for each in lab.status().workloads if each.name == workload]
    return tuple(found)


def blocks_of(lab: Lab, host: str) -> list[str]:
    """Return the blocks in which the host's first workload is."""
    return [
        str(ipaddress.ip_network(f"{address}/{122 if ':' in address else 26}", strict=False))
        for address in addresses_of(lab, f"{host}w1")
    ]


def members(lab: Lab, host: str, ordinal: int) -> list[str]:
    """Return the addresses of this ordinal in the host's blocks."""
    return [str(ipaddress.ip_network(block)[ordinal]) for block in blocks_of(lab, host)]


def route(lab: Lab, host: str, prefix: str) -> str:
    """Return the host's route of ours for exactly this prefix, empty if there is none."""
    version = "-6" if ":" in prefix else "-4"
    return lab.run(host, ["ip", version, "route", "show", "proto", "116", "exact", prefix]).stdout.strip()


def via(lab: Lab, host: str, address: str) -> str:
    """Return the way a packet of this host to the address takes, as `ip` shows it."""
    return lab.run(host, ["ip", "route", "get", address]).stdout.strip()


def node_address(index: int, address: str) -> str:
    """Return the address of a host of the lab in the family of another address."""
    return f"2001:db8::{index}" if ":" in address else f"192.0.2.{index}"


class Clock:
    """Waits until flows are answered again after an event, and tells how long each took."""

    def __init__(self, wait_until: Callable[..., None]) -> None:
        self._wait_until = wait_until

    def measure(self, flows: list[Flow], what: str, since: float) -> None:
        """Print how long after `since` (seconds since the epoch) each flow was answered; fail if one is not in time."""
        self._wait_until(
            lambda: all(flow.seconds_until_answered(since) is not None for flow in flows),
            f"{what}: {', '.join(flow.name for flow in flows)}",
            seconds=_DEADLINE_SECONDS,
            every=0.01,
        )
        for flow in flows:
            print(f"{what}: {flow.name} answered after {1000 * (flow.seconds_until_answered(since) or 0):.0f} ms")  # noqa: T201  the measurement

    def measure_pauses(self, flows: list[Flow], what: str, since: float) -> None:
        """Print the longest time that each flow was not answered from `since` until it is again."""
        self.measure(flows, what, time.time())
        for flow in flows:
            print(f"{what}: {flow.name} paused {1000 * flow.longest_pause_seconds(since):.0f} ms at most")  # noqa: T201  the measurement


@pytest.fixture
def clock(wait_until: Callable[..., None]) -> Clock:
    """Return what measures."""
    return Clock(wait_until)


def test_a_borrowed_address_is_reachable_at_once(
    lab: Lab, clock: Clock, start_flow: Callable[..., Flow], wait_until: Callable[..., None]
) -> None:
    """The second host takes addresses out of the first one's blocks: its more specific routes win everywhere."""
    wanted = members(lab, "h1", BORROWED)
    flows = [start_flow(lab, source, address) for source in ("h3w1", "h1w1", "h3") for address in wanted]
    assert not any(flow.answers() for flow in flows)
    began = time.time()
    workload = lab.add_workload("h2", wanted)
    assert list(workload.addresses) == wanted
    clock.measure(flows, "borrowed", began)
    for address in wanted:
        # An answer may have come by way of the owner, before the third host knew.
        for host in ("h1", "h3"):
            wait_until(
                lambda host=host, address=address: node_address(2, address) in route(lab, host, address),
                "its own route leads to the borrower",
            )
    lab.remove_workload(workload.name)
    for address in wanted:
        wait_until(lambda address=address: not route(lab, "h1", address), "the owner's blackhole counts again")
        wait_until(lambda address=address: not route(lab, "h3", address), "the third host sends to the owner again")


def test_a_moved_address_is_reached_where_it_is_now(
    lab: Lab, clock: Clock, start_flow: Callable[..., Flow], wait_until: Callable[..., None]
) -> None:
    """It leaves its block's owner, and comes back: flows that go on all the time follow it both ways."""
    wanted = members(lab, "h1", MOVED)
    first = lab.add_workload("h1", wanted)
    flows = [start_flow(lab, source, address) for source in ("h3w1", "h2w1", "h1w1") for address in wanted]
    wait_until(lambda: all(flow.answers() for flow in flows), "answers before anything moves")
    began = time.time()
    lab.remove_workload(first.name)
    second = lab.add_workload("h2", wanted)
    clock.measure_pauses(flows, "moved away", began)
    for address in wanted:
        assert route(lab, "h1", address).split()[1:3] == ["via", node_address(2, address)]
        wait_until(
            lambda address=address: node_address(2, address) in via(lab, "h3", address), "the third host sends there"
        )
    began = time.time()
    lab.remove_workload(second.name)
    third = lab.add_workload("h1", wanted)
    clock.measure_pauses(flows, "moved back", began)
    for address in wanted:
        wait_until(lambda address=address: not route(lab, "h3", address), "the block's route is enough again")
        wait_until(lambda address=address: " dev tor" in route(lab, "h1", address), "the owner delivers it itself")
        wait_until(lambda address=address: not route(lab, "h2", address), "the former place has no route of its own")
    lab.remove_workload(third.name)


def test_an_address_outlives_the_owner_of_its_block(
    lab: Lab, clock: Clock, start_flow: Callable[..., Flow], wait_until: Callable[..., None]
) -> None:
    """The owner is deleted: who borrowed of it loses no packet, and others may take what is left of the block."""
    owner = lab.add_node(workloads=1)
    blocks = blocks_of(lab, owner)
    borrowed, free = members(lab, owner, ORPHANED), members(lab, owner, ADOPTED)
    holder = lab.add_workload("h2", borrowed)
    flows = [start_flow(lab, source, address) for source in ("h3w1", "h1w1") for address in borrowed]
    wait_until(lambda: all(len(flow.answers()) > 20 for flow in flows), "answers before the owner goes")
    since = {flow.name: flow.answers()[-1][1] for flow in flows}
    began = time.time()
    lab.remove_node(owner)
    for block in blocks:
        wait_until(lambda block=block: not route(lab, "h3", block), "the block is nobody's")
    clock.measure_pauses(flows, "owner deleted", began)
    assert {flow.name: [number for number in flow.lost() if number > since[flow.name]] for flow in flows} == {
        flow.name: [] for flow in flows
    }
    late = [start_flow(lab, "h3w1", address) for address in free]
    began = time.time()
    adopted = lab.add_workload("h1", free)
    clock.measure(late, "block of a deleted owner", began)
    for address in borrowed:
        assert node_address(2, address) in via(lab, "h3", address)
        assert node_address(2, address) in via(lab, "h1", address)
    lab.remove_workload(adopted.name)
    lab.remove_workload(holder.name)


def disown(lab: Lab, block: str) -> None:
    """Make the block nobody's, as a commit of another node would, with all its addresses in use."""

    async def commit() -> None:
        key = keys.block(ipaddress.ip_network(block))
        store = open_store(f"sqlite:{lab.layout().state / 'store.db'}")
        try:
            entry = (await store.get([key]))[key]
            before = decode_block(key, entry.value)
            await store.commit(block_operations(before, before.disown(), version=entry.version, writer=None))
        finally:
            await store.close()

    asyncio.run(commit())


def test_addresses_of_a_block_that_lost_its_affinity_are_announced_one_by_one(
    lab: Lab, clock: Clock, start_flow: Callable[..., Flow], wait_until: Callable[..., None]
) -> None:
    """The block's route gives way to those of the addresses in use, and the blackhole goes with it."""
    wanted, blocks = addresses_of(lab, "h1w1"), blocks_of(lab, "h1")
    flows = [start_flow(lab, source, address) for source in ("h3w1", "h2w1") for address in wanted]
    wait_until(lambda: all(len(flow.answers()) > 20 for flow in flows), "answers before the block is lost")
    began = time.time()
    for block in blocks:
        disown(lab, block)
    for block, address in zip(blocks, wanted, strict=True):
        for host in ("h2", "h3"):
            wait_until(lambda host=host, address=address: route(lab, host, address), "the address has a route")
            wait_until(lambda host=host, block=block: not route(lab, host, block), "the block has none")
        wait_until(lambda block=block: not route(lab, "h1", block), "no blackhole either")
        assert " dev tor" in route(lab, "h1", address)
    clock.measure_pauses(flows, "block lost its affinity", began)
    assert {flow.name: flow.lost() for flow in flows} == {flow.name: [] for flow in flows}
    wait_until(lambda: lab.ping().complete, "everybody reaches everybody")

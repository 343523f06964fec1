"""Each fault is found, by its kind and subject and nothing beside it, in a cluster of several nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_network
from typing import TYPE_CHECKING

from controller.assignment.assigner import Assigner
from controller.assignment.inventory import find_problems
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from ipam.pool import Pool
from ipam.problem import ProblemKind
from ipam.request import AssignRequest

if TYPE_CHECKING:
    import pytest

    from controller.ports import Entry
    from tests.unit.ipam_check.conftest import Cluster, Fault, Plant


async def test_a_healthy_cluster_has_no_problem(cluster: Cluster) -> None:
    """Dual stack, a borrowed address, a block without owner, a node that does not tell: all of it is in order."""
    findings = await cluster.find()
    assert findings.problems == ()
    assert findings.inventory.unchecked_nodes() == ("h3",)


async def test_a_fault_is_found_and_nothing_else(cluster: Cluster, fault: Fault) -> None:
    """One fault is told once (a leak for each of the workload's addresses), with what to do about it."""
    await fault.plant(cluster)
    problems = (await cluster.find()).problems
    expected = [fault.subject] if " (" in fault.subject else fault.subject.split()
    assert [(each.kind, str(each.subject), each.repairable) for each in problems] == [
        (fault.kind, subject, fault.repairable) for subject in expected
    ]
    assert all("; " in each.text for each in problems)


async def test_every_kind_has_a_fault(faults: tuple[Fault, ...]) -> None:
    """No kind is left that nothing plants."""
    assert {fault.kind for fault in faults} == set(ProblemKind)


async def test_twelve_faults_at_once_are_twelve_problems(cluster: Cluster, faults: tuple[Fault, ...]) -> None:
    """Faults do not hide each other, and no consequence of one is told as another."""
    kinds = (
        ProblemKind.UNASSIGNED,
        ProblemKind.USED_BY_ANOTHER,
        ProblemKind.WIRED_TWICE,
        ProblemKind.UNKNOWN_HOLDER,
        ProblemKind.OUTSIDE_POOLS,
        ProblemKind.WRONG_SIZE,
        ProblemKind.BLOCKS_OVERLAP,
        ProblemKind.UNKNOWN_OWNER,
        ProblemKind.UNUSED_BLOCK,
        ProblemKind.MISPLACED_BLOCK,
        ProblemKind.SHARE_WITHOUT_BLOCK,
        ProblemKind.SUMMARY_MISSING,
    )
    chosen = [next(fault for fault in faults if fault.kind is kind) for kind in kinds]
    for fault in chosen:
        await fault.plant(cluster)
    problems = (await cluster.find()).problems
    assert Counter((each.kind, str(each.subject)) for each in problems) == Counter(
        (fault.kind, fault.subject) for fault in chosen
    )


async def test_what_only_one_reading_shows_is_no_problem(
    cluster: Cluster, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is over when it is looked at again was somebody at work."""
    links = (await cluster.store.get([keys.endpoints("h1")]))[keys.endpoints("h1")]
    await plant(ProblemKind.LEAKED)(cluster)
    list_everything = cluster.store.list

    async def list_then_mend(prefix: str) -> dict[str, Entry]:
        found = await list_everything(prefix)
        await cluster.put(keys.endpoints("h1"), links.value)
        return found

    monkeypatch.setattr(cluster.store, "list", list_then_mend)
    assert (await cluster.find()).problems == ()


async def test_what_came_up_between_two_readings_is_left_to_the_next_check(
    cluster: Cluster, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both readings must show a problem, whichever of them shows it alone."""
    await plant(ProblemKind.UNUSED_BLOCK)(cluster)
    list_everything = cluster.store.list

    async def list_then_plant(prefix: str) -> dict[str, Entry]:
        found = await list_everything(prefix)
        await plant(ProblemKind.LEAKED)(cluster)
        return found

    monkeypatch.setattr(cluster.store, "list", list_then_plant)
    assert [problem.kind for problem in (await cluster.find()).problems] == [ProblemKind.UNUSED_BLOCK]


async def test_a_node_gets_the_time_to_tell_that_a_link_is_gone(
    cluster: Cluster, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workload that was just removed is no problem: its node is heard some seconds later."""
    before = (await cluster.store.get([keys.endpoints("h1")]))[keys.endpoints("h1")]
    await plant(ProblemKind.UNASSIGNED)(cluster)
    list_everything, readings = cluster.store.list, 0

    async def list_and_mend_at_third(prefix: str) -> dict[str, Entry]:
        nonlocal readings
        readings += 1
        if readings == 3:
            await cluster.put(keys.endpoints("h1"), before.value)
        return await list_everything(prefix)

    monkeypatch.setattr(cluster.store, "list", list_and_mend_at_third)
    found = await find_problems(cluster.store, lambda: cluster.now, settle_seconds=60.0, pause_seconds=0.01)
    assert found.problems == ()
    assert readings == 3


async def test_nodes_at_work_are_no_problem(cluster: Cluster) -> None:
    """While two nodes assign, borrow and release, every check finds everything in order."""
    small = Pool("small", ip_network("10.80.0.0/28"), 30)
    await cluster.put(keys.pool("small"), encode_pool(small))

    async def work(node: str) -> None:
        assigner = Assigner(cluster.store, node, lambda: cluster.now)
        await assigner.start()
        for number in range(20):
            handles = [f"{node}-{number}-{index}" for index in range(6)]
            requests = [AssignRequest(handle, "w", "n", "tor", (4,), ("small",)) for handle in handles]
            await asyncio.gather(*map(assigner.assign, requests))
            await asyncio.gather(*map(assigner.release, handles))
        await assigner.close()

    working = asyncio.gather(work("h1"), work("h2"))
    checks = 0
    try:
        while not working.done():
            assert (await cluster.find()).problems == ()
            checks += 1
        await working
    finally:
        working.cancel()
    assert checks > 20

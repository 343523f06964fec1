"""What can be repaired is repaired, nothing else is touched, and breaking off loses nothing."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.assignment.assigner import Assigner
from controller.assignment.repair import repair
from controller.datamodel import keys
from controller.datamodel.blocks import encode_block
from controller.datamodel.records import encode_configuration
from controller.errors import ConflictError, StoreUnavailable, TransientError
from ipam.block import Block, Holder
from ipam.configuration import IpamConfiguration
from ipam.problem import ProblemKind
from ipam.request import AssignRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.ports import Operation, Version
    from tests.unit.ipam_check.conftest import Cluster, Fault, Plant

H2_BLOCK_KEY = "tortie/v1/blocks/10.65.2.0-26"


async def test_a_repairable_fault_is_repaired(cluster: Cluster, repairable_fault: Fault) -> None:
    """Afterwards there is no problem, and only what was leaked is released."""
    before = await cluster.held()
    await repairable_fault.plant(cluster)
    await repair(cluster.store, (await cluster.find()).problems, lambda: cluster.now)
    assert (await cluster.find()).problems == ()
    gone = {address for address, _ in before - await cluster.held()}
    assert gone == ({"10.65.1.0", "fd00:65::"} if repairable_fault.kind is ProblemKind.LEAKED else set())


async def test_what_cannot_be_repaired_is_left_as_it_is(cluster: Cluster, fault: Fault) -> None:
    """A repair writes nothing because of a problem that needs a decision."""
    await fault.plant(cluster)
    before = await cluster.store.list(keys.ROOT)
    await repair(cluster.store, (await cluster.find()).problems, lambda: cluster.now)
    assert (await cluster.store.list(keys.ROOT) == before) is not fault.repairable


@pytest.mark.parametrize("applied", [False, True], ids=["before the commit", "after the commit"])
@pytest.mark.parametrize("survived", range(9))
async def test_a_repair_that_breaks_off_loses_nothing(
    cluster: Cluster, faults: tuple[Fault, ...], *, survived: int, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, only leaked addresses are gone, and the next repair finishes the work."""
    before = await cluster.held()
    for fault in faults:
        if fault.repairable:
            await fault.plant(cluster)
    findings = await cluster.find()
    commit, left = cluster.store.commit, survived

    async def fail_later(operations: Sequence[Operation]) -> dict[str, Version]:
        nonlocal left
        left -= 1
        if left >= 0:
            return await commit(operations)
        if applied:
            await commit(operations)
        raise StoreUnavailable("broken off")

    monkeypatch.setattr(cluster.store, "commit", fail_later)
    with pytest.raises(StoreUnavailable):
        await repair(cluster.store, findings.problems, lambda: cluster.now)
    monkeypatch.setattr(cluster.store, "commit", commit)
    leaked = {("10.65.1.0", "cni.tortie.1.eth0"), ("fd00:65::", "cni.tortie.1.eth0")}
    assert await cluster.held() >= before - leaked
    await repair(cluster.store, (await cluster.find()).problems, lambda: cluster.now)
    assert (await cluster.find()).problems == ()
    assert await cluster.held() == before - leaked


async def test_an_address_given_anew_meanwhile_is_not_released(cluster: Cluster, plant: Plant) -> None:
    """Handle and sequence of the report must still be those of the block."""
    await plant(ProblemKind.LEAKED)(cluster)
    findings = await cluster.find()
    held = next(each for each in findings.inventory.held() if str(each.address) == "10.65.1.0")
    block = await cluster.block(held.cidr)
    again, _ = block.release([0]).assign(held.holder, 0)
    await cluster.write(again)
    await repair(cluster.store, findings.problems, lambda: cluster.now)
    assert ("10.65.1.0", held.holder.handle) in await cluster.held()


async def test_an_address_wired_meanwhile_is_not_released(cluster: Cluster, plant: Plant) -> None:
    """A link that came back keeps its address."""
    await plant(ProblemKind.LEAKED)(cluster)
    findings = await cluster.find()
    await cluster.rewire("h1", {"tor000000000001": ("10.65.1.0", "fd00:65::")})
    before = await cluster.held()
    await repair(cluster.store, findings.problems, lambda: cluster.now)
    assert await cluster.held() == before


async def test_an_address_whose_add_is_repeated_meanwhile_is_not_released(cluster: Cluster, plant: Plant) -> None:
    """Its node has not told yet of the link that is being made."""
    await plant(ProblemKind.LEAKED)(cluster)
    findings = await cluster.find()
    before = await cluster.held()
    assigner = Assigner(cluster.store, "h1", lambda: cluster.now)
    await assigner.start()
    await assigner.assign(AssignRequest("cni.tortie.1.eth0", "w", "n", "tor000000000001", (4, 6), renew=True))
    await assigner.close()
    await repair(cluster.store, findings.problems, lambda: cluster.now)
    assert await cluster.held() == before
    assert (await cluster.find()).problems == ()


async def test_a_leak_in_a_block_that_overlaps_is_not_released(cluster: Cluster, plant: Plant) -> None:
    """Nothing of two overlapping blocks is touched before the operator has decided."""
    await plant(ProblemKind.LEAKED)(cluster)
    await cluster.write(Block.claimed(ip_network("10.65.1.32/27"), node="h2", at=0.0))
    await repair(cluster.store, (await cluster.find()).problems, lambda: cluster.now)
    left = {address for address, _ in await cluster.held()}
    assert "10.65.1.0" in left
    assert "fd00:65::" not in left  # the same workload's address in a block of its own


async def test_a_block_that_is_used_again_meanwhile_is_not_deleted(cluster: Cluster, plant: Plant) -> None:
    """An address was borrowed of it after the check."""
    await plant(ProblemKind.UNUSED_BLOCK)(cluster)
    problems = (await cluster.find()).problems
    block = await cluster.block(ip_network("10.65.22.0/26"))
    used, address = block.assign(Holder("new", "h1", "web", "shop", "tor9", cluster.now))
    await cluster.write(used)
    await repair(cluster.store, problems, lambda: cluster.now)
    assert (str(address), "new") in await cluster.held()


async def test_a_released_leak_rests_as_configured(cluster: Cluster, plant: Plant) -> None:
    """The cooldown applies to what an operator releases too."""
    await cluster.put(keys.IPAM_CONFIGURATION, encode_configuration(IpamConfiguration(cooldown_seconds=60)))
    await plant(ProblemKind.LEAKED)(cluster)
    findings = await cluster.find()
    cidr = next(each.cidr for each in findings.inventory.held() if str(each.address) == "10.65.1.0")
    await repair(cluster.store, findings.problems, lambda: cluster.now)
    assert (await cluster.block(cidr)).resting[0].until == cluster.now + 60


async def test_a_summary_follows_a_block_that_was_written_meanwhile(
    cluster: Cluster, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repair is guarded by the block's version and reads again."""
    await plant(ProblemKind.SUMMARY_WRONG)(cluster)
    findings = await cluster.find()
    commit = cluster.store.commit

    async def overtaken(operations: Sequence[Operation]) -> dict[str, Version]:
        monkeypatch.setattr(cluster.store, "commit", commit)
        taken = next(each for each in findings.inventory.held() if str(each.address) == "10.65.2.0")
        block, _ = (await cluster.block(taken.cidr)).assign(taken.holder)
        await cluster.put(H2_BLOCK_KEY, encode_block(block))
        return await commit(operations)

    monkeypatch.setattr(cluster.store, "commit", overtaken)
    await repair(cluster.store, findings.problems, lambda: cluster.now)
    assert {each.kind for each in (await cluster.find()).problems} == {
        ProblemKind.SEVERAL_ADDRESSES  # the other's assignment, of which nothing is lost
    }


async def test_a_repair_gives_up_when_it_is_overtaken_for_ever(
    cluster: Cluster, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which block, and that it can be tried again."""
    await plant(ProblemKind.LEAKED)(cluster)
    problems = (await cluster.find()).problems

    async def conflict(_operations: Sequence[Operation]) -> dict[str, Version]:
        raise ConflictError([H2_BLOCK_KEY])

    monkeypatch.setattr(cluster.store, "commit", conflict)
    with pytest.raises(TransientError, match=r"block 10\.65\.1\.0/26: 20 transactions .* try again"):
        await repair(cluster.store, problems, lambda: cluster.now)

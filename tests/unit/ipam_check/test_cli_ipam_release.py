"""`tortiectl ipam release`: what is released, refused and skipped, and by which words."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.assignment.operator_release import Outcome, release_address
from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.blocks import decode_share
from ipam.block import Block, Holder
from ipam.problem import ProblemKind
from ipam.request import ReleaseRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.ports import Operation, Version
    from tests.unit.ipam_check.conftest import Cluster, OnCluster, Plant

BORROWED = "10.65.2.2"  # held by a workload of h3, which does not tell what it has wired
WIRED = "10.65.1.0"


def held(on_cluster: OnCluster) -> dict[str, str]:
    """Return the handle of every held address."""
    return dict(on_cluster(lambda cluster: cluster.held()))


def test_an_address_is_released_and_its_holder_told(on_cluster: OnCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer says who held it, and that nobody could check whether it is still used."""
    assert run(["ipam", "release", f"--ip={BORROWED}"]) == 0
    assert capsys.readouterr().out == (
        "10.65.2.2 released; it was held by shop/web5 on node h3 (handle cni.tortie.5.eth0); "
        "that node does not tell whether it is still wired\n"
    )
    assert BORROWED not in held(on_cluster)
    assert run(["ipam", "check"]) == 0


def test_an_address_that_is_wired_is_refused_unless_forced(
    on_cluster: OnCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says where it is wired and how to go on."""
    assert run(["ipam", "release", f"--ip={WIRED}"]) == 1
    error = capsys.readouterr().err
    assert "is wired there at tor000000000001" in error
    assert "--force" in error
    assert WIRED in held(on_cluster)
    assert run(["ipam", "release", f"--ip={WIRED}", "--force"]) == 0
    assert WIRED not in held(on_cluster)


@pytest.mark.usefixtures("on_cluster")
@pytest.mark.parametrize("address", ["10.65.1.60", "192.0.2.9", "fd00:99::1"])
def test_an_address_that_nobody_holds_is_no_error(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a block or in none, the second release says the same as the first."""
    for _ in range(2):
        assert run(["ipam", "release", f"--ip={address}"]) == 0
        assert capsys.readouterr().out == f"{address} is not assigned\n"


def test_one_refused_address_does_not_keep_the_others(on_cluster: OnCluster) -> None:
    """Each is decided by itself, and the exit code tells of the refusal."""
    assert run(["ipam", "release", f"--ip={WIRED}", f"--ip={BORROWED}"]) == 1
    assert WIRED in held(on_cluster)
    assert BORROWED not in held(on_cluster)


@pytest.mark.usefixtures("on_cluster")
@pytest.mark.parametrize("arguments", [[], ["--ip=10.65.1.0", "--from-report=x"], ["--ip=10.65.1"]])
def test_misuse_is_exit_code_2(arguments: list[str]) -> None:
    """One of the two, and addresses that are addresses."""
    assert run(["ipam", "release", *arguments]) == 2


def test_a_report_releases_what_leaked_and_only_that(
    on_cluster: OnCluster, plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both addresses of the workload go, other problems are not touched, and a second time it is no error."""
    on_cluster(plant(ProblemKind.LEAKED, ProblemKind.USED_BY_ANOTHER))
    before = held(on_cluster)
    report = str(tmp_path / "report.json")
    run(["ipam", "check", "-o", report])
    assert run(["ipam", "release", f"--from-report={report}"]) == 0
    assert before.keys() - held(on_cluster).keys() == {"10.65.1.0", "fd00:65::"}
    capsys.readouterr()
    assert run(["ipam", "release", f"--from-report={report}"]) == 0
    assert capsys.readouterr().out == "10.65.1.0 is not assigned\nfd00:65:: is not assigned\n"


def test_an_old_report_releases_nothing_that_is_used_again(
    on_cluster: OnCluster, plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address given anew, even under the same handle, and one whose link came back are skipped, and it says why."""
    on_cluster(plant(ProblemKind.LEAKED))
    report = str(tmp_path / "report.json")
    run(["ipam", "check", "-o", report])

    async def give_anew(cluster: Cluster) -> None:
        cidr = next(each.cidr for each in (await cluster.find()).inventory.held() if str(each.address) == WIRED)
        block = await cluster.block(cidr)
        await cluster.write(block.release([0]).assign(block.holders[0], 0)[0])
        await cluster.rewire("h1", {"tor000000000001": ("10.65.1.0", "fd00:65::")})

    on_cluster(give_anew)
    before = held(on_cluster)
    capsys.readouterr()
    assert run(["ipam", "release", f"--from-report={report}"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("10.65.1.0 was given anew since the report, to shop/web1")
    assert second.endswith("is wired there at tor000000000001; skipped")
    assert held(on_cluster) == before


@pytest.mark.usefixtures("on_cluster")
@pytest.mark.parametrize("text", ["{", "[]", '{"problems":[{"kind":"leaked-address","subject":"x"}]}'])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says which file, and how to get one."""
    file = tmp_path / "report.json"
    file.write_text(text)
    assert run(["ipam", "release", f"--from-report={file}"]) == 1
    assert f"{file}: not a report of `tortiectl ipam check -o`" in capsys.readouterr().err


@pytest.mark.usefixtures("on_cluster")
def test_a_missing_report_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It says which file."""
    assert run(["ipam", "release", "--from-report=/nowhere/r.json"]) == 1
    assert "/nowhere/r.json: cannot be read: No such file" in capsys.readouterr().err


def test_a_block_that_cannot_be_read_is_left_alone(
    on_cluster: OnCluster, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record's key is named."""
    on_cluster(plant(ProblemKind.UNREADABLE_BLOCK))
    assert run(["ipam", "release", "--ip=10.65.9.0"]) == 1
    assert "record tortie/v1/blocks/10.65.9.0-26 in the store cannot be read" in capsys.readouterr().err


def test_an_address_that_two_blocks_give_is_refused(on_cluster: OnCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody can tell whose it is; both blocks are named."""

    async def give_twice(cluster: Cluster) -> None:
        inner = Block.claimed(ip_network("10.65.1.0/28"), node="h2", at=0.0)
        await cluster.write(inner.assign(Holder("other", "h2", "web", "shop", "tor9", 0.0))[0])

    on_cluster(give_twice)
    assert run(["ipam", "release", f"--ip={WIRED}", "--force"]) == 1
    error = capsys.readouterr().err
    assert "10.65.1.0/26" in error
    assert "10.65.1.0/28" in error
    assert WIRED in held(on_cluster)


async def test_owner_and_holder_are_told(cluster: Cluster) -> None:
    """Both agents keep the block in memory; their share keys wake them."""
    block = next(each for each in (await cluster.find()).inventory.held() if str(each.address) == "10.65.2.0")
    own_key, held_key = keys.owned("h2", block.cidr), keys.held("h3", block.cidr)
    request = ReleaseRequest(block.address)
    assert (await release_address(cluster.store, request, lambda: cluster.now, force=True)).outcome is Outcome.RELEASED
    sequence = (await cluster.block(block.cidr)).sequence
    shares = await cluster.store.get([own_key, held_key])
    assert decode_share(own_key, shares[own_key].value) == sequence
    assert held_key in shares  # h3 still holds another address of the block


async def test_a_release_that_is_overtaken_reads_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody gave another address of the block meanwhile; both changes are there afterwards."""
    found = {str(each.address): each for each in (await cluster.find()).inventory.held()}
    borrowed = found[BORROWED]
    commit = cluster.store.commit

    async def overtaken(operations: Sequence[Operation]) -> dict[str, Version]:
        monkeypatch.setattr(cluster.store, "commit", commit)
        block, _ = (await cluster.block(borrowed.cidr)).assign(found[WIRED].holder)
        await cluster.write(block)
        return await commit(operations)

    monkeypatch.setattr(cluster.store, "commit", overtaken)
    await release_address(cluster.store, ReleaseRequest(borrowed.address), lambda: cluster.now)
    after = await cluster.held()
    assert BORROWED not in dict(after)
    assert ("10.65.2.3", found[WIRED].holder.handle) in after

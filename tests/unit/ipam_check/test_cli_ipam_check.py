"""`tortiectl ipam check`: exit codes, the report, what is asked before a repair."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from controller.cli.ipam_check import REPAIRS, SECTIONS
from controller.cli.main import run
from ipam.problem import ProblemKind

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.ipam_check.conftest import Fault, OnCluster, Plant


@pytest.mark.usefixtures("on_cluster")
def test_nothing_wrong_is_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line is the one that scripts look for; a node that does not tell is named."""
    assert run(["ipam", "check"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\nCheck complete; found 0 problems.\n")
    assert "h3 does not tell what it has wired" in out


def test_a_problem_is_exit_code_1(on_cluster: OnCluster, plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    """Each section counts its own."""
    on_cluster(plant(ProblemKind.SUMMARY_MISSING, ProblemKind.UNKNOWN_OWNER))
    assert run(["ipam", "check"]) == 1
    out = capsys.readouterr().out
    assert "\nSummaries that differ from their blocks: 1\n" in out
    assert "\nBlocks of nodes that do not exist: 1\n" in out
    assert out.endswith("\nCheck complete; found 2 problems.\n")


def test_single_addresses_are_listed_when_asked_for(
    on_cluster: OnCluster, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    """There may be thousands; without the option they are counted, and the option is named."""
    on_cluster(plant(ProblemKind.LEAKED))
    run(["ipam", "check"])
    assert "10.65.1.0 is held by" not in (out := capsys.readouterr().out)
    assert "--show-problem-ips" in out
    run(["ipam", "check", "--show-problem-ips"])
    assert "10.65.1.0 is held by shop/web1 on node h1" in capsys.readouterr().out


@pytest.mark.usefixtures("on_cluster")
def test_every_address_is_listed_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Those assigned, and those wired with the link."""
    run(["ipam", "check", "--show-all-ips"])
    out = capsys.readouterr().out
    assert "  10.65.2.2: shop/web5 on h3, handle cni.tortie.5.eth0\n" in out
    assert "  10.65.1.1, fd00:65::1: tor000000000002 on h1, seen 1970-01-02T01:00:00Z\n" in out


def test_the_report_says_who_holds_what(on_cluster: OnCluster, plant: Plant, tmp_path: Path) -> None:
    """A release from it is guarded by handle and sequence."""
    on_cluster(plant(ProblemKind.LEAKED, ProblemKind.BLOCKS_OVERLAP))
    file = tmp_path / "report.json"
    assert run(["ipam", "check", "-o", str(file)]) == 1
    report = json.loads(file.read_text())
    assert report["uncheckedNodes"] == ["h3"]
    leak, _, overlap = report["problems"]
    assert (leak["kind"], leak["subject"], leak["handle"], leak["node"], leak["sequence"], leak["repairable"]) == (
        "leaked-address",
        "10.65.1.0",
        "cni.tortie.1.eth0",
        "h1",
        1_000_001,
        True,
    )
    assert (overlap["kind"], overlap["subject"], overlap["repairable"]) == ("blocks-overlap", "10.65.2.32/28", False)


@pytest.mark.usefixtures("on_cluster")
def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file and the reason are named."""
    assert run(["ipam", "check", "-o", str(tmp_path / "none" / "report.json")]) == 1
    assert "the report cannot be written: No such file or directory" in capsys.readouterr().err


def test_fix_shows_what_it_does_and_leaves(
    on_cluster: OnCluster, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left makes the exit code 1, and is listed again."""
    on_cluster(plant(ProblemKind.SUMMARY_MISSING, ProblemKind.BLOCKS_OVERLAP))
    assert run(["ipam", "check", "--fix", "--yes"]) == 1
    out = capsys.readouterr().out
    assert "\nTo be repaired: 1\n  write summary 10.65.1.0/26\n" in out
    assert "\nLeft to you: 1\n  block 10.65.2.32/28 of h3 lies in block 10.65.2.0/26 of h2" in out
    assert out.endswith("\nRepair complete; 1 problems are left.\n")


def test_fix_that_leaves_nothing_is_exit_code_0(
    on_cluster: OnCluster, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check afterwards finds nothing."""
    on_cluster(plant(ProblemKind.LEAKED, ProblemKind.SHARE_MISSING, ProblemKind.UNUSED_BLOCK))
    assert run(["ipam", "check", "--fix", "--yes"]) == 0
    assert capsys.readouterr().out.endswith("\nRepair complete; 0 problems are left.\n")
    assert run(["ipam", "check"]) == 0


def test_every_repairable_fault_has_a_repair_to_show(faults: tuple[Fault, ...]) -> None:
    """Nothing is repaired that was not announced."""
    assert {fault.kind for fault in faults if fault.repairable} == REPAIRS.keys()


def test_every_kind_is_counted_in_one_section() -> None:
    """The counts add up to the sum."""
    counted = [kind for _, kinds in SECTIONS for kind in kinds]
    assert sorted(counted, key=str) == sorted(ProblemKind, key=str)


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("y\n", 0)])
def test_fix_asks_first(
    on_cluster: OnCluster, plant: Plant, answer: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a yes nothing is changed."""
    on_cluster(plant(ProblemKind.SUMMARY_MISSING))
    monkeypatch.setattr("click.confirm", lambda _question: answer == "y\n")
    assert run(["ipam", "check", "--fix"]) == left
    assert run(["ipam", "check"]) == left

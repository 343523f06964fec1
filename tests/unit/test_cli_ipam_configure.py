"""`ipam configure`: only what is named changes, whoever else writes at the same moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from controller.cli.ipam_configure import configure
from controller.cli.main import run
from controller.cli.reading import read_configuration
from controller.datamodel import keys
from controller.datamodel.records import encode_configuration
from controller.errors import ConflictError, RefusedError
from controller.ports import Put
from controller.store.memory import MemoryStore
from controller.store.sqlite import SqliteStore
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.ports import Operation, Version


class ContestedStore(MemoryStore):
    """A store in which somebody else writes another configuration before each of these many transactions."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Write the other's configuration, then try these operations."""
        if self.left:
            self.left -= 1
            other = IpamConfiguration(max_blocks_per_node=100 + self.left)
            await super().commit([Put(keys.IPAM_CONFIGURATION, encode_configuration(other), None)])
        return await super().commit(operations)


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name an empty store in the environment, as an operator would."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    return path


def stored(path: Path) -> IpamConfiguration:
    """Return the configuration in the store."""

    async def read() -> IpamConfiguration:
        store = SqliteStore(path)
        try:
            return await read_configuration(store)
        finally:
            await store.close()

    return asyncio.run(read())


def test_only_what_is_named_changes(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two calls for two settings leave both set, and each says what it changed from what to what."""
    assert run(["ipam", "configure", "--cooldown-seconds=30"]) == 0
    assert run(["ipam", "configure", "--strict-affinity=true", "--cooldown-seconds=30"]) == 0
    assert capsys.readouterr().out == "cooldownSeconds: 0 -> 30\nstrictAffinity: false -> true\n"
    assert stored(store_path) == IpamConfiguration(strict_affinity=True, cooldown_seconds=30)


def test_every_setting_has_its_option(store_path: Path) -> None:
    """Nothing of the configuration is out of reach."""
    options = ["strict-affinity=yes", "auto-allocate-blocks=no", "max-blocks-per-node=3"]
    options += ["cooldown-seconds=4", "sticky-seconds=5", "grace-seconds=6"]
    assert run(["ipam", "configure", *(f"--{option}" for option in options)]) == 0
    assert stored(store_path) == IpamConfiguration(
        strict_affinity=True,
        auto_allocate_blocks=False,
        max_blocks_per_node=3,
        cooldown_seconds=4,
        sticky_seconds=5,
        grace_seconds=6,
    )


def test_what_is_so_already_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    """A script may say it twice."""
    assert run(["ipam", "configure", "--grace-seconds=900"]) == 0
    assert capsys.readouterr().out == "unchanged\n"


def test_a_dry_run_shows_and_writes_nothing(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator sees what would happen, and a script by the exit code: as with every other dry run."""
    assert run(["ipam", "configure", "--sticky-seconds=60", "--dry-run"]) == 1
    assert capsys.readouterr().out == "stickySeconds: 0 -> 60\nnothing was written\n"
    assert stored(store_path) == IpamConfiguration()
    assert run(["ipam", "configure", "--sticky-seconds=0", "--dry-run"]) == 0
    assert capsys.readouterr().out == "unchanged\n"
    assert run(["ipam", "configure", "--grace-seconds=-1", "--dry-run"]) == 2
    assert "--grace-seconds=-1: grace seconds are -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--auto-allocate-blocks=false"],
            "--auto-allocate-blocks=false: strict affinity off and automatic blocks off contradict each other",
        ),
        (["--max-blocks-per-node=0"], "--max-blocks-per-node=0: max blocks per node is 0; a node needs at least 1"),
        (["--grace-seconds=-1"], "--grace-seconds=-1: grace seconds are -1; set 0 to 315360000"),
        (
            ["--cooldown-seconds=315360001"],
            "--cooldown-seconds=315360001: cooldown seconds are 315360001; set 0 to 3153",
        ),
    ],
)
def test_contradictions_name_the_option(
    options: list[str], complaint: str, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, and the operator knows which option to change."""
    assert run(["ipam", "configure", *options]) == 1
    assert capsys.readouterr().err.startswith(f"tortiectl: error: {complaint}")
    assert stored(store_path) == IpamConfiguration()


def test_a_setting_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A call that changes nothing is a slip."""
    assert run(["ipam", "configure"]) == 2
    assert "name at least one" in capsys.readouterr().err


async def test_what_somebody_else_set_meanwhile_stays() -> None:
    """The change is made anew on what the other wrote."""
    store = ContestedStore(2)
    before, after = await configure(store, {"cooldown_seconds": 5}, dry_run=False)
    assert before == IpamConfiguration(max_blocks_per_node=100)
    assert after == await read_configuration(store) == IpamConfiguration(max_blocks_per_node=100, cooldown_seconds=5)


async def test_a_writer_that_never_stops_ends_the_attempts() -> None:
    """The command does not hang."""
    with pytest.raises(ConflictError):
        await configure(ContestedStore(1000), {"cooldown_seconds": 5}, dry_run=False)


async def test_a_configuration_that_cannot_be_read_is_not_overwritten_in_part() -> None:
    """What it said is unknown; the way to a whole new one is named."""
    store = MemoryStore()
    await store.commit([Put(keys.IPAM_CONFIGURATION, b'{"grace_seconds": -1}', None)])
    with pytest.raises(RefusedError, match="write it anew with `tortiectl apply`, as kind IPAMConfiguration"):
        await configure(store, {"cooldown_seconds": 5}, dry_run=False)


def test_an_empty_value_switches_no_rule_off(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable of a script that is not set stands there as nothing."""
    assert run(["ipam", "configure", "--strict-affinity=true"]) == 0
    assert run(["ipam", "configure", "--strict-affinity="]) == 2
    assert "Invalid value for '--strict-affinity': it is empty; say true or false" in capsys.readouterr().err
    assert stored(store_path) == IpamConfiguration(strict_affinity=True)

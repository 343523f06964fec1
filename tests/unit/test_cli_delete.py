"""`tortiectl get` and `delete` over several kinds, and records that cannot be read: shown, removed, in nobody's way."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
import yaml

from controller.assignment.inventory import find_problems
from controller.assignment.transaction import block_operations
from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.blocks import encode_block
from controller.datamodel.records import encode_pool
from controller.ports import ABSENT, Put
from controller.store.sqlite import SqliteStore
from ipam.block import Block, Holder
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from controller.ports import Operation

ALL = """
apiVersion: tortie/v1
kind: BGPFilter
metadata: {name: in}
---
apiVersion: tortie/v1
kind: BGPPeer
metadata: {name: tor}
spec: {peerAddress: 192.0.2.1, peerAS: 64512, filters: [in]}
---
apiVersion: tortie/v1
kind: Pool
metadata: {name: default}
spec: {cidr: 10.0.0.0/16}
---
apiVersion: tortie/v1
kind: IPAMConfiguration
metadata: {name: default}
spec: {cooldownSeconds: 30}
""".replace("{name: in}\n", "{name: in}\nspec: {}\n")
HOLDER = Holder("cni.tortie.1.eth0", "h1", "web", "shop", "tt0", 0.0)


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name an empty store in the environment, as an operator would."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    return path


@pytest.fixture
def everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Create resources of several kinds and give their file."""
    file = tmp_path / "all.yaml"
    file.write_text(ALL)
    assert run(["create", "-f", str(file)]) == 0
    capsys.readouterr()
    return str(file)


def commit(path: Path, operations: Sequence[Operation]) -> None:
    """Write into the store."""

    async def write() -> None:
        store = SqliteStore(path)
        await store.commit(operations)
        await store.close()

    asyncio.run(write())


def put(path: Path, records: Mapping[str, bytes]) -> None:
    """Write records as they are into the store."""
    commit(path, [Put(key, value, None) for key, value in records.items()])


def problems(path: Path) -> list[str]:
    """Return what the check finds, each with the way out."""

    async def find() -> list[str]:
        store = SqliteStore(path)
        found = await find_problems(store, lambda: 0.0, settle_seconds=0, pause_seconds=0)
        await store.close()
        return [problem.text for problem in found.problems]

    return asyncio.run(find())


def test_what_files_name_is_deleted_in_an_order_that_works(everything: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A peer goes before its filter; a second time everything is gone, which may be fine."""
    assert run(["delete", "-f", everything]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "bgppeer tor deleted",
        "bgpfilter in deleted",
        "pool default deleted",
        "ipamconfiguration default deleted",
    ]
    assert run(["delete", "-f", everything]) == 1
    assert capsys.readouterr().err.count("does not exist") == 3
    assert run(["delete", "-f", everything, "--missing-ok"]) == 0


def test_the_spec_of_a_document_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written by an older version, say, can be deleted by its file; what names nothing is told."""
    file = tmp_path / "old.yaml"
    ours = "apiVersion: tortie/v1, kind: "
    old = f"{{{ours}Pool, metadata: {{name: old}}, spec: {{gone: 1}}}}\n"
    file.write_text(f"{old}---\n{{{ours}Pod}}\n---\n{{{ours}Pool}}\n")
    assert run(["delete", "-f", str(file)]) == 1
    error = capsys.readouterr().err
    assert f"{file}: document 2: kind: 'Pod' is not known" in error
    assert f"{file}: document 3: metadata.name: missing" in error
    file.write_text(old)
    assert run(["delete", "-f", str(file), "--missing-ok"]) == 0


@pytest.mark.parametrize("version", ["apiVersion: projectcalico.org/v3, ", ""])
def test_a_document_of_another_program_deletes_nothing(
    version: str, everything: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though its kind has the name of one of ours; as `apply` would refuse it, and nothing else in the files goes."""
    file = tmp_path / "calico.yaml"
    file.write_text(f"{{{version}kind: BGPPeer, metadata: {{name: tor}}}}\n")
    assert run(["delete", "-f", everything, "-f", str(file), "--missing-ok"]) == 1
    printed = capsys.readouterr()
    assert f"{file}: document 1 (tor): apiVersion: " in printed.err
    assert "is not known; write tortie/v1" in printed.err
    assert printed.out == ""
    assert run(["get", "bgppeer", "tor"]) == 0


@pytest.mark.parametrize("kind", ["IPAMConfiguration", "BGPConfiguration"])
def test_a_configuration_of_another_name_does_not_exist(
    kind: str, everything: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that there is stays."""
    assert everything
    file = tmp_path / "other.yaml"
    file.write_text(f"{{apiVersion: tortie/v1, kind: {kind}, metadata: {{name: other}}}}\n")
    assert run(["delete", "-f", str(file)]) == 1
    assert f"{kind.lower()} other does not exist; there is one, and its name is default" in capsys.readouterr().err
    assert run(["delete", "-f", str(file), "--missing-ok"]) == 0
    assert capsys.readouterr().out == f"{kind.lower()} other does not exist\n"
    assert run(["get", "ipamconfiguration", "-o", "json"]) == 0
    assert '"cooldownSeconds": 30' in capsys.readouterr().out


def contents(path: Path) -> dict[str, bytes]:
    """Return every record of the store."""

    async def read() -> dict[str, bytes]:
        store = SqliteStore(path)
        found = await store.list(keys.ROOT)
        await store.close()
        return {key: entry.value for key, entry in found.items()}

    return asyncio.run(read())


def test_a_dry_run_shows_what_would_go_and_deletes_nothing(
    everything: str, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 if anything would: a pool with its blocks, and a filter after the peer that names it."""
    commit(
        store_path,
        block_operations(
            None, Block.claimed(ip_network("10.0.0.0/26"), node="h1", at=0.0), version=ABSENT, writer=None
        ),
    )
    before = contents(store_path)
    assert run(["delete", "-f", everything, "--dry-run"]) == 1
    told = capsys.readouterr().out
    assert told.splitlines() == [
        "bgppeer tor would be deleted",
        "bgpfilter in would be deleted",
        "pool default would be deleted",
        "ipamconfiguration default would be deleted",
    ]
    assert contents(store_path) == before
    assert run(["delete", "-f", everything]) == 0
    assert capsys.readouterr().out == told.replace("would be deleted", "deleted")


@pytest.mark.usefixtures("everything")
def test_a_dry_run_tells_a_refusal_apart(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 though other things would go, for the same reasons as without it."""
    assert run(["delete", "bgpfilter/in", "pool/none", "pool/default", "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "pool default would be deleted\n"
    assert "bgpfilter in is named by bgppeer tor" in printed.err
    assert "pool none does not exist" in printed.err
    assert run(["delete", "record", keys.pool("default"), "--dry-run"]) == 2
    assert "can be read" in capsys.readouterr().err
    put(store_path, {keys.pool("default"): b"?"})
    assert run(["delete", "record", keys.pool("default"), "--dry-run"]) == 1
    assert capsys.readouterr().out == f"record {keys.pool('default')} would be deleted\n"
    assert contents(store_path)[keys.pool("default")] == b"?"


def test_a_dry_run_of_what_is_gone_changes_nothing(everything: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, with a configuration that is at its defaults, too; what has another name is refused."""
    assert run(["delete", "-f", everything]) == 0
    capsys.readouterr()
    assert run(["delete", "-f", everything, "--missing-ok", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "bgppeer tor does not exist",
        "bgpfilter in does not exist",
        "pool default does not exist",
        "ipamconfiguration default does not exist",
        "nothing would be deleted",
    ]
    assert run(["delete", "ipamconfiguration", "--dry-run"]) == 0
    assert run(["delete", "-f", everything, "--dry-run"]) == 2


@pytest.mark.usefixtures("everything")
def test_one_that_is_refused_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is told of; the exit code says that not all went."""
    assert run(["delete", "bgpfilter/in", "pool/none", "pool/default", "bgppeer/tor", "ipamconfig/default"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "pool default deleted",
        "bgppeer tor deleted",
        "ipamconfiguration default deleted",
    ]
    assert "bgpfilter in is named by bgppeer tor" in printed.err
    assert "pool none does not exist" in printed.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["pools"], "which pool? write `tortiectl delete pool NAME`"),
        (["all"], "which pool?"),
        (["pods", "a"], "'pods' is no kind of resource; the kinds are: pools, reservations"),
        (["pool/a", "b"], "'b': the others are written as KIND/NAME"),
        (["pool,peer", "a"], "write each as KIND/NAME, as pool/a"),
        (["ipamconfiguration", "other"], "there is one ipamconfiguration, and its name is default"),
        (["record"], "which record?"),
        (["pool", "a", "-f", "x"], "name either a kind and names, or files"),
        (["--force"], "name either a kind and names, or files"),
    ],
)
def test_what_to_delete_must_be_clear(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage, and nothing happens; above all nothing is taken for everything."""
    assert run(["delete", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_the_kinds_have_the_names_that_operators_know(everything: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One or many, short or long, in any case; names can be passed on to other commands."""
    assert everything
    for word in ("pool", "pools", "ippool", "IPPools", "POOL"):
        assert run(["get", word, "default", "-o", "name"]) == 0
    assert capsys.readouterr().out.splitlines() == ["pool/default"] * 5
    assert run(["get", "all", "-o", "name"]) == 0
    names = capsys.readouterr().out.split()
    assert names == [
        "pool/default",
        "ipamconfiguration/default",
        "bgpconfiguration/default",
        "bgppeer/tor",
        "bgpfilter/in",
    ]
    assert run(["get", *names, "-o", "yaml"]) == 0
    assert len(yaml.safe_load(capsys.readouterr().out)["items"]) == 5
    assert run(["get", "pools,bgppeers", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == ["pool/default", "bgppeer/tor"]


# ------------------------------------------------------------------------------------------------------------ malformed


def test_a_malformed_record_is_shown_as_such(
    everything: str, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the good ones, by name too, so that it can be deleted; stderr says what is wrong and what to do."""
    assert everything
    put(store_path, {keys.pool("bad"): b"{}", keys.peer("bad"): b"{", keys.reservation("bad"): b"[]"})
    assert run(["get", "pools"]) == 1
    printed = capsys.readouterr()
    assert [line.split() for line in printed.out.splitlines()[1:]] == [
        ["default", "10.0.0.0/16", "/26", "no"],
        ["bad", "malformed", "-", "-"],
    ]
    assert "tortiectl delete pool bad --force" in printed.err
    for kind in ("pools", "bgppeers", "reservations"):
        assert run(["get", kind, "-o", "name"]) == 1
        assert f"{kind[:-1]}/bad" in capsys.readouterr().out.split()
        assert run(["get", kind, "bad"]) == 1
        assert "malformed" in capsys.readouterr().out
        assert run(["get", kind, "bad", "-o", "json"]) == 1
        assert capsys.readouterr().out == ""


def test_a_record_that_nobody_could_have_written_is_malformed_too(
    store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be read and used, but not shown as a document; the rule it breaks is named."""
    pool = Pool("odd", ip_network("10.0.0.0/16"), 26, communities=((70000, 1),))
    put(store_path, {keys.pool("odd"): encode_pool(pool)})
    assert run(["get", "pools"]) == 0
    capsys.readouterr()
    assert run(["get", "pools", "-o", "yaml"]) == 1
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["items"] == []
    assert "'70000:1' is no community" in printed.err
    assert run(["patch", "pool", "odd", "-p", "{spec: {disabled: true}}"]) == 1
    assert "'70000:1' is no community" in capsys.readouterr().err


def test_a_malformed_pool_is_in_the_way_of_no_other_deletion(
    everything: str, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deleting a pool needs that pool alone."""
    assert everything
    put(store_path, {keys.pool("bad"): b"{}"})
    assert run(["delete", "pool", "default"]) == 0
    assert run(["delete", "pool", "other"]) == 1
    assert "pool other does not exist; the pools are: bad" in capsys.readouterr().err


def test_every_record_that_the_check_cannot_read_goes_by_the_command_it_names(
    store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied from its output as it is."""
    block = Block.claimed(ip_network("10.0.0.0/26"), node=None, at=0.0)
    records = {
        keys.pool("bad"): b"{}",
        keys.node("bad"): b"{",
        keys.reservation("bad"): b"[]",
        keys.IPAM_CONFIGURATION: b"nothing",
        keys.endpoints("bad"): b"{}",
        keys.BLOCKS + "junk": b"{}",
        keys.USAGE + "junk": b"{}",
        keys.SHARES + "h1/own/junk": b"{}",
        keys.BLOCKS + "10.0.0.64-26": b"{}",
        keys.BLOCKS + "10.0.0.128-26": encode_block(block),
    }
    put(store_path, records)
    found = problems(store_path)
    assert len(found) == len(records)
    for text in found:
        command = text.rpartition("`tortiectl ")[2].partition("`")[0]
        assert run(command.split()) == 0, text
    assert problems(store_path) == []
    capsys.readouterr()


@pytest.mark.parametrize(
    "key",
    [keys.peer("bad"), keys.filter_rules("bad"), keys.BGP_CONFIGURATION, keys.drain("bad"), keys.USAGE + "10.0.0.0-26"],
)
def test_what_the_check_does_not_read_goes_by_its_key_as_well(key: str, store_path: Path) -> None:
    """Whatever the kind."""
    put(store_path, {key: b"{" if key != keys.BGP_CONFIGURATION else b"[]"})
    assert run(["delete", "record", key]) == 0
    assert run(["delete", "record", key]) == 1


def test_a_record_that_can_be_read_is_not_deleted_by_its_key(
    everything: str, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rules for deleting what it is would be passed over."""
    assert everything
    block = Block.claimed(ip_network("10.0.0.0/26"), node="h1", at=0.0)
    commit(store_path, block_operations(None, block, version=ABSENT, writer=None))
    for key in (
        *(
            keys.pool("default"),
            keys.peer("tor"),
            keys.filter_rules("in"),
            keys.IPAM_CONFIGURATION,
            keys.POOLS_REVISION,
        ),
        *(keys.block(block.cidr), keys.usage(block.cidr), keys.owned("h1", block.cidr)),
    ):
        assert run(["delete", "record", key]) == 1
        assert f"record {key} can be read" in capsys.readouterr().err
    assert run(["delete", "record", "other/v1/key"]) == 1
    assert "is no key of tortie's" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- blocks


def test_an_empty_block_is_deleted_with_what_tells_of_it(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One with addresses in use is not; the holder is named."""
    empty = Block.claimed(ip_network("10.0.0.0/26"), node="h1", at=0.0)
    used, _ = Block.claimed(ip_network("10.0.0.64/26"), node="h1", at=0.0).assign(HOLDER)
    for block in (empty, used):
        commit(store_path, block_operations(None, block, version=ABSENT, writer=None))
    assert run(["delete", "block", "10.0.0.0/26"]) == 0
    assert run(["delete", "block", "10.0.0.64/26", "--force"]) == 1
    assert "block 10.0.0.64/26 has 1 addresses in use (10.0.0.64 by web on h1" in capsys.readouterr().err
    assert run(["delete", "block", "10.0.0.0/26"]) == 1
    assert run(["delete", "block", "10.0.0.1/26"]) == 1
    assert "a block is named by its range" in capsys.readouterr().err

    async def left() -> list[str]:
        store = SqliteStore(store_path)
        found = [key for key in await store.list(keys.ROOT) if "10.0.0.0" in key]
        await store.close()
        return found

    assert asyncio.run(left()) == []


def test_a_block_that_cannot_be_read_is_deleted_by_force_alone(
    store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may hold addresses, which others could then be given."""
    put(store_path, {keys.block(ip_network("10.0.0.0/26")): b"{}"})
    assert run(["delete", "block", "10.0.0.0/26"]) == 1
    assert "may have addresses in use" in capsys.readouterr().err
    assert run(["delete", "block", "10.0.0.0/26", "--force"]) == 0
    assert run(["get", "blocks", "-o", "wide"]) == 0

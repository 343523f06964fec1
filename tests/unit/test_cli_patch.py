"""`tortiectl patch`: some fields changed, the others kept, also those that somebody else changes meanwhile."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from bgp.configuration import BgpConfiguration
from bgp.peering import PeerDefinition
from controller.cli.kinds import kind_called
from controller.cli.main import run
from controller.cli.patch import merged, patch_resource
from controller.cli.planning import Mode, Outcome
from controller.cli.wishes import Wish
from controller.cli.writing import write_resources
from controller.datamodel import keys
from controller.datamodel.records import decode_pool
from controller.errors import ConflictError
from controller.store.memory import MemoryStore
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.ports import Operation, Version

POOL = Pool("default", ip_network("10.0.0.0/16"), 26)


@pytest.fixture(autouse=True)
def filled_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a store with a pool, a peer and a filter in the environment."""
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(tmp_path / "store.db"))
    file = tmp_path / "all.yaml"
    file.write_text(
        "{apiVersion: tortie/v1, kind: Pool, metadata: {name: default}, spec: {cidr: 10.0.0.0/16}}\n---\n"
        "{apiVersion: tortie/v1, kind: BGPPeer, metadata: {name: tor}, spec: {peerAddress: 192.0.2.1, peerAS: 64512, "
        "password: not for messages}}\n---\n"
        "{apiVersion: tortie/v1, kind: BGPFilter, metadata: {name: in}, spec: {imports: [{action: Accept}]}}\n"
    )
    assert run(["create", "-f", str(file)]) == 0
    return file


def spec_of(capsys: pytest.CaptureFixture[str], *what: str) -> dict[str, Any]:
    """Return the specification that a resource has now."""
    capsys.readouterr()
    assert run(["get", *what, "-o", "yaml"]) == 0
    spec: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["spec"]
    return spec


def test_a_field_is_changed_and_the_others_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON or YAML; null is the field's default."""
    assert run(["patch", "pool", "default", "-p", '{"spec": {"disabled": true, "communities": ["64512:1"]}}']) == 0
    assert capsys.readouterr().out.endswith("pool default configured\n")
    assert run(["patch", "pool/default", "-p", "{spec: {communities: null}}"]) == 0
    spec = spec_of(capsys, "pool", "default")
    assert (spec["disabled"], spec["communities"], spec["cidr"]) == (True, [], "10.0.0.0/16")
    assert run(["patch", "pool", "default", "-p", "{spec: {disabled: true}}"]) == 0
    assert capsys.readouterr().out == "pool default unchanged\n"


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_does_what_the_rfc_shows(target: object, patch: object, result: object) -> None:
    """The cases of RFC 7386, appendix A."""
    assert merged(target, patch) == result


def test_operations_change_single_items_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    """A merge patch could only write the whole list."""
    operations = (
        "[{op: test, path: /spec/imports/0/action, value: Accept}, "
        "{op: add, path: /spec/imports/0, value: {action: Reject, cidr: 10.0.0.0/8}}]"
    )
    assert run(["patch", "bgpfilter", "in", "--type=json", "-p", operations]) == 0
    assert [rule["action"] for rule in spec_of(capsys, "bgpfilter", "in")["imports"]] == ["Reject", "Accept"]


@pytest.mark.parametrize(
    ("operations", "complaint"),
    [
        ("[{op: add, path: /spec/x/y, value: 1}]", "operation 1, add /spec/x/y: there is no such place"),
        ("[{op: remove, path: /spec/nothing}]", "operation 1, remove /spec/nothing: there is no such place"),
        (
            "[{op: test, path: /spec/peerAS, value: 1}]",
            "operation 1, test /spec/peerAS: the value there is another one",
        ),
        ("[{op: fly, path: /spec}]", "operation 1, fly /spec: it is none of the operations of RFC 6902"),
        ("[{op: remove, path: /spec/passive}, 7]", "operation 2, None None: it is none of"),
        ("[{path: /spec}]", "operation 1, None /spec: it is none of"),
        ("{op: remove}", "the patch is no list of operations"),
    ],
)
def test_an_operation_that_cannot_be_made_is_named(
    operations: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the document, which has a password in it."""
    assert run(["patch", "bgppeer", "tor", "--type=json", "-p", operations]) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert "not for messages" not in error


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["pool", "default", "-p", "{spec: {cidr: 10.0.0.1/16}}"], 1, "pool default: spec.cidr: 10.0.0.1/16 has host"),
        (["pool", "default", "-p", "{spec: {blockSize: 28}}"], 1, "spec.blockSize: 26 cannot be changed to 28"),
        (["pool", "default", "-p", "{metadata: {name: other}}"], 1, "pool default: it would be pool other; kind and"),
        (["pool", "default", "-p", "{kind: Reservation, spec: null}"], 1, "spec: missing"),
        (["pool", "default", "-p", "[1]"], 1, "the patch is no mapping"),
        (["pool", "default", "-p", "{"], 1, "-p: neither YAML nor JSON"),
        (["pool", "default", "-p", "{}\n---\n{}"], 1, "-p: 2 documents; a patch is one"),
        (["pool", "none", "-p", "{}"], 1, "pool none does not exist"),
        (["block", "10.0.0.0/26", "-p", "{}"], 1, "blocks are written by agents alone"),
        (["pool", "default"], 2, "give the patch either with -p or with --patch-file"),
        (["pools", "-p", "{}"], 2, "name one resource, as pool/default"),
        (["pools,peers", "-p", "{}"], 2, "name one resource"),
        (["ipamconfiguration", "other", "-p", "{}"], 2, "there is one ipamconfiguration"),
    ],
)
def test_what_cannot_be_patched_is_refused(
    arguments: list[str], code: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The resource is as it was."""
    assert run(["patch", *arguments]) == code
    assert complaint in capsys.readouterr().err
    assert spec_of(capsys, "pool", "default")["cidr"] == "10.0.0.0/16"


def test_a_configuration_that_nobody_has_written_is_patched_from_its_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of which there is one, so it needs no name."""
    assert run(["patch", "ipamconfig", "-p", "{spec: {cooldownSeconds: 30}}"]) == 0
    assert capsys.readouterr().out.endswith("ipamconfiguration default created\n")
    assert spec_of(capsys, "ipamconfiguration")["cooldownSeconds"] == 30


def test_a_dry_run_shows_what_the_patch_would_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The patch may come from a file; exit codes are those of the other dry runs."""
    file = tmp_path / "patch.yaml"
    file.write_text("spec:\n  disabled: true\n")
    assert run(["patch", "pool", "default", "--patch-file", str(file), "--dry-run"]) == 1
    assert "+  disabled: true" in capsys.readouterr().out
    assert spec_of(capsys, "pool", "default")["disabled"] is False
    assert run(["patch", "pool", "default", "-p", "{}", "--dry-run"]) == 0
    assert run(["patch", "pool", "default", "-p", "{spec: {blockSize: 28}}", "--dry-run"]) == 2
    assert run(["patch", "pool", "default", "--patch-file", "/nowhere"]) == 1


def test_a_patch_may_say_which_version_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Of another one it is refused."""
    assert run(["patch", "pool", "default", "-p", "{metadata: {resourceVersion: 999}}"]) == 1
    assert "metadata.resourceVersion: 999 was read" in capsys.readouterr().err


async def test_what_others_change_meanwhile_is_kept() -> None:
    """The patch is made again to what they wrote."""

    class OvertakenStore(MemoryStore):
        """A store in which somebody else changes another field just before the second transaction."""

        count = 0

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            self.count += 1
            if self.count == 2:
                other = Pool("default", ip_network("10.0.0.0/16"), 26, nat_outgoing=True)
                await write_resources(self, [Wish(other, "other")], Mode.APPLY)
            return await super().commit(operations)

    store = OvertakenStore()
    await write_resources(store, [Wish(POOL, "first")], Mode.CREATE)
    change = await patch_resource(
        store,
        kind_called("pool"),
        "default",
        lambda document: merged(document, {"spec": {"disabled": True}}),
        dry_run=False,
    )
    assert change.outcome is Outcome.CONFIGURED
    key = keys.pool("default")
    found = decode_pool(key, (await store.get([key]))[key].value)
    assert (found.disabled, found.nat_outgoing) == (True, True)


async def test_endless_conflicts_end_the_patch() -> None:
    """With a conflict, not with a hang."""

    class BusyStore(MemoryStore):
        """A store in which somebody changes the peer before each transaction after the first."""

        count = 0

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            self.count += 1
            if self.count > 1:
                raise ConflictError([keys.peer("tor")])
            return await super().commit(operations)

    store = BusyStore()
    await write_resources(store, [Wish(PeerDefinition("tor", ip_address("192.0.2.1"), 1), "x")], Mode.CREATE)
    with pytest.raises(ConflictError):
        await patch_resource(
            store,
            kind_called("peer"),
            "tor",
            lambda document: merged(document, {"spec": {"passive": True}}),
            dry_run=False,
        )


async def test_a_configuration_that_somebody_writes_first_is_patched_as_they_wrote_it() -> None:
    """Its defaults are not written over it."""

    class FirstStore(MemoryStore):
        """A store in which somebody else writes the configuration just before the first transaction."""

        first = True

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            if self.first:
                self.first = False
                await write_resources(self, [Wish(BgpConfiguration(mesh=False), "other")], Mode.CREATE)
            return await super().commit(operations)

    store = FirstStore()
    change = await patch_resource(
        store, kind_called("bgpconfiguration"), "default", lambda document: document, dry_run=False
    )
    assert change.wish.resource == BgpConfiguration(mesh=False)

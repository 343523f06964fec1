"""Pools through the command line, on a real store: what is written, what is refused, and that nothing is half done."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.cli.main import run
from controller.cli.planning import Mode
from controller.cli.pools import delete_pool
from controller.cli.wishes import Wish
from controller.cli.writing import write_resources
from controller.datamodel import keys
from controller.datamodel.blocks import encode_block, encode_share
from controller.datamodel.records import decode_pool
from controller.errors import ConflictError, RefusedError, StoreUnavailable
from controller.ports import ABSENT, Check, Delete, Put
from controller.resources import kind_and_name
from controller.store.memory import MemoryStore
from ipam.block import Block, Holder
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.ports import Operation, Store, Version
    from controller.resources import Resource

POOL = "apiVersion: tortie/v1\nkind: Pool\nmetadata: {name: %s}\nspec: {cidr: '%s'}\n"
DEFAULT = Pool("default", ip_network("10.244.0.0/16"), 26)
HOLDER = Holder("cni.tortie.1.eth0", "h1", "web", "shop", "tt0", 0.0)


def wishes(*resources: Resource) -> list[Wish]:
    """Return the wishes for these resources, each at the place of its name."""
    return [Wish(resource, "{} {}".format(*kind_and_name(resource)).lower()) for resource in resources]


async def read_pools(store: Store) -> dict[str, Pool]:
    """Return every pool by its name."""
    pools = [decode_pool(key, entry.value) for key, entry in (await store.list(keys.POOLS)).items()]
    return {pool.name: pool for pool in pools}


class InterruptedStore(MemoryStore):
    """A store in which somebody else commits something just before the first transaction of the test's own."""

    def __init__(self, other: Sequence[Operation]) -> None:
        super().__init__()
        self._other: Sequence[Operation] | None = other

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Commit the other's operations once, then these."""
        other, self._other = self._other, None
        if other is not None:
            await super().commit(other)
        return await super().commit(operations)


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name an empty store in the environment, as an operator would."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    return path


def written(directory: Path, text: str) -> str:
    """Return the path of a file with this text."""
    path = directory / "resources.yaml"
    path.write_text(text)
    return str(path)


def test_applied_pools_are_there_and_unchanged_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with several documents is applied as a whole; applying it again changes nothing."""
    file = written(tmp_path, POOL % ("one", "10.0.0.0/16") + "---\n" + POOL % ("two", "fd00::/64"))
    assert run(["apply", "-f", file]) == 0
    assert run(["apply", "-f", file]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pool one created",
        "pool two created",
        "pool one unchanged",
        "pool two unchanged",
    ]


def test_printed_pools_can_be_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`get -o yaml` and `get -o json` print what `apply` takes."""
    run(["apply", "-f", written(tmp_path, POOL % ("one", "10.0.0.0/16"))])
    for form in ("yaml", "json"):
        capsys.readouterr()
        run(["get", "pools", "-o", form])
        assert run(["apply", "-f", written(tmp_path, capsys.readouterr().out)]) == 0
        assert capsys.readouterr().out == "pool one unchanged\n"


def test_a_mistake_names_file_document_and_field_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One wrong document keeps the right ones out too."""
    file = written(tmp_path, POOL % ("good", "10.0.0.0/16") + "---\n" + POOL % ("bad", "10.1.0.1/16"))
    assert run(["apply", "-f", file]) == 1
    assert capsys.readouterr().err == (
        f"tortiectl: error: {file}: document 2 (bad): spec.cidr: 10.1.0.1/16 has host bits set; write 10.1.0.0/16\n"
    )
    assert run(["get", "pools", "good"]) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "neither YAML nor JSON"),
        ("metadata: {name: 2024-99-99}", "neither YAML nor JSON: month must be in 1..12"),
        ("[" * 5000, "neither YAML nor JSON"),
        ("", "no resource in it"),
        ("- 1", "document 1: not a mapping"),
        ("apiVersion: v1\nkind: Pool", "document 1: apiVersion: 'v1' is not known; write tortie/v1"),
        ("apiVersion: tortie/v1\nkind: Pod", "document 1: kind: 'Pod' cannot be written; write Pool"),
        (
            POOL % ("a", "10.0.0.0/16") + "---\n" + POOL % ("a", "10.1.0.0/16"),
            "document 2 (a): metadata.name: pool a is",
        ),
    ],
)
def test_what_is_no_resource_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    """Whatever stands in the file, the message says where."""
    file = written(tmp_path, text)
    assert run(["apply", "-f", file]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"tortiectl: error: {file}: ")
    assert complaint in error


def test_an_overlap_names_both_pools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator sees which two pools share addresses."""
    run(["apply", "-f", written(tmp_path, POOL % ("one", "10.0.0.0/8"))])
    assert run(["create", "-f", written(tmp_path, POOL % ("two", "10.1.0.0/16"))]) == 1
    error = capsys.readouterr().err
    assert "pool one (10.0.0.0/8) overlaps pool two (10.1.0.0/16)" in error


def test_create_refuses_what_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`create` never changes anything."""
    file = written(tmp_path, POOL % ("one", "10.0.0.0/8"))
    assert run(["create", "-f", file]) == 0
    assert run(["create", "-f", file]) == 1
    assert "pool one exists" in capsys.readouterr().err


def test_a_range_cannot_be_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Addresses are in use by the old range; the way to another one is said."""
    run(["apply", "-f", written(tmp_path, POOL % ("one", "10.0.0.0/16"))])
    assert run(["apply", "-f", written(tmp_path, POOL % ("one", "10.1.0.0/16"))]) == 1
    assert "document 1 (one): spec.cidr: 10.0.0.0/16 cannot be changed to 10.1.0.0/16" in capsys.readouterr().err


def test_a_deleted_pool_is_gone_and_cannot_be_deleted_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that does not exist is refused with those that do."""
    run(["apply", "-f", written(tmp_path, POOL % ("one", "10.0.0.0/16"))])
    assert run(["delete", "pool", "one"]) == 0
    assert run(["delete", "pool", "one"]) == 1
    assert "pool one does not exist; the pools are: none" in capsys.readouterr().err


async def test_two_overlapping_pools_cannot_both_be_created_at_the_same_moment() -> None:
    """Whoever commits second sees the first one's pool and is refused."""
    store = MemoryStore()
    pools = [Pool(f"p{number}", ip_network(f"10.{number}.0.0/16"), 26) for number in range(4)]
    everything = Pool("all", ip_network("10.0.0.0/8"), 26)
    results = await asyncio.gather(
        *(write_resources(store, wishes(pool), Mode.CREATE) for pool in [*pools, everything, *pools[:1]]),
        return_exceptions=True,
    )
    present = await read_pools(store)
    assert "all" not in present or len(present) == 1
    assert any(isinstance(result, RefusedError) for result in results)
    assert sum(isinstance(result, list) for result in results) == len(present)


async def test_a_pool_created_between_reading_and_writing_is_seen() -> None:
    """The revision that every write of a pool carries turns the race into a second look."""
    rival = MemoryStore()
    await write_resources(rival, wishes(Pool("rival", ip_network("10.244.64.0/18"), 26)), Mode.CREATE)
    entries = await rival.list(keys.ROOT)
    store = InterruptedStore([Put(key, entry.value, ABSENT) for key, entry in entries.items()])
    with pytest.raises(RefusedError, match=r"pool default: spec\.cidr: pool rival"):
        await write_resources(store, wishes(DEFAULT), Mode.CREATE)
    assert list(await read_pools(store)) == ["rival"]


async def test_a_pool_with_an_address_in_use_stays() -> None:
    """The refusal names an address and who holds it, and the pool is as enabled as it was."""
    store = MemoryStore()
    await write_resources(store, wishes(DEFAULT), Mode.CREATE)
    block, _ = Block.claimed(ip_network("10.244.0.0/26"), node="h1", at=0.0).assign(HOLDER)
    await store.commit([Put(keys.block(block.cidr), encode_block(block), ABSENT)])
    with pytest.raises(RefusedError, match=r"1 addresses in use \(10\.244\.0\.0 by web on h1"):
        await delete_pool(store, "default")
    assert await read_pools(store) == {"default": DEFAULT}


async def test_an_address_assigned_during_the_deletion_saves_the_pool() -> None:
    """A node that assigns from a block while the pool is being deleted keeps its address, and the pool comes back."""
    empty = Block.claimed(ip_network("10.244.0.0/26"), node="h1", at=0.0)
    used, _ = empty.assign(HOLDER)
    before = MemoryStore()
    await write_resources(before, wishes(DEFAULT), Mode.CREATE)
    store = InterruptedStore([Put(keys.block(used.cidr), encode_block(used), None)])
    store._entries = before._entries
    store._revision = before._revision
    store._entries |= (await _with_block(empty))._entries
    with pytest.raises(RefusedError, match="in use"):
        await delete_pool(store, "default")
    assert await read_pools(store) == {"default": DEFAULT}
    assert (await store.get([keys.block(used.cidr)]))[keys.block(used.cidr)].value == encode_block(used)


async def test_empty_blocks_go_with_their_pool() -> None:
    """Neither a block nor a node's claim to it outlives the pool; blocks of other pools stay."""
    store = MemoryStore()
    await write_resources(store, wishes(DEFAULT, Pool("other", ip_network("10.0.0.0/16"), 26)), Mode.CREATE)
    for number in range(40):
        block = Block.claimed(DEFAULT.block_at(number), node="h1", at=0.0)
        owned = Put(keys.owned("h1", block.cidr), encode_share(block), ABSENT)
        await store.commit([Put(keys.block(block.cidr), encode_block(block), ABSENT), owned])
    other = Block.claimed(ip_network("10.0.0.0/26"), node="h1", at=0.0)
    await store.commit([Put(keys.block(other.cidr), encode_block(other), ABSENT)])
    await delete_pool(store, "default")
    assert list(await read_pools(store)) == ["other"]
    assert list(await store.list(keys.BLOCKS)) == [keys.block(other.cidr)]
    assert not await store.list(keys.SHARES)


async def test_a_block_claimed_during_the_deletion_is_not_left_behind() -> None:
    """A node that knows the pool as it was cannot claim from it any more once its blocks are being removed."""

    class ClaimingStore(MemoryStore):
        """A store in which a node claims a block before the last transaction of a deletion."""

        known: Version = ABSENT
        refused = False

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            if any(operation == Delete(keys.pool("default"), operation.expected) for operation in operations):
                claim = Put(keys.block(DEFAULT.block_at(5)), b"{}", ABSENT)
                try:
                    await super().commit([claim, Check(keys.pool("default"), self.known)])
                except ConflictError:
                    self.refused = True
            return await super().commit(operations)

    store = ClaimingStore()
    await write_resources(store, wishes(DEFAULT), Mode.CREATE)
    store.known = (await store.get([keys.pool("default")]))[keys.pool("default")].version
    await delete_pool(store, "default")
    assert store.refused
    assert not await store.list(keys.BLOCKS)


async def test_a_pool_enabled_again_during_its_deletion_leaves_no_block_behind() -> None:
    """Enabled again by somebody else, the pool may be claimed from again; the deletion starts over and sees it."""

    class MeddlingStore(MemoryStore):
        """A store in which somebody enables the pool once it is disabled, and a node claims before it is deleted."""

        enabled = False

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            deletes = [one for one in operations if isinstance(one, Delete) and one.key == keys.pool("default")]
            if deletes and self.enabled:
                check = Check(keys.pool("default"), self._entries[keys.pool("default")].version)
                claim = Put(keys.block(used.cidr), encode_block(used), None)
                await super().commit([claim, check])
            versions = await super().commit(operations)
            if not self.enabled and (await read_pools(self))["default"].disabled:
                self.enabled = True
                await write_resources(self, wishes(DEFAULT), Mode.APPLY)
            return versions

    used, _ = Block.claimed(ip_network("10.244.0.0/26"), node="h1", at=0.0).assign(HOLDER)
    store = MeddlingStore()
    await write_resources(store, wishes(DEFAULT), Mode.CREATE)
    with pytest.raises(RefusedError, match="in use"):
        await delete_pool(store, "default")
    assert await read_pools(store) == {"default": DEFAULT}


async def test_a_deletion_that_breaks_off_says_that_the_pool_may_be_disabled() -> None:
    """A store that goes away half-way leaves a disabled pool; the operator is told how to go on."""

    class LeavingStore(MemoryStore):
        """A store that answers nothing more once a pool is disabled."""

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            if (await read_pools(self)).get("default", DEFAULT).disabled:
                raise StoreUnavailable("gone")
            return await super().commit(operations)

    store = LeavingStore()
    await write_resources(store, wishes(DEFAULT), Mode.CREATE)
    with pytest.raises(StoreUnavailable, match=r"pool default may be left disabled.*gone.*tortiectl apply"):
        await delete_pool(store, "default")


async def test_a_refused_deletion_keeps_what_somebody_else_changed_meanwhile() -> None:
    """The pool is enabled again only if its record is the one that the deletion wrote."""
    changed = replace(DEFAULT, disabled=True, nat_outgoing=True)
    used, _ = Block.claimed(ip_network("10.244.0.0/26"), node="h1", at=0.0).assign(HOLDER)

    class ChangingStore(MemoryStore):
        """A store in which somebody changes the pool and an address is assigned as soon as the pool is disabled."""

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            versions = await super().commit(operations)
            if (await read_pools(self))["default"] == replace(DEFAULT, disabled=True):
                await write_resources(self, wishes(changed), Mode.APPLY)
                await super().commit([Put(keys.block(used.cidr), encode_block(used), None)])
            return versions

    store = ChangingStore()
    await write_resources(store, wishes(DEFAULT), Mode.CREATE)
    with pytest.raises(RefusedError, match="in use"):
        await delete_pool(store, "default")
    assert await read_pools(store) == {"default": changed}


async def test_endless_conflicts_are_reported() -> None:
    """A store in which others write all the time ends the command with a conflict, not with a hang."""

    class BusyStore(MemoryStore):
        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            raise ConflictError([operations[-1].key])

    with pytest.raises(ConflictError, match="pools-revision"):
        await write_resources(BusyStore(), wishes(DEFAULT), Mode.CREATE)


async def _with_block(block: Block) -> MemoryStore:
    store = MemoryStore()
    store._revision = 1000
    await store.commit([Put(keys.block(block.cidr), encode_block(block), ABSENT)])
    return store

"""`ipam split`: all parts or the whole pool, never anything between, and no address is touched."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from controller.assignment.assigner import Assigner
from controller.assignment.knowledge import Rules
from controller.cli.main import run
from controller.cli.planning import Mode
from controller.cli.pool_split import parts_of, split_pool
from controller.cli.wishes import Wish
from controller.cli.writing import write_resources
from controller.datamodel import keys
from controller.datamodel.records import decode_pool
from controller.errors import RefusedError
from controller.ports import Put
from controller.resources import kind_and_name
from controller.store.memory import MemoryStore
from ipam.errors import Refused
from ipam.pool import AssignmentMode, Pool
from ipam.request import AssignRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.ports import Operation, Store, Version
    from controller.resources import Resource
    from ipam.address import IPNetwork

DEFAULT = Pool("default", ip_network("10.0.0.0/16"), 26)
SIX = Pool("six", ip_network("fd00::/48"), 122)


def wishes(*resources: Resource) -> list[Wish]:
    """Return the wishes for these resources, each at the place of its name."""
    return [Wish(resource, "{} {}".format(*kind_and_name(resource)).lower()) for resource in resources]


async def read_pools(store: Store) -> dict[str, Pool]:
    """Return every pool by its name."""
    pools = [decode_pool(key, entry.value) for key, entry in (await store.list(keys.POOLS)).items()]
    return {pool.name: pool for pool in pools}


class RecordingStore(MemoryStore):
    """A store that keeps every transaction, and lets somebody else commit once before the next."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[Sequence[Operation]] = []
        self.other: Sequence[Operation] = ()

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Commit the other's operations, then these."""
        other, self.other = self.other, ()
        if other:
            await super().commit(other)
        self.transactions.append(operations)
        return await super().commit(operations)


async def filled(*pools: Pool) -> RecordingStore:
    """Return a store with these pools."""
    store = RecordingStore()
    await write_resources(store, wishes(*pools), Mode.CREATE)
    store.transactions.clear()
    return store


@pytest.mark.parametrize("count", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("which", ["default", DEFAULT.cidr, "six", SIX.cidr])
async def test_parts_cover_the_pool_and_appear_in_one_transaction(count: int, which: str | IPNetwork) -> None:
    """There is no moment without a pool for an address, nor one with two."""
    store = await filled(DEFAULT, SIX)
    pool, parts = await split_pool(store, count, which)
    assert pool == (DEFAULT if which in ("default", DEFAULT.cidr) else SIX)
    assert [part.name for part in parts] == [f"split-{pool.name}-{number}" for number in range(count)]
    assert sum(part.cidr.num_addresses for part in parts) == pool.cidr.num_addresses
    assert all(pool.contains(part.cidr) for part in parts)
    assert len(store.transactions) == 1
    assert keys.POOLS_REVISION in {operation.key for operation in store.transactions[0]}
    assert (await read_pools(store)).keys() == {DEFAULT.name, SIX.name} - {pool.name} | {part.name for part in parts}


def test_the_other_fields_are_kept() -> None:
    """A split changes which names there are, not how addresses are used."""
    pool = replace(
        DEFAULT,
        disabled=True,
        assignment=AssignmentMode.MANUAL,
        node_selector="has(rack)",
        nat_outgoing=True,
        disable_bgp_export=True,
    )
    assert [replace(part, name=pool.name, cidr=pool.cidr) for part in parts_of(pool, 4)] == [pool] * 4


async def test_blocks_and_addresses_stay_and_serve_the_parts() -> None:
    """A node that owns a block of the pool goes on with it, and its next claim is from a part."""
    store = await filled(DEFAULT)
    assigner = Assigner(store, "h1", lambda: 0.0)

    async def rules() -> Rules:
        entries = await store.list(keys.POOLS)
        return Rules(
            {name: (pool, entries[keys.pool(name)].version) for name, pool in (await read_pools(store)).items()}
        )

    assigner.set_rules(await rules())
    await assigner.start()
    before = await assigner.assign(AssignRequest("one", "web", "shop", "tt0", (4,)))
    blocks = await store.list(keys.BLOCKS)
    await split_pool(store, 32, "default")
    assert await store.list(keys.BLOCKS) == blocks
    assigner.set_rules(await rules())
    after = await assigner.assign(AssignRequest("two", "web", "shop", "tt0", (4,)))
    assert int(after.addresses[0]) == int(before.addresses[0]) + 1
    with pytest.raises(Refused, match="pool default does not exist"):
        await assigner.assign(AssignRequest("three", "web", "shop", "tt0", (4,), pools=("default",)))
    await assigner.close()


async def test_a_claim_by_the_old_pool_meets_a_conflict_and_succeeds_by_a_part() -> None:
    """A node that has not heard of the split cannot claim from a pool that is no more."""
    store = await filled(DEFAULT)
    entries = await store.list(keys.POOLS)
    assigner = Assigner(store, "h1", lambda: 0.0)
    assigner.set_rules(Rules({"default": (DEFAULT, entries[keys.pool("default")].version)}))
    await assigner.start()
    await split_pool(store, 2, "default")
    assigned = await assigner.assign(AssignRequest("one", "web", "shop", "tt0", (4,)))
    assert assigned.addresses[0] in DEFAULT.cidr
    checked = {operation.key for operation in store.transactions[-1] if operation.key.startswith(keys.POOLS)}
    assert checked <= {keys.pool("split-default-0"), keys.pool("split-default-1")}
    assert checked
    await assigner.close()


@pytest.mark.parametrize(
    ("pool", "count", "complaint"),
    [
        (DEFAULT, 3, "3 parts: a pool is split into 2, 4, 8, 16, 32; choose one of these"),
        (DEFAULT, 64, "64 parts: a pool is split into"),
        (DEFAULT, 1, "1 parts: a pool is split into"),
        (DEFAULT, -2, "-2 parts: a pool is split into"),
        (Pool("default", ip_network("10.0.0.0/25"), 26), 4, r"holds 2 blocks of /26 and cannot be split into 4 parts"),
        (Pool("default", ip_network("fd00::/122"), 122), 2, r"holds 1 blocks of /122 and cannot be split into 2 parts"),
    ],
)
async def test_an_impossible_split_is_refused_with_the_reason(pool: Pool, count: int, complaint: str) -> None:
    """Nothing is written."""
    store = await filled(pool)
    with pytest.raises(RefusedError, match=complaint):
        await split_pool(store, count, "default")
    assert store.transactions == []


def test_a_name_that_is_too_long_is_refused() -> None:
    """A part whose name no resource may have could never be applied again."""
    with pytest.raises(RefusedError, match="is too long; create the parts by hand"):
        parts_of(replace(DEFAULT, name="a" * 250), 2)


async def test_a_name_that_exists_is_refused() -> None:
    """No pool is overwritten."""
    store = await filled(DEFAULT, Pool("split-default-1", ip_network("10.200.0.0/16"), 26))
    with pytest.raises(RefusedError, match="pool split-default-1 exists"):
        await split_pool(store, 2, "default")


async def test_a_pool_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """Also a range that is only a part of a pool's."""
    store = await filled(DEFAULT)
    for which in ("other", ip_network("10.0.0.0/17")):
        with pytest.raises(RefusedError, match=rf"pool {which} does not exist; the pools are: default \(10.0.0.0/16\)"):
            await split_pool(store, 2, which)


@pytest.mark.parametrize("with_revision", [True, False])
async def test_a_change_of_the_pool_meanwhile_is_kept(*, with_revision: bool) -> None:
    """The parts are those of the pool as it is when they are written, also by a writer that forgets the revision."""
    store = await filled(DEFAULT)
    changed = await filled(replace(DEFAULT, nat_outgoing=True))
    wanted = [keys.pool("default"), *([keys.POOLS_REVISION] if with_revision else [])]
    store.other = [Put(key, entry.value, None) for key, entry in (await changed.get(wanted)).items()]
    _, parts = await split_pool(store, 2, "default")
    assert all(part.nat_outgoing for part in parts)


async def test_a_pool_created_meanwhile_under_a_parts_name_is_kept() -> None:
    """The second look finds it and refuses."""
    store = await filled(DEFAULT)
    rival = await filled(Pool("split-default-1", ip_network("10.200.0.0/16"), 26))
    store.other = [Put(key, entry.value, None) for key, entry in (await rival.list(keys.CLUSTER)).items()]
    with pytest.raises(RefusedError, match="pool split-default-1 exists"):
        await split_pool(store, 2, "default")
    assert (await read_pools(store)).keys() == {"default", "split-default-1"}


def test_the_command_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator reads the new names, and what happens to requests by the old one."""
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(tmp_path / "store.db"))
    file = tmp_path / "pool.yaml"
    file.write_text("apiVersion: tortie/v1\nkind: Pool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/16}\n")
    assert run(["apply", "-f", str(file)]) == 0
    capsys.readouterr()
    assert run(["ipam", "split", "2"]) == 2
    assert run(["ipam", "split", "2", "--name=p", "--cidr=10.0.0.0/16"]) == 2
    assert run(["ipam", "split", "2", "--cidr=10.0.0.0/16"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pool split-p-0 created (10.0.0.0/17)",
        "pool split-p-1 created (10.0.128.0/17)",
        "pool p deleted; requests that name it are refused: let them name the new pools",
    ]

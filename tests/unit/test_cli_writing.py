"""Resources written through the command line: what each verb refuses, what a dry run shows, and many at once."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from bgp.peering import Filter, PeerDefinition
from controller.cli.main import run
from controller.cli.planning import Change, Mode, Outcome
from controller.cli.wishes import Wish
from controller.cli.writing import plan_resources, write_resources
from controller.datamodel import keys
from controller.datamodel.blocks import encode_usage
from controller.datamodel.records import Node, encode_node
from controller.errors import ConflictError, RefusedError, StoreUnavailable
from controller.ports import MAX_OPERATIONS, Put, Version
from controller.store.memory import MemoryStore
from controller.store.sqlite import SqliteStore
from controller.store.transaction import operation_count
from ipam.block import Block
from ipam.pool import Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Address
    from pathlib import Path

    from controller.ports import Operation
    from controller.resources import Resource

POOL = "apiVersion: tortie/v1\nkind: Pool\nmetadata: {name: %s}\nspec: {cidr: '%s'}\n"

PEER = """apiVersion: tortie/v1
kind: BGPPeer
metadata: {name: tor}
spec: {peerAddress: 192.0.2.1, peerAS: 64512, password: '%s'}
"""


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name an empty store in the environment, as an operator would."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the path of a file to write resources into."""
    return tmp_path / "resources.yaml"


def told(verb: str, file: Path, text: str, *options: str) -> int:
    """Write a file, use the verb on it and return the exit code."""
    file.write_text(text)
    return run([verb, "-f", str(file), *options])


def put(path: Path, records: Mapping[str, bytes]) -> None:
    """Write records as they are into the store."""

    async def write() -> None:
        store = SqliteStore(path)
        await store.commit([Put(key, value, None) for key, value in records.items()])
        await store.close()

    asyncio.run(write())


def wish(resource: Resource, version: Version | None = None) -> Wish:
    """Return the wish for a resource, as read at this version."""
    return Wish(resource, "here", version)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return what a command prints as YAML."""
    capsys.readouterr()
    assert run([*arguments, "-o", "yaml"]) == 0
    document: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return document


# ---------------------------------------------------------------------------------------------------------------- verbs


def test_replace_refuses_what_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the file is written then; the way to have it created is said."""
    assert told("create", file, POOL % ("one", "10.1.0.0/16")) == 0
    text = POOL % ("one", "10.1.0.0/16") + "---\n" + POOL % ("two", "10.2.0.0/16")
    assert told("replace", file, text) == 1
    error = capsys.readouterr().err
    assert f"{file}: document 2 (two): pool two does not exist; create it with `tortiectl create`" in error
    assert run(["get", "pool", "two"]) == 1


def test_replace_sets_what_is_not_named_to_its_default(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document is the whole resource."""
    assert told("create", file, (POOL % ("one", "10.1.0.0/16")).replace("'}", "', disabled: true}")) == 0
    assert printed(capsys, "get", "pool", "one")["spec"]["disabled"] is True
    assert told("replace", file, POOL % ("one", "10.1.0.0/16")) == 0
    assert printed(capsys, "get", "pool", "one")["spec"]["disabled"] is False


def test_a_configuration_can_always_be_replaced(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its defaults hold where nobody has written one, so what `get` shows is what is replaced."""
    assert told("replace", file, yaml.safe_dump(printed(capsys, "get", "ipamconfiguration"))) == 0
    assert told("replace", file, yaml.safe_dump(printed(capsys, "get", "ipamconfiguration"))) == 0


def test_a_mistake_makes_no_others(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A peer whose filter stands in the same file with a mistake of its own is not said to lack it."""
    filter_text = "apiVersion: tortie/v1\nkind: BGPFilter\nmetadata: {name: in, resourceVersion: 7}\nspec: {}\n"
    text = filter_text + "---\n" + PEER.replace("password: '%s'", "filters: [in]")
    assert told("apply", file, text) == 1
    error = capsys.readouterr().err
    assert "bgpfilter in has been deleted" in error
    assert "does not exist" not in error


def test_every_refusal_is_told_with_its_place_and_nothing_is_written(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that only the store tells are found all at once too."""
    told("create", file, POOL % ("one", "10.1.0.0/16"))
    text = "---\n".join(
        [
            POOL % ("good", "10.9.0.0/16"),
            POOL % ("one", "10.2.0.0/16"),
            POOL % ("inside", "10.9.1.0/24"),
            PEER.replace("password: '%s'", "filters: [none]"),
        ]
    )
    assert told("apply", file, text) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tortiectl: error: nothing was written:"
    assert f"  {file}: document 2 (one): spec.cidr: 10.1.0.0/16 cannot be changed to 10.2.0.0/16" in lines[1]
    assert f"  {file}: document 4 (tor): spec.filters: bgpfilter none does not exist" in "\n".join(lines)
    assert run(["get", "pool", "good"]) == 1


def test_a_directory_stands_for_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML and JSON in the order of their names, nothing else; those further down with -R alone."""
    (tmp_path / "net" / "more").mkdir(parents=True)
    (tmp_path / "net" / "b.yml").write_text(POOL % ("b", "10.2.0.0/16"))
    document = {"apiVersion": "tortie/v1", "kind": "Pool", "metadata": {"name": "a"}, "spec": {"cidr": "10.1.0.0/16"}}
    (tmp_path / "net" / "a.json").write_text(json.dumps(document, indent="\t"))
    (tmp_path / "net" / "README").write_text("no resource")
    (tmp_path / "net" / "more" / "c.yaml").write_text(POOL % ("c", "10.3.0.0/16"))
    assert run(["apply", "-f", str(tmp_path / "net")]) == 0
    assert capsys.readouterr().out.splitlines() == ["pool a created", "pool b created"]
    assert run(["apply", "-R", "-f", str(tmp_path / "net")]) == 0
    assert capsys.readouterr().out.splitlines() == ["pool a unchanged", "pool b unchanged", "pool c created"]
    (tmp_path / "empty").mkdir()
    assert run(["apply", "-f", str(tmp_path / "empty")]) == 1
    assert "empty: no resource in it" in capsys.readouterr().err


def test_several_files_are_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in one keeps the other out."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(POOL % ("one", "10.1.0.0/16"))
    two.write_text(POOL % ("two", "10.1.0.0/16"))
    assert run(["apply", "-f", str(one), "-f", str(two)]) == 1
    assert f"{two}: document 1 (two): spec.cidr: pool one (10.1.0.0/16) overlaps pool two" in capsys.readouterr().err
    assert run(["get", "pool", "one"]) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind: Pool\nspec: {cidr: a, cidr: b}", "'cidr' is there twice; keep one"),
        ('{"kind": "Pool", "kind": "Pool"}', "'kind' is there twice; keep one"),
        ("&a {kind: Pool}\n---\n*a", "neither YAML nor JSON"),
        ("kind: !!timestamp x", "neither YAML nor JSON: a value is not what its tag says"),
        ("kind: !!bool x", "neither YAML nor JSON: a value is not what its tag says"),
    ],
)
def test_what_yaml_would_take_silently_is_refused(
    text: str, complaint: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A field that is there twice would otherwise be the last of the two."""
    assert told("apply", file, text) == 1
    assert complaint in capsys.readouterr().err


def test_a_document_that_unfolds_without_end_is_refused_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a message tells of a value is short."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    text = "apiVersion: tortie/v1\nkind: Pool\nmetadata: {name: *a11}\nspec: {cidr: *a11}\n"
    assert told("apply", file, "\n".join([*lines, text])) == 1
    assert len(capsys.readouterr().err) < 3000


# -------------------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_shows_the_difference_and_writes_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what changes and what comes; the exit codes are those of `kubectl diff`."""
    told("create", file, POOL % ("one", "10.1.0.0/16"))
    capsys.readouterr()
    changed = (POOL % ("one", "10.1.0.0/16")).replace("'}", "', natOutgoing: true}")
    assert told("apply", file, changed + "---\n" + POOL % ("two", "10.2.0.0/16"), "--dry-run") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["--- pool one in the store", f"+++ {file}: document 1 (one)"]
    assert [line for line in lines[2:10] if line[0] in "+-"] == ["-  natOutgoing: false", "+  natOutgoing: true"]
    assert "--- no pool two that can be read" in lines
    assert "+  cidr: 10.2.0.0/16" in lines
    assert run(["get", "pool", "two"]) == 1
    assert told("apply", file, POOL % ("one", "10.1.0.0/16"), "--dry-run") == 0


def test_a_refused_dry_run_has_an_exit_code_of_its_own(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 would say that there is a difference which can be made."""
    assert told("apply", file, POOL % ("one", "10.1.0.1/16"), "--dry-run") == 2
    assert told("replace", file, POOL % ("one", "10.1.0.0/16"), "--dry-run") == 2
    assert "pool one does not exist" in capsys.readouterr().err
    assert run(["--sqlite-path", "/nowhere/store.db", "apply", "-f", str(file), "--dry-run"]) == 3


def test_no_difference_tells_a_password(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says that there is one, and whether it becomes another."""
    told("create", file, PEER % "first secret")
    assert told("apply", file, PEER % "second secret", "--dry-run") == 1
    shown = capsys.readouterr().out
    assert "+  password: '*** (another one)'" in shown
    assert "secret" not in shown


# ------------------------------------------------------------------------------------------------------------ conflicts


@pytest.mark.parametrize("verb", ["apply", "replace"])
def test_what_others_changed_since_it_was_read_is_not_written_over(
    verb: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says who is newer and both ways out; without the version in it the document counts."""
    told("create", file, POOL % ("one", "10.1.0.0/16"))
    document = printed(capsys, "get", "pool", "one")
    assert told(verb, file, yaml.safe_dump(document)) == 0
    told("apply", file, (POOL % ("one", "10.1.0.0/16")).replace("'}", "', disabled: true}"))
    document["spec"]["natOutgoing"] = True
    assert told(verb, file, yaml.safe_dump(document)) == 1
    error = capsys.readouterr().err
    version = document["metadata"].pop("resourceVersion")
    assert f"{file}: document 1 (one): metadata.resourceVersion: {version} was read, and pool one has been" in error
    assert "`tortiectl get pool one -o yaml`, or remove the field" in error
    assert told(verb, file, yaml.safe_dump(document)) == 0


def test_what_others_deleted_does_not_come_back(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a document without a version creates; `create` takes no notice of it, so a backup can be restored."""
    told("create", file, POOL % ("one", "10.1.0.0/16"))
    document = printed(capsys, "get", "pool", "one")
    assert run(["delete", "pool", "one"]) == 0
    assert told("apply", file, yaml.safe_dump(document)) == 1
    assert "pool one has been deleted since" in capsys.readouterr().err
    assert told("create", file, yaml.safe_dump(document)) == 0


def test_everything_that_people_write_fills_another_store(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`get all` and `create` are backup and restore; the filters come with the peers that name them."""
    told(
        "create",
        file,
        POOL % ("one", "10.1.0.0/16")
        + "---\n"
        + PEER.replace("'%s'", "p, filters: [in]")
        + "---\napiVersion: tortie/v1\nkind: BGPFilter\nmetadata: {name: in}\nspec: {imports: [{action: Reject}]}\n",
    )
    before = printed(capsys, "get", "all")
    other = str(tmp_path / "other.db")
    file.write_text(yaml.safe_dump(before))
    assert run(["--sqlite-path", other, "create", "-f", str(file)]) == 0
    after = printed(capsys, "--sqlite-path", other, "get", "all")
    for document in (*before["items"], *after["items"]):
        document["metadata"].pop("resourceVersion", None)
    assert after == before


async def test_a_write_between_reading_and_writing_is_not_lost() -> None:
    """The version in the document is compared again when the first transaction has failed."""

    class OvertakenStore(MemoryStore):
        """A store in which somebody else writes the pool just before the second transaction."""

        count = 0

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            self.count += 1
            if self.count == 2:
                await write_resources(
                    self, [wish(Pool("one", ip_network("10.1.0.0/16"), 26, disabled=True))], Mode.APPLY
                )
            return await super().commit(operations)

    store = OvertakenStore()
    pool = Pool("one", ip_network("10.1.0.0/16"), 26)
    await write_resources(store, [wish(pool)], Mode.CREATE)
    version = (await store.get([keys.pool("one")]))[keys.pool("one")].version
    changed = Pool("one", ip_network("10.1.0.0/16"), 26, nat_outgoing=True)
    with pytest.raises(RefusedError, match="has been changed"):
        await write_resources(store, [wish(changed, version)], Mode.APPLY)
    assert (await plan_resources(store, [wish(pool)], Mode.APPLY))[0].outcome is Outcome.CONFIGURED


# ----------------------------------------------------------------------------------------------------------------- many


class CountingStore(MemoryStore):
    """A store that keeps every transaction, and stops answering after some."""

    def __init__(self, answered: int = 1000) -> None:
        super().__init__()
        self.transactions: list[list[Operation]] = []
        self._answered = answered

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Keep it."""
        if len(self.transactions) == self._answered:
            raise StoreUnavailable("gone")
        self.transactions.append(list(operations))
        return await super().commit(operations)


def many() -> list[Wish]:
    """Return pools, peers and, after them, the filters they name."""
    pools = [Pool(f"p{n:03}", ip_network(f"10.{n}.0.0/16"), 26) for n in range(100)]
    peers = [
        PeerDefinition(f"t{n:03}", address(n), 64512, filters=(f"f{n:03}", f"f{(n + 7) % 100:03}")) for n in range(100)
    ]
    filters = [Filter(f"f{n:03}") for n in range(100)]
    resources: list[Resource] = [*pools, *peers, *filters]
    return [wish(resource) for resource in resources]


def address(number: int) -> IPv4Address:
    """Return an address of the documentation's range."""
    return ip_network("198.51.100.0/24")[number]  # type: ignore[return-value]  # the range is IPv4


async def test_many_resources_are_written_in_portions_that_hold() -> None:
    """Each fits every store, no peer is there before its filters, and the second time nothing is written."""
    store = CountingStore()
    heard: list[Change] = []
    wishes = many()
    done = await write_resources(store, wishes, Mode.CREATE, tell=heard.append)
    assert heard == done
    assert {id(change.wish) for change in done} == set(map(id, wishes))
    assert all(operation_count(operations) <= MAX_OPERATIONS for operations in store.transactions)
    present: set[str] = set()
    for operations in store.transactions:
        written = {operation.key for operation in operations if isinstance(operation, Put)}
        present |= written
        peers = [each for each in operations if isinstance(each, Put) and each.key.startswith(keys.PEERS)]
        named = {keys.filter_rules(name) for each in peers for name in json.loads(each.value)["filters"]}
        assert named <= present
        assert named - written <= {operation.key for operation in operations}
    count = len(store.transactions)
    again = await write_resources(store, wishes, Mode.APPLY)
    assert {change.outcome for change in again} == {Outcome.UNCHANGED}
    assert len(store.transactions) == count


async def test_a_mistake_in_the_last_of_many_keeps_all_out() -> None:
    """Everything is compared before the first transaction."""
    store = CountingStore()
    wishes = [*many(), wish(Pool("last", ip_network("10.5.1.0/24"), 26))]
    with pytest.raises(RefusedError, match="pool p005"):
        await write_resources(store, wishes, Mode.APPLY)
    assert store.transactions == []


async def test_large_records_go_into_transactions_of_their_own() -> None:
    """A transaction has a largest size too; the first one has the cluster's anchor."""
    store = CountingStore()
    ranges = tuple(ip_network(f"10.{high}.{low}.0/24") for high in range(20) for low in range(250))
    wishes = [wish(Reservation(f"r{n}", ranges)) for n in range(4)]
    await write_resources(store, wishes, Mode.CREATE)
    assert [len(operations) for operations in store.transactions] == [4, 1]
    with pytest.raises(RefusedError, match="and at most 262144 fit"):
        await write_resources(store, [wish(Reservation("r", ranges * 4))], Mode.CREATE)


def test_what_was_written_before_a_failure_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line that is printed is written; the operator is told how many, and that apply goes on."""
    file.write_text("---\n".join(POOL % (f"p{n:03}", f"10.{n}.0.0/16") for n in range(100)))
    store = CountingStore(answered=1)
    monkeypatch.setattr("controller.store.opening.open_store", lambda _settings: store)
    monkeypatch.setattr(store, "close", lambda: asyncio.sleep(0))
    assert run(["create", "-f", str(file)]) == 3
    printed = capsys.readouterr()
    count = len(printed.out.splitlines())
    assert 0 < count < 100
    assert f"{count} of 100 resources were written before what follows" in printed.err
    assert asyncio.run(_pool_count(store)) == count
    store._answered = 1000
    assert run(["apply", "-f", str(file)]) == 0
    assert asyncio.run(_pool_count(store)) == 100


async def _pool_count(store: MemoryStore) -> int:
    return len(await store.list(keys.POOLS))


async def test_a_rival_between_two_portions_is_seen() -> None:
    """Each portion is planned anew, so the second one meets the pool that came meanwhile."""

    class RivalStore(CountingStore):
        """A store in which somebody creates a pool after the first portion."""

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            versions = await super().commit(operations)
            if len(self.transactions) == 1:
                await write_resources(self, [wish(Pool("rival", ip_network("10.99.1.0/24"), 26))], Mode.CREATE)
            return versions

    store = RivalStore()
    wishes = [wish(Pool(f"p{n:03}", ip_network(f"10.{n}.0.0/16"), 26)) for n in range(100)]
    with pytest.raises(RefusedError, match="pool rival"):
        await write_resources(store, wishes, Mode.CREATE)
    assert "p099" not in "".join(await store.list(keys.POOLS))


async def test_endless_conflicts_end_the_command() -> None:
    """Whoever writes all the time keeps this one from writing, not from ending."""

    class BusyStore(MemoryStore):
        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            raise ConflictError([operations[-1].key])

    with pytest.raises(ConflictError):
        await write_resources(BusyStore(), [wish(Reservation("r", (ip_network("10.0.0.0/8"),)))], Mode.APPLY)


# ------------------------------------------------------------------------------------------------------ blocks left


@pytest.mark.parametrize("size", [25, 27])
async def test_a_pool_around_blocks_of_another_size_is_refused(size: int) -> None:
    """They would be counted and given out wrongly; the size that fits is named, and is taken."""
    store = MemoryStore()
    left = [Block.claimed(ip_network(f"10.1.{n}.0/26"), node="h1", at=0.0) for n in range(3)]
    await store.commit([Put(keys.usage(block.cidr), encode_usage(block), None) for block in left])
    refusal = r"spec.blockSize: \d+, but 3 blocks of another size lie in 10.1.0.0/16 \(10.1.0.0/26, ...\)"
    with pytest.raises(RefusedError, match=refusal + ".*write spec.blockSize 26, or .*tortiectl delete block"):
        await write_resources(store, [wish(Pool("one", ip_network("10.1.0.0/16"), size))], Mode.CREATE)
    await write_resources(store, [wish(Pool("two", ip_network("10.2.0.0/16"), size))], Mode.CREATE)
    await write_resources(store, [wish(Pool("one", ip_network("10.1.0.0/16"), 26))], Mode.CREATE)


def test_a_malformed_pool_is_repaired_only_with_the_size_of_its_blocks(
    file: Path, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record does not say which it was; its blocks do."""
    block = Block.claimed(ip_network("10.1.0.0/28"), node="h1", at=0.0)
    put(store_path, {keys.pool("one"): b"{}", keys.usage(block.cidr): encode_usage(block)})
    assert told("apply", file, POOL % ("one", "10.1.0.0/16")) == 1
    assert "write spec.blockSize 28" in capsys.readouterr().err
    assert told("apply", file, (POOL % ("one", "10.1.0.0/16")).replace("'}", "', blockSize: 28}")) == 0


# ---------------------------------------------------------------------------------------------------------------- nodes


NODE = Node("h1", 64512, ip_network("192.0.2.1/32")[0], None, {"rack": "7"})  # type: ignore[arg-type]  # IPv4


def test_nodes_as_they_are_shown_change_nothing(
    file: Path, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`get -o yaml` can be applied, of nodes too."""
    put(store_path, {keys.node("h1"): encode_node(NODE)})
    document = printed(capsys, "get", "nodes")
    assert told("apply", file, yaml.safe_dump(document)) == 0
    assert capsys.readouterr().out == "node h1 unchanged\n"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("metadata.labels", {"rack": "8"}, "metadata.labels: rack=8 instead of rack=7"),
        ("metadata.labels", {}, "metadata.labels: none instead of rack=7"),
        ("spec.asNumber", 64513, "spec.asNumber: 64513 instead of 64512"),
        ("spec.ipv4Address", "192.0.2.2", "spec.ipv4Address: 192.0.2.2 instead of 192.0.2.1"),
        ("spec.ipv6Address", "2001:db8::1", "spec.ipv6Address: 2001:db8::1 instead of none"),
        ("spec.clusterID", "192.0.2.9", "spec.clusterID: 192.0.2.9 instead of none"),
        ("spec.ipv6Address", "192.0.2.1", "spec.ipv6Address: 192.0.2.1 is an IPv4 address"),
    ],
)
def test_what_an_agent_decides_cannot_be_written(
    path: str, value: object, complaint: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would write it back; the setting that decides is named."""
    put(file.parent / "store.db", {keys.node("h1"): encode_node(NODE)})
    document = printed(capsys, "get", "node", "h1")
    part, field = path.split(".")
    document[part][field] = value
    assert told("apply", file, yaml.safe_dump(document)) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert "is an IPv4" in error or "/etc/tortie/tortie.toml, or set TORTIE_" in error


def test_a_node_is_neither_created_nor_deleted_so(
    file: Path, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes with its agent; the command that removes one that is gone is named."""
    put(store_path, {keys.node("h1"): encode_node(NODE)})
    document = printed(capsys, "get", "node", "h1")
    document["metadata"]["name"] = "h2"
    assert told("apply", file, yaml.safe_dump(document)) == 1
    assert "node h2 does not exist; it comes when tortie-agent is started" in capsys.readouterr().err
    assert run(["create", "-f", str(file)]) == 1
    assert "nobody creates a node" in capsys.readouterr().err
    assert run(["delete", "node", "h1"]) == 1
    assert "`tortiectl node delete h1`" in capsys.readouterr().err

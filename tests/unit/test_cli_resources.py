"""Resources of several kinds through the command line: written together, shown and deleted, whatever else is broken."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
import yaml

from controller.cli.main import run
from controller.cli.planning import Mode, Outcome
from controller.cli.wishes import Wish
from controller.cli.writing import write_resources
from controller.datamodel import keys
from controller.errors import RefusedError
from controller.ports import Put
from controller.resources import kind_and_name
from controller.store.memory import MemoryStore
from controller.store.sqlite import SqliteStore
from ipam.configuration import IpamConfiguration
from ipam.pool import Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from controller.ports import Operation, Version
    from controller.resources import Resource

MIXED = """
apiVersion: tortie/v1
kind: Pool
metadata: {name: default}
spec: {cidr: 10.0.0.0/16, nodeSelector: "has(rack)"}
---
apiVersion: tortie/v1
kind: Reservation
metadata: {name: gateways}
spec: {reservedCIDRs: [10.0.0.0/30, 'fd00::/126']}
---
apiVersion: tortie/v1
kind: IPAMConfiguration
metadata: {name: default}
spec: {cooldownSeconds: 30}
"""
POOL = Pool("default", ip_network("10.0.0.0/16"), 26)
RESERVATION = Reservation("gateways", (ip_network("10.0.0.0/30"),))


def wishes(*resources: Resource) -> list[Wish]:
    """Return the wishes for these resources, each at the place of its name."""
    return [Wish(resource, "{} {}".format(*kind_and_name(resource)).lower()) for resource in resources]


class CountingStore(MemoryStore):
    """A store that keeps the keys of each transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[set[str]] = []

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Remember the keys, then commit."""
        self.transactions.append({operation.key for operation in operations})
        return await super().commit(operations)


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name an empty store in the environment, as an operator would."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    return path


def apply(directory: Path, text: str, verb: str = "apply") -> int:
    """Apply these documents and return the exit code."""
    file = directory / "resources.yaml"
    file.write_text(text)
    return run([verb, "-f", str(file)])


def put(path: Path, records: Mapping[str, bytes]) -> None:
    """Write records as they are into the store."""

    async def write() -> None:
        store = SqliteStore(path)
        await store.commit([Put(key, value, None) for key, value in records.items()])
        await store.close()

    asyncio.run(write())


def pool_text(name: str, cidr: str) -> str:
    """Return a pool's document."""
    return f"apiVersion: tortie/v1\nkind: Pool\nmetadata: {{name: {name}}}\nspec: {{cidr: '{cidr}'}}\n"


def test_kinds_are_applied_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file holds them all; applied again, it changes nothing."""
    assert apply(tmp_path, MIXED) == 0
    assert apply(tmp_path, MIXED) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pool default created",
        "reservation gateways created",
        "ipamconfiguration default created",
        "pool default unchanged",
        "reservation gateways unchanged",
        "ipamconfiguration default unchanged",
    ]


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("kind", ["pools", "reservations", "ipamconfiguration"])
def test_what_is_shown_can_be_applied(form: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists and single documents alike."""
    apply(tmp_path, MIXED)
    capsys.readouterr()
    assert run(["get", kind, "-o", form]) == 0
    assert apply(tmp_path, capsys.readouterr().out) == 0
    assert capsys.readouterr().out.endswith(" unchanged\n")


async def test_several_kinds_are_one_transaction_that_carries_the_pools_revision() -> None:
    """The revision is written with pools, and only with pools; the cluster's anchor with what comes first."""
    store = CountingStore()
    await write_resources(store, wishes(POOL, RESERVATION, IpamConfiguration(grace_seconds=1)), Mode.CREATE)
    await write_resources(store, wishes(RESERVATION, IpamConfiguration(grace_seconds=2)), Mode.APPLY)
    assert store.transactions == [
        {
            keys.pool("default"),
            keys.reservation("gateways"),
            keys.IPAM_CONFIGURATION,
            keys.POOLS_REVISION,
            keys.CLUSTER_ANCHOR,
        },
        {keys.IPAM_CONFIGURATION},
    ]


def test_one_mistake_keeps_every_kind_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, document and field of each mistake are named."""
    text = MIXED.replace("10.0.0.0/30", "10.0.0.1/30").replace("cooldownSeconds: 30", "maxBlocksPerNode: 0")
    assert apply(tmp_path, text) == 1
    error = capsys.readouterr().err
    file = tmp_path / "resources.yaml"
    assert f"{file}: document 2 (gateways): spec.reservedCIDRs.0: 10.0.0.1/30 has host bits set" in error
    assert f"{file}: document 3 (default): spec: max blocks per node is 0" in error
    assert run(["get", "pools", "default"]) == 1


@pytest.mark.parametrize("kind", ["reservation gateways", "ipamconfiguration default"])
def test_create_refuses_what_exists_of_any_kind(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`create` never changes anything."""
    documents = MIXED.split("---")
    text = documents[1] if kind.startswith("reservation") else documents[2]
    assert apply(tmp_path, text, "create") == 0
    assert apply(tmp_path, text, "create") == 1
    assert f"{kind} exists; change it with `tortiectl apply`" in capsys.readouterr().err


def test_two_kinds_may_share_a_name(tmp_path: Path) -> None:
    """Only within a kind a name stands for one thing."""
    assert apply(tmp_path, MIXED.replace("gateways", "default")) == 0


def test_the_configuration_is_shown_without_one() -> None:
    """The defaults are what holds then."""
    assert run(["get", "ipamconfiguration"]) == 0


def test_a_deleted_reservation_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that does not exist is refused with those that do."""
    apply(tmp_path, MIXED)
    assert run(["delete", "reservation", "other"]) == 1
    assert "reservation other does not exist; the reservations are: gateways" in capsys.readouterr().err
    assert run(["delete", "reservation", "gateways"]) == 0
    assert run(["delete", "reservation", "gateways"]) == 1
    assert "the reservations are: none" in capsys.readouterr().err


def test_a_long_list_of_names_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error stays one line that can be read."""
    apply(tmp_path, "---\n".join(pool_text(f"p{number:02}", f"10.{number}.0.0/16") for number in range(12)))
    assert run(["get", "pools", "none"]) == 1
    assert capsys.readouterr().err.endswith("there are: p00, p01, p02, p03, p04, p05, p06, p07, p08, p09 and 2 more\n")


def test_a_malformed_pool_hides_no_other(tmp_path: Path, store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are shown, the malformed one is told of with the way out, and the exit code says so."""
    apply(tmp_path, pool_text("good", "10.0.0.0/16"))
    put(store_path, {keys.pool("bad"): b"{}"})
    capsys.readouterr()
    for command in (["get", "pools", "-o", "yaml"], ["ipam", "show", "-o", "yaml"]):
        assert run(command) == 1
        printed = capsys.readouterr()
        assert "good" in str(yaml.safe_load(printed.out))
        assert printed.err.startswith(f"tortiectl: error: record {keys.pool('bad')} in the store cannot be read: ")
        assert printed.err.endswith("or remove the record with `tortiectl delete pool bad --force`\n")
    assert run(["get", "pools", "good"]) == 0
    assert run(["get", "pools", "bad"]) == 1
    assert "tortiectl delete pool bad --force" in capsys.readouterr().err


def test_a_malformed_pool_is_deleted_by_force_alone(
    tmp_path: Path, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its blocks are is unknown, so nothing but the record goes; other pools can be written again."""
    put(store_path, {keys.pool("bad"): b"no json", keys.BLOCKS + "10.0.0.0-26": b"{}"})
    assert apply(tmp_path, pool_text("good", "10.0.0.0/16")) == 1
    assert "whether the pools overlap cannot be told: record" in capsys.readouterr().err
    assert run(["delete", "pool", "bad"]) == 1
    assert "--force" in capsys.readouterr().err
    assert run(["delete", "pool", "bad", "--force"]) == 0
    assert run(["delete", "pool", "bad", "--force"]) == 1
    assert apply(tmp_path, pool_text("good", "10.0.0.0/16")) == 0
    assert run(["get", "blocks", "10.0.0.0/26", "-o", "json"]) == 1
    assert "blocks/10.0.0.0-26 in the store cannot be read" in capsys.readouterr().err


def test_a_malformed_record_is_repaired_by_applying_it_anew(
    tmp_path: Path, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every kind; `create` leaves it alone."""
    put(store_path, dict.fromkeys((keys.pool("default"), keys.reservation("gateways"), keys.IPAM_CONFIGURATION), b"{"))
    assert apply(tmp_path, MIXED, "create") == 1
    assert run(["get", "ipamconfiguration"]) == 1
    assert run(["ipam", "show", "--show-configuration"]) == 1
    capsys.readouterr()
    assert apply(tmp_path, MIXED) == 0
    assert capsys.readouterr().out.count("configured") == 3
    for kind in ("pools", "reservations", "ipamconfiguration"):
        assert run(["get", kind]) == 0


async def test_a_reservation_changed_meanwhile_is_compared_with_what_is_there() -> None:
    """A writer that was overtaken reads again, and then sees that there is nothing left to do."""

    class OvertakenStore(CountingStore):
        """A store in which somebody else writes the same reservation first."""

        async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
            """Write it, then try."""
            if not self.transactions:
                await super().commit(operations)
            return await super().commit(operations)

    outcome = await write_resources(OvertakenStore(), wishes(RESERVATION), Mode.APPLY)
    assert [change.outcome for change in outcome] == [Outcome.UNCHANGED]
    with pytest.raises(RefusedError, match="exists"):
        await write_resources(OvertakenStore(), wishes(RESERVATION), Mode.CREATE)


def test_blocks_are_listed_without_reading_them(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The short table needs the summaries only."""
    usage = b'{"affinity":"h1","claimed_at":0,"in_use":3,"resting_count":0,"rested_at":0}'
    put(store_path, {keys.usage(ip_network("10.0.0.0/26")): usage, keys.BLOCKS + "10.0.0.0-26": b"unread"})
    assert run(["get", "blocks"]) == 0
    assert "10.0.0.0/26  h1          3 of 64" in capsys.readouterr().out
    assert run(["get", "blocks", "10.0.0.0/26"]) == 0
    assert run(["get", "blocks", "-o", "wide"]) == 1
    assert "see `tortiectl ipam check`" in capsys.readouterr().err

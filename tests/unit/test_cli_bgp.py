"""Peers, filters and the BGP configuration through the command line: together, and in spite of others who write."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from bgp.filter import Action, Rule
from bgp.peering import Filter, PeerDefinition
from controller.cli.main import run
from controller.cli.peers import delete_filter
from controller.cli.planning import Mode
from controller.cli.wishes import Wish
from controller.cli.writing import write_resources
from controller.datamodel import keys
from controller.errors import RefusedError
from controller.ports import Put
from controller.resources import kind_and_name
from controller.store.memory import MemoryStore
from controller.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from controller.ports import Operation, Version
    from controller.resources import Resource

ALL = """
apiVersion: tortie/v1
kind: BGPPeer
metadata: {name: tor-a}
spec: {peerAddress: 192.0.2.9, peerAS: 64500, nodeSelector: "rack == 'a'", password: "not: for #tables", filters: [in]}
---
apiVersion: tortie/v1
kind: BGPFilter
metadata: {name: in}
spec: {imports: [{action: Accept, cidr: 0.0.0.0/0, matchOperator: Equal}], exports: [{action: Reject, ipVersion: 6}]}
---
apiVersion: tortie/v1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMesh: false}
---
apiVersion: tortie/v1
kind: Pool
metadata: {name: default}
spec: {cidr: 10.0.0.0/16, communities: ["64512:100"]}
"""
FILTER = Filter("in", imports=(Rule(Action.REJECT),))


def wishes(*resources: Resource) -> list[Wish]:
    """Return the wishes for these resources, each at the place of its name."""
    return [Wish(resource, "{} {}".format(*kind_and_name(resource)).lower()) for resource in resources]


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name an empty store in the environment, as an operator would."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    return path


def apply(directory: Path, text: str) -> int:
    """Apply these documents and return the exit code."""
    file = directory / "resources.yaml"
    file.write_text(text)
    return run(["apply", "-f", str(file)])


def peer(name: str, *, node: str | None = None, selector: str | None = None, filters: Sequence[str] = ()) -> str:
    """Return the document of a peer at 192.0.2.9."""
    spec = {"peerAddress": "192.0.2.9", "peerAS": 64500, "filters": list(filters)}
    spec |= {field: value for field, value in (("node", node), ("nodeSelector", selector)) if value is not None}
    return f"---\napiVersion: tortie/v1\nkind: BGPPeer\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def definition(name: str, *, filters: tuple[str, ...] = ()) -> PeerDefinition:
    """Return the same as a value."""
    return PeerDefinition(name, ip_address("192.0.2.9"), 64500, filters=filters)


class OvertakenStore(MemoryStore):
    """A store in which somebody else does something just before one's own next transaction, once."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Callable[[], Awaitable[object]] | None = None
        self.transactions: list[set[str]] = []

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Let the other go first."""
        other, self.other = self.other, None
        if other is not None:
            await other()
        self.transactions.append({operation.key for operation in operations})
        return await super().commit(operations)

    async def write(self, *resources: Resource) -> None:
        """Write resources as `tortiectl apply` does."""
        await write_resources(self, wishes(*resources), Mode.APPLY)


def test_every_kind_is_applied_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A peer may stand before the filter it names; applied again, nothing changes."""
    assert apply(tmp_path, ALL) == 0
    assert apply(tmp_path, ALL) == 0
    assert capsys.readouterr().out.split() == [
        *("bgppeer", "tor-a", "created", "bgpfilter", "in", "created"),
        *("bgpconfiguration", "default", "created", "pool", "default", "created"),
        *("bgppeer", "tor-a", "unchanged", "bgpfilter", "in", "unchanged"),
        *("bgpconfiguration", "default", "unchanged", "pool", "default", "unchanged"),
    ]


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("what", ["bgppeers", "bgppeers tor-a", "bgpfilters", "bgpconfiguration", "pools"])
def test_what_is_shown_can_be_applied(form: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The password included."""
    apply(tmp_path, ALL)
    capsys.readouterr()
    assert run(["get", *what.split(), "-o", form]) == 0
    assert apply(tmp_path, capsys.readouterr().out) == 0
    assert capsys.readouterr().out.endswith(" unchanged\n")


@pytest.mark.parametrize("form", ["table", "wide"])
def test_no_table_tells_a_password(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says only that there is one."""
    apply(tmp_path, ALL)
    run(["get", "bgppeers", "-o", form])
    shown = capsys.readouterr().out
    assert "***" in shown
    assert "not: for" not in shown


async def test_all_of_it_is_one_transaction() -> None:
    """With the peers' revision, the version of a filter that a peer names and is not written along, and the anchor."""
    store = OvertakenStore()
    await store.write(FILTER, definition("a", filters=("in",)))
    await store.write(FILTER, definition("a"))
    await store.write(FILTER, definition("a", filters=("in",)))
    await store.write(FILTER)
    assert store.transactions == [
        {keys.filter_rules("in"), keys.peer("a"), keys.PEERS_REVISION, keys.CLUSTER_ANCHOR},
        {keys.peer("a"), keys.PEERS_REVISION},
        {keys.filter_rules("in"), keys.peer("a"), keys.PEERS_REVISION},
    ]


def test_a_peer_whose_filter_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the file is written."""
    assert apply(tmp_path, peer("good", node="h1") + peer("bad", filters=["in", "none"]) + "---" + ALL) == 1
    assert "document 2 (bad): spec.filters: bgpfilter none does not exist; apply it first" in capsys.readouterr().err
    assert run(["get", "bgppeers", "good"]) == 1
    assert run(["get", "bgpfilters", "in"]) == 1


def test_a_filter_is_deleted_only_when_no_peer_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The peers that do are named."""
    apply(tmp_path, ALL + peer("tor-b", node="h1", filters=["in"]) + peer("tor-c", node="h2"))
    assert run(["delete", "bgpfilter", "in"]) == 1
    assert "bgpfilter in is named by bgppeer tor-a, tor-b, whose session" in capsys.readouterr().err
    assert run(["delete", "bgppeer", "tor-a"]) == 0
    assert apply(tmp_path, peer("tor-b", node="h1")) == 0
    assert run(["delete", "bgpfilter", "in"]) == 0
    assert run(["delete", "bgpfilter", "in"]) == 1
    assert "bgpfilter in does not exist; there are: none" in capsys.readouterr().err
    assert run(["delete", "bgppeer", "tor-a"]) == 1
    assert "bgppeer tor-a does not exist; there are: tor-b, tor-c" in capsys.readouterr().err


async def test_a_filter_cannot_go_while_a_peer_that_names_it_comes() -> None:
    """Whoever is first, no peer is left with a filter that does not exist."""
    store = OvertakenStore()
    await store.write(FILTER)
    store.other = lambda: delete_filter(store, "in")
    with pytest.raises(RefusedError, match="bgpfilter in does not exist"):
        await store.write(definition("a", filters=("in",)))
    await store.write(FILTER)
    store.other = lambda: store.write(definition("a", filters=("in",)))
    with pytest.raises(RefusedError, match="is named by bgppeer a,"):
        await delete_filter(store, "in")


@pytest.mark.parametrize("scope", [{}, {"node": "h1"}, {"selector": "rack == 'a'"}])
def test_two_peers_of_one_scope_have_two_addresses(
    scope: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one file or one after the other; the other one is named."""
    assert apply(tmp_path, peer("a", **scope) + peer("b", **scope)) == 1
    assert "document 2 (b): spec.peerAddress: bgppeer a has 192.0.2.9 for " in capsys.readouterr().err
    assert apply(tmp_path, peer("a", **scope)) == 0
    assert apply(tmp_path, peer("b", **scope)) == 1
    assert "delete it" in capsys.readouterr().err
    assert apply(tmp_path, peer("a", **scope)) == 0


def test_an_address_may_be_a_peer_for_several_scopes(tmp_path: Path) -> None:
    """The narrower definition is the one a node goes by."""
    scopes = peer("a") + peer("b", node="h1") + peer("c", node="h2") + peer("d", selector="has(x)")
    assert apply(tmp_path, scopes) == 0


def test_two_peers_may_change_places_in_one_file(tmp_path: Path) -> None:
    """What counts is what there is afterwards."""
    assert apply(tmp_path, peer("a", node="h1") + peer("b", node="h2")) == 0
    assert apply(tmp_path, peer("a", node="h2") + peer("b", node="h1")) == 0


async def test_of_two_peers_written_at_once_one_is_refused() -> None:
    """The loser of the race sees the other's."""
    store = OvertakenStore()
    store.other = lambda: store.write(definition("a"))
    with pytest.raises(RefusedError, match="bgppeer a has"):
        await store.write(definition("b"))
    assert set(await store.list(keys.PEERS)) == {keys.peer("a")}


def test_the_deleted_configuration_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice is no error."""
    apply(tmp_path, ALL)
    assert run(["delete", "bgpconfiguration"]) == 0
    assert run(["delete", "bgpconfiguration"]) == 0
    capsys.readouterr()
    assert run(["get", "bgpconfiguration"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nodeToNodeMesh  yes"


def test_records_that_cannot_be_read_have_a_way_out(
    tmp_path: Path, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are named with it, are in the way only of what would have to be compared with them, and can be removed."""

    async def spoil() -> None:
        store = SqliteStore(store_path)
        spoilt = (keys.peer("bad"), keys.filter_rules("bad"), keys.BGP_CONFIGURATION)
        await store.commit([Put(key, b"{", None) for key in spoilt])
        await store.close()

    asyncio.run(spoil())
    for command, way_out in (
        (["get", "bgppeers"], "apply bgppeer bad anew, or remove it with `tortiectl delete bgppeer bad`"),
        (["get", "bgpfilters"], "apply bgpfilter bad anew, or remove it with `tortiectl delete bgpfilter bad`"),
        (["get", "bgpconfiguration"], "write it anew with `tortiectl apply`, as kind BGPConfiguration"),
        (["delete", "bgpfilter", "bad"], "whether a peer names bgpfilter bad cannot be told"),
    ):
        assert run(command) == 1
        assert way_out in capsys.readouterr().err
    assert apply(tmp_path, ALL) == 1
    assert "whether two peers have one address cannot be told: record" in capsys.readouterr().err
    assert run(["delete", "bgppeer", "bad"]) == 0
    assert run(["delete", "bgpfilter", "bad"]) == 0
    assert apply(tmp_path, ALL) == 0
    assert run(["get", "bgpconfiguration"]) == 0

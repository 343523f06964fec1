"""Resources in every store: conflict-safe writes, many at once, and that no sequence of commands breaks a rule."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgp.peering import Filter, PeerDefinition
from controller.cli.kinds import kind_called
from controller.cli.main import run
from controller.cli.patch import merged, patch_resource
from controller.cli.peers import delete_filter, delete_peer
from controller.cli.planning import Mode, Outcome
from controller.cli.pools import delete_pool
from controller.cli.stored import resource_in
from controller.cli.wishes import Wish, wish_of
from controller.cli.writing import plan_resources, write_resources
from controller.datamodel import keys
from controller.errors import ConflictError, RefusedError
from controller.ports import Delete
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess
from controller.store.memory import MemoryStore
from controller.store.sqlite import SqliteStore
from ipam.inventory import overlaps
from ipam.pool import Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from controller.ports import Store, Version
    from controller.resources import Resource

    class Consul(Protocol):
        """A running Consul server."""

        address: str


PREFIXES = (keys.POOLS, keys.RESERVATIONS, keys.PEERS, keys.FILTERS)
POOL = Pool("default", ip_network("10.0.0.0/16"), 26)


async def emptied(store: Store) -> None:
    """Remove every key of a store that others use before and after: a resource has no prefix of the test's own."""
    found = list(await store.list(keys.ROOT))
    for start in range(0, len(found), 60):
        await store.commit([Delete(key, None) for key in found[start : start + 60]])


@pytest.fixture(params=["memory", "sqlite", "consul"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Give two handles on one empty store, as two operators would have them."""
    opened: list[Store]
    if request.param == "consul":
        access = ConsulAccess(address=request.getfixturevalue("consul_server").address)
        opened = [ConsulStore(access), ConsulStore(access)]
        await emptied(opened[0])
    elif request.param == "sqlite":
        opened = [SqliteStore(tmp_path / "store.db"), SqliteStore(tmp_path / "store.db")]
    else:
        opened = [MemoryStore()] * 2
    yield opened[0], opened[1]
    if request.param == "consul":
        await emptied(opened[0])
    for store in opened:
        await store.close()


def wish(resource: Resource, version: Version | None = None) -> Wish:
    """Return the wish for a resource, as read at this version."""
    return Wish(resource, "here", version)


async def version_of(store: Store, key: str) -> Version:
    """Return the version that a record has now."""
    return (await store.get([key]))[key].version


async def test_only_the_version_that_was_read_is_written_over(stores: tuple[Store, Store]) -> None:
    """Whoever wrote in between, by whichever handle, keeps what they wrote."""
    one, other = stores
    key = keys.pool("default")
    await write_resources(one, [wish(POOL)], Mode.CREATE)
    version = await version_of(other, key)
    changed = Pool("default", POOL.cidr, 26, disabled=True)
    await write_resources(other, [wish(changed, version)], Mode.REPLACE)
    for mode in (Mode.APPLY, Mode.REPLACE):
        with pytest.raises(RefusedError, match=f"{version} was read, and pool default has been changed"):
            await write_resources(one, [wish(POOL, version)], mode)
    assert await version_of(one, key) != version
    await write_resources(one, [wish(POOL, await version_of(one, key))], Mode.APPLY)
    await delete_pool(one, "default")
    with pytest.raises(RefusedError, match="has been deleted"):
        await write_resources(other, [wish(POOL, version)], Mode.APPLY)
    await write_resources(other, [wish(POOL)], Mode.CREATE)
    with pytest.raises(RefusedError, match="has been changed"):
        await write_resources(one, [wish(changed, version)], Mode.APPLY)


async def test_of_many_who_write_at_once_each_either_counts_or_is_refused(stores: tuple[Store, Store]) -> None:
    """Ten operators with one version: one of them succeeds, and what they wrote stands."""
    one, other = stores
    await write_resources(one, [wish(Reservation("r", (ip_network("10.0.0.0/30"),)))], Mode.CREATE)
    version = await version_of(one, keys.reservation("r"))
    wanted = [Reservation("r", (ip_network(f"10.0.{n}.0/30"),)) for n in range(1, 11)]
    results = await asyncio.gather(
        *(write_resources(stores[n % 2], [wish(each, version)], Mode.APPLY) for n, each in enumerate(wanted)),
        return_exceptions=True,
    )
    written = [each for each, result in zip(wanted, results, strict=True) if isinstance(result, list)]
    assert len(written) == 1
    assert all(isinstance(result, (list, RefusedError)) for result in results)
    key = keys.reservation("r")
    assert resource_in(key, (await other.get([key]))[key].value) == written[0]


async def test_patches_at_once_are_all_made(stores: tuple[Store, Store]) -> None:
    """Each is made again to what the others have written; none is lost."""
    await write_resources(stores[0], [wish(POOL)], Mode.CREATE)
    patches: list[dict[str, Any]] = [
        {"disabled": True},
        {"natOutgoing": True},
        {"disableBGPExport": True},
        {"assignment": "Manual"},
    ]

    def patch(spec: dict[str, Any]) -> Callable[[object], object]:
        return lambda document: merged(document, {"spec": spec})

    await asyncio.gather(
        *(
            patch_resource(stores[n % 2], kind_called("pool"), "default", patch(spec), dry_run=False)
            for n, spec in enumerate(patches)
        )
    )
    key = keys.pool("default")
    found = resource_in(key, (await stores[1].get([key]))[key].value)
    assert isinstance(found, Pool)
    assert (found.disabled, found.nat_outgoing, found.disable_bgp_export) == (True, True, True)
    assert found.assignment.value == "manual"


async def test_more_than_a_transaction_holds_is_written(stores: tuple[Store, Store]) -> None:
    """A hundred peers, none of which comes before its filters; the second time nothing changes."""
    one, other = stores
    peers = [
        PeerDefinition(f"p{n}", ip_address("192.0.2.1") + n, 64512, filters=(f"f{n}", f"f{(n + 7) % 100}"))
        for n in range(100)
    ]
    resources: list[Resource] = [*peers, *(Filter(f"f{n}") for n in range(100))]
    done = await write_resources(one, [wish(each) for each in resources], Mode.CREATE)
    assert {change.outcome for change in done} == {Outcome.CREATED}
    assert len(await other.list(keys.PEERS)) == len(peers)
    plan = await plan_resources(other, [wish(each) for each in resources], Mode.APPLY)
    assert {change.outcome for change in plan} == {Outcome.UNCHANGED}


async def test_the_largest_records_go_together_as_far_as_every_store_takes_them(stores: tuple[Store, Store]) -> None:
    """A transaction's size is bounded as well as its number of operations."""
    ranges = tuple(ip_network(f"10.{high}.{low}.0/24") for high in range(24) for low in range(250))
    wishes = [wish(Reservation(f"r{n}", ranges)) for n in range(6)]
    await write_resources(stores[0], wishes, Mode.CREATE)
    assert len(await stores[1].list(keys.RESERVATIONS)) == 6


def test_the_commands_work_on_a_real_consul(
    own_consul: Consul, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the file to the store and back: the version that is shown is the store's."""
    monkeypatch.setenv("TORTIE_STORE", "consul")
    monkeypatch.setenv("TORTIE_CONSUL_ADDRESS", own_consul.address)
    file = tmp_path / "pool.yaml"
    file.write_text("{apiVersion: tortie/v1, kind: Pool, metadata: {name: default}, spec: {cidr: 10.0.0.0/16}}\n")
    assert run(["apply", "-f", str(file), "--dry-run"]) == 1
    assert run(["create", "-f", str(file)]) == 0
    capsys.readouterr()
    assert run(["get", "pool", "default", "-o", "yaml"]) == 0
    shown = capsys.readouterr().out
    file.write_text(shown)
    assert run(["patch", "pool", "default", "-p", "{spec: {disabled: true}}"]) == 0
    assert run(["replace", "-f", str(file)]) == 1
    assert "has been changed" in capsys.readouterr().err
    monkeypatch.setenv("EDITOR", "sed -i 's/disabled: true/disabled: false/'")
    assert run(["edit", "pool", "default"]) == 0
    assert run(["delete", "-f", str(file)]) == 0
    assert yaml.safe_load(shown)["metadata"]["resourceVersion"].isdecimal()


# --------------------------------------------------------------------------------------------------------- any sequence

NAMES = st.sampled_from(["a", "b", "c"])
POOLS = st.builds(
    lambda name, cidr, size, disabled: {
        "kind": "Pool",
        "metadata": {"name": name},
        "spec": {"cidr": cidr, "blockSize": size, "disabled": disabled},
    },
    NAMES,
    st.sampled_from(["10.0.0.0/16", "10.0.1.0/24", "10.1.0.0/16", "fd00::/64"]),
    st.sampled_from([24, 26, 122]),
    st.booleans(),
)
PEERS = st.builds(
    lambda name, address, node, filters: {
        "kind": "BGPPeer",
        "metadata": {"name": name},
        "spec": {"peerAddress": address, "peerAS": 64512, "filters": filters, **({"node": node} if node else {})},
    },
    NAMES,
    st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    st.sampled_from([None, "h1"]),
    st.lists(NAMES, max_size=2),
)
FILTERS = st.builds(lambda name: {"kind": "BGPFilter", "metadata": {"name": name}, "spec": {}}, NAMES)
DOCUMENTS = st.lists(POOLS | PEERS | FILTERS, min_size=1, max_size=4)
COMMANDS = st.lists(
    st.tuples(st.sampled_from(["create", "apply", "replace"]), DOCUMENTS)
    | st.tuples(st.just("patch"), POOLS | PEERS)
    | st.tuples(st.sampled_from(["pool", "bgppeer", "bgpfilter"]), NAMES),
    max_size=12,
)


async def carry_out(store: Store, verb: str, what: object) -> None:
    """Do what a command does; raises what it is refused with."""
    if isinstance(what, list):
        wishes = [wish_of({"apiVersion": "tortie/v1", **document}, "here") for document in what]
        if len({each.title for each in wishes}) == len(wishes):
            await write_resources(store, wishes, Mode(verb))
    elif isinstance(what, dict):
        kind, name = kind_called(what["kind"]), what["metadata"]["name"]
        await patch_resource(store, kind, name, lambda document: merged(document, what), dry_run=False)
    else:
        delete = {"pool": delete_pool, "bgppeer": delete_peer, "bgpfilter": delete_filter}[verb]
        await delete(store, str(what))


async def check_rules(store: Store) -> None:
    """Every record can be read; no pools overlap, no peer names a filter that is not there or has another's place."""
    found = await store.list(keys.CLUSTER)  # of one instant
    resources = [resource_in(key, entry.value) for key, entry in found.items() if key.startswith(PREFIXES)]
    assert list(overlaps(each.cidr for each in resources if isinstance(each, Pool))) == []
    peers = [each for each in resources if isinstance(each, PeerDefinition)]
    assert {name for peer in peers for name in peer.filters} <= {
        each.name for each in resources if isinstance(each, Filter)
    }
    places = [(peer.address, peer.node, peer.node_selector) for peer in peers]
    assert len(set(places)) == len(places)


@given(COMMANDS, COMMANDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_sequence_of_commands_breaks_a_rule(first: list[tuple[str, Any]], second: list[tuple[str, Any]]) -> None:
    """Of two operators at once, each of whose commands may be refused; after every command the rules hold."""

    async def operate(store: Store, commands: list[tuple[str, Any]]) -> None:
        for verb, what in commands:
            with suppress(RefusedError, ConflictError):
                await carry_out(store, verb, what)
            await check_rules(store)

    async def both() -> None:
        store = MemoryStore()
        await asyncio.gather(operate(store, first), operate(store, second))

    asyncio.run(both())

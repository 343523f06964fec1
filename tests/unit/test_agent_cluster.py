"""Pools and nodes, folded from what the watch of the store delivers."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address, ip_network

import pytest

from bgp.configuration import BgpConfiguration
from controller.agent.cluster import Cluster, fold
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_bgp_configuration
from controller.datamodel.records import Node, encode_node, encode_pool
from controller.ports import Changes, Entry, Snapshot, Version
from ipam.pool import Pool

POOL = Pool("web", ip_network("10.0.0.0/16"), 26)
NODE = Node("n1", 64512, IPv4Address("192.0.2.1"), None)
OTHER = Node("n2", 64512, IPv4Address("192.0.2.2"), None)


def pool_entry(pool: Pool = POOL, version: int = 1) -> dict[str, Entry]:
    """Return a pool's record under its key."""
    return {keys.pool(pool.name): Entry(encode_pool(pool), Version(version))}


def node_entry(node: Node = NODE, version: int = 1) -> dict[str, Entry]:
    """Return a node's record under its key."""
    return {keys.node(node.name): Entry(encode_node(node), Version(version))}


@pytest.fixture
def known() -> Cluster:
    """Return a cluster of one pool and two nodes."""
    return fold(Cluster(), Snapshot({**pool_entry(), **node_entry(), **node_entry(OTHER)}))


def test_a_snapshot_says_all_there_is(known: Cluster) -> None:
    """Pools come with the version of their record, and what is neither pool nor node means nothing."""
    anchors = {key: Entry(b"{}", Version(1)) for key in (keys.CLUSTER_ANCHOR, keys.POOLS_REVISION)}
    assert known == Cluster({"web": (POOL, Version(1))}, {"n1": NODE, "n2": OTHER})
    assert fold(Cluster(), Snapshot(anchors)) == Cluster()


def test_a_snapshot_replaces_what_was_known(known: Cluster) -> None:
    """After an outage nothing stays of which the store knows nothing."""
    assert fold(known, Snapshot(node_entry(OTHER))) == Cluster(nodes={"n2": OTHER})


def test_a_snapshot_in_a_running_agent_takes_no_malformed_record_away() -> None:
    """A store that was restored says all anew: a record that is bad there counts as it did before, of every kind."""
    bgp = {keys.BGP_CONFIGURATION: Entry(encode_bgp_configuration(BgpConfiguration(mesh=False)), Version(1))}
    known = fold(None, Snapshot({**pool_entry(), **node_entry(), **node_entry(OTHER), **bgp}))
    bad = dict.fromkeys((keys.pool("web"), keys.node("n1"), keys.BGP_CONFIGURATION), Entry(b"?", Version(7)))
    folded = fold(known, Snapshot(bad))
    assert (folded.pools, folded.nodes, folded.bgp_configuration.mesh) == (known.pools, {"n1": NODE}, False)
    assert folded.malformed.keys() == bad.keys()
    assert not folded.unread


def test_what_is_malformed_from_the_start_is_unread_until_it_is_mended_or_gone() -> None:
    """Nobody can tell what it said; one that becomes malformed later was known, if only not to be there."""
    first, second, third = keys.pool("web"), keys.peer("reflector"), keys.node("n3")
    bad = Entry(b"?", Version(1))
    cluster = fold(None, Snapshot({first: bad, second: bad, **node_entry()}))
    assert cluster.unread == {first, second}
    cluster = fold(cluster, Changes({third: bad, first: Entry(b"!", Version(2))}, frozenset()))
    assert cluster.unread == {first, second}
    assert cluster.malformed.keys() == {first, second, third}
    cluster = fold(cluster, Snapshot({first: bad, second: bad, third: bad}))
    assert cluster.unread == {first, second}
    cluster = fold(cluster, Changes(pool_entry(), frozenset()))
    assert cluster.unread == {second}
    assert not fold(cluster, Changes({}, frozenset({second}))).unread


def test_changes_write_and_delete_what_they_name(known: Cluster) -> None:
    """Everything else stays as it was."""
    moved = Node("n1", 64512, IPv4Address("192.0.2.9"), None)
    changed = fold(known, Changes({**node_entry(moved, 2), **pool_entry(version=2)}, frozenset({keys.node("n2")})))
    assert changed == Cluster({"web": (POOL, Version(2))}, {"n1": moved})
    assert fold(changed, Changes({}, frozenset({keys.pool("web")}))) == Cluster({}, {"n1": moved})


def test_no_changes_change_nothing(known: Cluster) -> None:
    """The end of an outage is told that way."""
    assert fold(known, Changes({}, frozenset())) == known


def test_what_was_folded_before_stays_as_it_was(known: Cluster) -> None:
    """Whoever holds a cluster can rely on it."""
    fold(known, Changes({}, frozenset({keys.pool("web"), keys.node("n1")})))
    assert known.pools == {"web": (POOL, Version(1))}
    assert known.nodes == {"n1": NODE, "n2": OTHER}


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"{}", b'{"name": "web", "cidr": "10.0.0.0/33"}'])
@pytest.mark.parametrize("key", [keys.pool("web"), keys.node("n1")])
def test_a_malformed_record_is_reported_and_its_former_self_stays(
    known: Cluster, key: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad record takes nothing else with it, and its key is in the log and in what is known."""
    with caplog.at_level(logging.WARNING):
        cluster = fold(known, Changes({key: Entry(value, Version(2))}, frozenset()))
    assert (cluster.pools, cluster.nodes) == (known.pools, known.nodes)
    assert list(cluster.malformed) == [key]
    assert key in cluster.malformed[key]
    assert [vars(record)["key"] for record in caplog.records] == [key]


@pytest.mark.parametrize(
    "healing",
    [
        Changes(node_entry(version=3), frozenset()),
        Snapshot({**pool_entry(), **node_entry(version=3), **node_entry(OTHER)}),
    ],
)
def test_a_record_written_anew_is_healed(known: Cluster, healing: Changes | Snapshot) -> None:
    """What was malformed is forgotten."""
    broken = fold(known, Changes({keys.node("n1"): Entry(b"?", Version(2))}, frozenset()))
    assert fold(broken, healing) == known


def test_a_malformed_record_that_is_deleted_is_forgotten(known: Cluster) -> None:
    """It is no problem any more."""
    broken = fold(known, Changes({keys.node("n1"): Entry(b"?", Version(2))}, frozenset()))
    assert fold(broken, Changes({}, frozenset({keys.node("n1")}))).malformed == {}


def test_a_malformed_record_stays_reported(known: Cluster) -> None:
    """Changes of others do not hide it."""
    broken = fold(known, Changes({keys.node("n1"): Entry(b"?", Version(2))}, frozenset()))
    assert list(fold(broken, Changes(node_entry(OTHER, 5), frozenset())).malformed) == [keys.node("n1")]

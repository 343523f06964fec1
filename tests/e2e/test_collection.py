"""What nobody uses comes back by itself, on real hosts: after a link was deleted, a host started anew."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest

from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.datamodel.endpoints import Endpoints, decode_endpoints
from controller.datamodel.records import decode_node, decode_pool, encode_pool
from controller.lab.lab import Lab
from controller.ports import Put
from controller.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from controller.ports import Entry, Store
    from ipam.address import IPAddress
    from ipam.block import Block

T = TypeVar("T")
#: The agent looks at least once a minute.
_DEADLINE_SECONDS = 150.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {_DEADLINE_SECONDS} s: {what}")
        time.sleep(0.1)


def from_store(lab: Lab, ask: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Return what the lab's store answers."""

    async def asked() -> T:
        store = open_store(f"sqlite:{lab.layout().state / 'store.db'}")
        try:
            return await ask(store)
        finally:
            await store.close()

    return asyncio.run(asked())


def entry(lab: Lab, key: str) -> Entry | None:
    """Return what lies under a key."""
    return from_store(lab, lambda store: store.get([key])).get(key)


def endpoints(lab: Lab, host: str) -> Endpoints | None:
    """Return what a host has published."""
    found = entry(lab, keys.endpoints(host))
    return None if found is None else decode_endpoints(keys.endpoints(host), found.value)


def blocks(lab: Lab, host: str) -> list[Block]:
    """Return the blocks that a host owns, oldest first."""
    found = from_store(lab, lambda store: store.list(keys.BLOCKS))
    decoded = [decode_block(key, each.value) for key, each in found.items()]
    return sorted((block for block in decoded if block.affinity == host), key=lambda block: block.claimed_at)


def held(lab: Lab, host: str) -> set[IPAddress]:
    """Return the addresses that the workloads of a host hold."""
    return {address for block in blocks(lab, host) for address, _ in block.assignments()}


def wired(lab: Lab, host: str) -> dict[str, tuple[IPAddress, ...]]:
    """Return each workload link of a host with its permanent neighbours, as `ip` shows them."""
    links = json.loads(lab.run(host, ["ip", "-j", "link", "show", "type", "veth"]).stdout)
    found = json.loads(lab.run(host, ["ip", "-j", "neigh", "show", "nud", "permanent"]).stdout)
    addresses = sorted((ipaddress.ip_address(each["dst"]), each["dev"]) for each in found)
    return {
        name: tuple(address for address, link in addresses if link == name)
        for name in (str(link["ifname"]) for link in links)
        if name.startswith("tor")
    }


def published(lab: Lab, host: str) -> bool:
    """Return whether a host's record says what is wired there."""
    found = endpoints(lab, host)
    return found is not None and found.addresses_by_link == wired(lab, host)


def configure(lab: Lab, *options: str) -> None:
    """Set rules of address management."""
    done = lab.run("h1", ["tortiectl", "ipam", "configure", *options])
    assert done.returncode == 0, done.stderr


def delete_links(lab: Lab, host: str) -> None:
    """Delete every workload link of a host, as a reboot does."""
    for link in wired(lab, host):
        assert lab.run(host, ["ip", "link", "del", link]).returncode == 0


def select_rack(lab: Lab, rack: str) -> None:
    """Let the lab's pool serve the nodes of one rack only."""

    async def select(store: Store) -> None:
        ((key, found),) = (await store.list(keys.POOLS)).items()
        pool = replace(decode_pool(key, found.value), node_selector=f"rack == '{rack}'")
        await store.commit([Put(key, encode_pool(pool), None)])

    from_store(lab, select)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts on SQLite, each with two workloads."""
    lab = Lab(f"c{os.getpid()}")
    try:
        lab.up(nodes=2, workloads=2)
        yield lab
    finally:
        lab.down()


def test_what_is_wired_is_published(lab: Lab) -> None:
    """Every host's links and addresses as the kernel has them, soon after a workload came, too."""
    for host in ("h1", "h2"):
        assert len(wired(lab, host)) == 2
        wait_until(partial(published, lab, host), f"{host} has published what is wired")
    before = endpoints(lab, "h1")
    assert before is not None
    workload = lab.add_workload("h1")
    assert ipaddress.ip_address(workload.addresses[0]) in {
        address for addresses in wired(lab, "h1").values() for address in addresses
    }
    wait_until(partial(published, lab, "h1"), "the new one is published")
    after = endpoints(lab, "h1")
    assert after is not None
    assert before.seen_at < after.seen_at <= time.time()
    lab.remove_workload(workload.name)


def test_a_link_deleted_by_somebody_gives_its_address_back(lab: Lab) -> None:
    """And none but that; the log says whose it was, and the host's record that it is gone."""
    assert held(lab, "h1") == {address for addresses in wired(lab, "h1").values() for address in addresses}
    link, (address,) = next(iter(wired(lab, "h1").items()))
    kept = held(lab, "h1") - {address}
    assert lab.run("h1", ["ip", "link", "del", link]).returncode == 0
    configure(lab, "--grace-seconds=1")
    wait_until(lambda: address not in held(lab, "h1"), "the address is free")
    assert held(lab, "h1") == kept
    wait_until(lambda: "assignment collected" in lab.log("h1/agent").read_text(), "it is told")
    (line,) = [line for line in lab.log("h1/agent").read_text().splitlines() if "assignment collected" in line]
    for field in (f"addresses={address}", f"links={link}", "node=h1", "grace_seconds=1", "handle=cni/", "created_at="):
        assert field in line
    wait_until(partial(published, lab, "h1"), "the record says that it is gone")
    assert "assignment collected" not in lab.log("h2/agent").read_text()


def test_containers_that_come_are_never_collected(lab: Lab) -> None:
    """Even if nothing is granted: each is reachable, and holds the address it was given."""
    configure(lab, "--grace-seconds=0")
    added = [lab.add_workload("h2") for _ in range(4)]
    assert {ipaddress.ip_address(workload.addresses[0]) for workload in added} <= held(lab, "h2")
    for workload in added:
        assert lab.run("h1", ["ping", "-c1", "-W5", workload.addresses[0]]).returncode == 0
    assert "assignment collected" not in lab.log("h2/agent").read_text()


def test_after_a_reboot_everything_comes_back_but_one_block(lab: Lab) -> None:
    """All links are gone at once, before the agent starts: it collects every assignment and keeps its oldest block."""
    configure(lab, "--grace-seconds=1")
    (before,) = blocks(lab, "h2")
    assert held(lab, "h2") != set()
    lab.stop("h2/agent")
    delete_links(lab, "h2")
    lab.start("h2/agent")
    wait_until(lambda: held(lab, "h2") == set(), "every address is free")
    assert [block.cidr for block in blocks(lab, "h2")] == [before.cidr]


def test_the_labels_of_a_node_decide_which_blocks_it_keeps(lab: Lab) -> None:
    """An agent that starts with other labels tells the cluster; the block of a pool that is not for it is returned."""
    configure(lab, "--grace-seconds=1")
    delete_links(lab, "h2")
    (lab.layout().state / "h2" / "tortie.toml").write_text('[labels]\nrack = "b"\n')
    assert len(blocks(lab, "h2")) == 1
    lab.stop("h2/agent")
    lab.start("h2/agent")

    def labels() -> dict[str, str]:
        found = entry(lab, keys.node("h2"))
        return {} if found is None else dict(decode_node(keys.node("h2"), found.value).labels)

    wait_until(lambda: labels() == {"rack": "b"}, "the node is registered with its labels")
    select_rack(lab, "a")
    wait_until(lambda: blocks(lab, "h2") == [], "the last block is returned")
    wait_until(lambda: "empty block returned" in lab.log("h2/agent").read_text(), "it is told")
    assert len(blocks(lab, "h1")) == 1

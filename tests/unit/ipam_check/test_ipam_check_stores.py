"""The check on a real Consul server, and on a cluster of thousands of addresses."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from controller.assignment.repair import repair
from controller.datamodel import keys
from controller.datamodel.endpoints import Endpoints, encode_endpoints
from ipam.block import Block, Holder

if TYPE_CHECKING:
    from ipam.address import IPAddress
    from tests.unit.ipam_check.conftest import Cluster, Fault


async def test_consul_takes_every_repair(cluster_on_consul: Cluster, faults: tuple[Fault, ...]) -> None:
    """Guards on blocks that are there and on those that are not mean the same to Consul as to the store in memory."""
    assert (await cluster_on_consul.find()).problems == ()
    for fault in faults:
        if fault.repairable:
            await fault.plant(cluster_on_consul)
    found = (await cluster_on_consul.find()).problems
    assert {problem.kind for problem in found} == {fault.kind for fault in faults if fault.repairable}
    await repair(cluster_on_consul.store, found, lambda: cluster_on_consul.now)
    assert (await cluster_on_consul.find()).problems == ()


async def test_five_thousand_assignments_are_in_order(cluster: Cluster) -> None:
    """Each is held in a block, wired at its link, and no problem."""
    links: dict[str, tuple[IPAddress, ...]] = {}
    for number in range(79):
        block = Block.claimed(ip_network((f"10.65.{128 + number}.0", 26)), node="h3", at=0.0)
        for ordinal in range(64):
            link = f"tor-{number}-{ordinal}"
            block, address = block.assign(Holder(link, "h3", "web", "shop", link, 0.0))
            links[link] = (address,)
        await cluster.write(block)
    await cluster.put(keys.endpoints("h3"), encode_endpoints(Endpoints("h3", cluster.now, links)))
    # What the healthy cluster's h3 held before is told now, too.
    await cluster.rewire("h3", {"tor000000000005": ("10.65.2.2",)})
    found = await cluster.find()
    assert len(list(found.inventory.held())) > 5_000
    assert found.problems == ()

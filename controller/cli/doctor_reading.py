"""What the store says should be, read as of one instant: all of it, or what is around one address or block."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from controller.agent.cluster import Cluster, fold
from controller.assignment.inventory import inventory_of
from controller.datamodel import keys
from controller.diagnosis.snapshot import Snapshot as Wanted
from controller.ports import Snapshot
from ipam.audit import audit
from ipam.pool import BLOCK_PREFIX_LENGTHS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from controller.ports import Entry, Store
    from ipam.address import IPNetwork
    from ipam.block import Block


async def read_all(store: Store) -> Wanted:
    """Return all there is; raises what `Store.list` raises."""
    return wanted_of(await store.list(keys.ROOT))


async def read_around(store: Store, network: IPNetwork) -> Wanted:
    """Return the cluster and the blocks that a network lies in, with what concerns those; the other blocks not.

    The readings are not of one instant: who finds something wrong reads again.
    """
    entries = await store.list(keys.CLUSTER)
    lengths = (length for length in BLOCK_PREFIX_LENGTHS[network.version] if length <= network.prefixlen)
    candidates = [network.supernet(new_prefix=length) for length in lengths]
    entries |= await store.get([keys.block(cidr) for cidr in candidates])
    found = inventory_of(entries, now=time.time())
    related = [*(keys.usage(cidr) for cidr in candidates), *_related(found.blocks.values())]
    return wanted_of({**entries, **await store.get(related)})


def wanted_of(entries: Mapping[str, Entry]) -> Wanted:
    """Return what these records say together."""
    cluster = fold(Cluster(), Snapshot(entries))
    inventory = inventory_of(entries, now=time.time())
    in_mesh = cluster.bgp_configuration.mesh and all(node.cluster_id is None for node in cluster.nodes.values())
    return Wanted(
        inventory=inventory,
        nodes=cluster.nodes,
        drained=frozenset(cluster.drains),
        plain_mesh=in_mesh and not cluster.peers,
        problems=audit(inventory),
    )


def _related(blocks: Iterable[Block]) -> set[str]:
    """Return the keys that have to fit these blocks: whose they are, and what their holders have wired."""
    related: set[str] = set()
    for block in blocks:
        holding = block.holding_nodes()
        if block.affinity is not None:
            related.add(keys.owned(block.affinity, block.cidr))
        related |= {keys.held(node, block.cidr) for node in holding if node != block.affinity}
        related |= {keys.endpoints(node) for node in holding}
    return related

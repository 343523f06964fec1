"""Every key in the store, version 1.

    tortie/v1/cluster/anchor                  names these contents; written once, with the first applied
    tortie/v1/cluster/pools/NAME              a pool
    tortie/v1/cluster/pools-revision          written with every pool, so that no two pools can overlap
    tortie/v1/cluster/nodes/NAME              a node, written by its agent
    tortie/v1/cluster/reservations/NAME       ranges that automatic assignment leaves alone
    tortie/v1/cluster/ipam-configuration      the rules of assignment and release; absent: the defaults
    tortie/v1/cluster/bgp-configuration       whether nodes form a mesh; absent: they do
    tortie/v1/cluster/peers/NAME              a BGP peer besides the mesh
    tortie/v1/cluster/peers-revision          written with every peer, so that none names a filter that is being deleted
    tortie/v1/cluster/filters/NAME            rules for what peers tell and are told
    tortie/v1/cluster/drains/NODE             NODE is to be routed around
    tortie/v1/blocks/CIDR                     a block and who holds its addresses; `/` in the CIDR is written `-`
    tortie/v1/usage/CIDR                      the block's summary: its owner and how many addresses are in use
    tortie/v1/share/NODE/anchor               keeps the prefix from ever being empty
    tortie/v1/share/NODE/own/CIDR             NODE owns this block
    tortie/v1/share/NODE/held/CIDR            NODE holds addresses in this block, which it does not own
    tortie/v1/fences/NODE                     what every transaction of NODE rests on
    tortie/v1/endpoints/NODE                  which addresses NODE's kernel has wired to workloads, and when it looked

A blocking query on an empty Consul prefix returns at every write of the whole cluster, so each watched prefix
keeps one key: the node's own record, and its share's anchor. A node watches `cluster/` and its own `share/NODE/`,
nothing else: blocks, their summaries and endpoints are written often and read on demand.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ipam.address import IPNetwork

ROOT: Final = "tortie/v1/"
CLUSTER: Final = ROOT + "cluster/"
CLUSTER_ANCHOR: Final = CLUSTER + "anchor"
POOLS: Final = CLUSTER + "pools/"
POOLS_REVISION: Final = CLUSTER + "pools-revision"
NODES: Final = CLUSTER + "nodes/"
RESERVATIONS: Final = CLUSTER + "reservations/"
IPAM_CONFIGURATION: Final = CLUSTER + "ipam-configuration"
BGP_CONFIGURATION: Final = CLUSTER + "bgp-configuration"
PEERS: Final = CLUSTER + "peers/"
PEERS_REVISION: Final = CLUSTER + "peers-revision"
FILTERS: Final = CLUSTER + "filters/"
DRAINS: Final = CLUSTER + "drains/"
BLOCKS: Final = ROOT + "blocks/"
USAGE: Final = ROOT + "usage/"
FENCES: Final = ROOT + "fences/"
ENDPOINTS: Final = ROOT + "endpoints/"
SHARES: Final = ROOT + "share/"


def pool(name: str) -> str:
    """Return the key of a pool."""
    return POOLS + name


def node(name: str) -> str:
    """Return the key of a node's record."""
    return NODES + name


def reservation(name: str) -> str:
    """Return the key of a reservation."""
    return RESERVATIONS + name


def peer(name: str) -> str:
    """Return the key of a BGP peer."""
    return PEERS + name


def filter_rules(name: str) -> str:
    """Return the key of a filter."""
    return FILTERS + name


def drain(node_name: str) -> str:
    """Return the key that says a node is to be routed around."""
    return DRAINS + node_name


def endpoints(node_name: str) -> str:
    """Return the key under which a node's agent writes which addresses are wired on its host."""
    return ENDPOINTS + node_name


def fence(node_name: str) -> str:
    """Return the key on which every transaction of a node rests."""
    return FENCES + node_name


def usage(cidr: IPNetwork) -> str:
    """Return the key of a block's summary."""
    return USAGE + _written(cidr)


def block(cidr: IPNetwork) -> str:
    """Return the key of a block."""
    return BLOCKS + _written(cidr)


def share(node_name: str) -> str:
    """Return the prefix of everything that is one node's."""
    return f"{SHARES}{node_name}/"


def share_anchor(node_name: str) -> str:
    """Return the key that keeps a node's share from being empty."""
    return share(node_name) + "anchor"


def owned(node_name: str, cidr: IPNetwork) -> str:
    """Return the key that says a node owns a block."""
    return f"{share(node_name)}own/{_written(cidr)}"


def held(node_name: str, cidr: IPNetwork) -> str:
    """Return the key that says a node holds addresses in a block it does not own."""
    return f"{share(node_name)}held/{_written(cidr)}"


def cidr_of(key: str) -> IPNetwork:
    """Return the CIDR that the last part of a key about a block names; raises ValueError for another key."""
    return ipaddress.ip_network(key.rpartition("/")[2].replace("-", "/"))


def _written(cidr: IPNetwork) -> str:
    return str(cidr).replace("/", "-")

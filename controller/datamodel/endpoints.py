"""The JSON of a node's endpoints: what its kernel really has wired to workloads, and when its agent last looked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from controller.datamodel import keys
from controller.datamodel.codec import decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.address import IPAddress


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The workload links of a node as its kernel had them at `seen_at`, in epoch seconds.

    `addresses_by_link` maps the name of each link, on the host's side, to the addresses that are delivered to it; a
    link without any is there with none.
    """

    node: str
    seen_at: float
    addresses_by_link: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)


def encode_endpoints(endpoints: Endpoints) -> bytes:
    """Return the record of a node's endpoints."""
    return encoded(
        {
            "node": endpoints.node,
            "seen_at": endpoints.seen_at,
            "links": {link: list(map(str, addresses)) for link, addresses in endpoints.addresses_by_link.items()},
        }
    )


def decode_endpoints(key: str, value: bytes) -> Endpoints:
    """Return the endpoints a record describes; raises `MalformedRecord`, also for one that lies under a wrong key."""

    def build(fields: dict[str, Any]) -> Endpoints:
        node = str(fields["node"])
        if keys.endpoints(node) != key:
            raise ValueError(f"it describes {node}, whose key is {keys.endpoints(node)}")
        return Endpoints(
            node=node,
            seen_at=float(fields["seen_at"]),
            addresses_by_link={
                str(link): tuple(ipaddress.ip_address(address) for address in addresses)
                for link, addresses in fields["links"].items()
            },
        )

    return decoded(key, value, build)

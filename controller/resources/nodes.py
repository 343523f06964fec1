"""The kind that describes a host: Node. Its agent writes it; a document of it is read and compared, never written."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from controller.errors import RefusedError
from controller.resources.fields import AsNumber, Document, RouterAddress, Versioned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.address import IPAddress


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """What a document says of a node; each field has the name of the agent's setting that decides it."""

    name: str
    labels: Mapping[str, str]
    as_number: int
    ipv4_address: IPAddress | None
    ipv6_address: IPAddress | None
    cluster_id: str | None


class NodeMetadata(Versioned):
    """The node's name and the labels that selectors match."""

    name: str = Field(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9.\-]{0,251}[a-zA-Z0-9])?$", description="the node's name")
    labels: dict[str, str] = Field(default_factory=dict, description="set by the setting `labels` of the node's agent")


class NodeSpec(Document):
    """What the node's agent has written; at least one address."""

    as_number: AsNumber = Field(description="set by `as_number`")
    ipv4_address: RouterAddress | None = Field(default=None, description="found as `ipv4_address` says")
    ipv6_address: RouterAddress | None = Field(default=None, description="found as `ipv6_address` says")
    cluster_id: str | None = Field(default=None, alias="clusterID", description="set by `cluster_id`")


class NodeDocument(Document):
    """A node as `tortiectl get` shows it; nothing of it can be written."""

    api_version: Literal["tortie/v1"]
    kind: Literal["Node"]
    metadata: NodeMetadata
    spec: NodeSpec
    status: dict[str, str] = Field(default_factory=dict, description="what was seen of the node; not compared")


def parse_node(document: object) -> NodeDescription:
    """Return what a document says of a node; raises `RefusedError` or pydantic's `ValidationError`."""
    written = NodeDocument.model_validate(document)
    addresses = [
        None if text is None else ipaddress.ip_address(text)
        for text in (written.spec.ipv4_address, written.spec.ipv6_address)
    ]
    for version, address in zip((4, 6), addresses, strict=True):
        if address is not None and address.version != version:
            raise RefusedError(f"spec.ipv{version}Address: {address} is an IPv{address.version} address")
    return NodeDescription(
        name=written.metadata.name,
        labels=written.metadata.labels,
        as_number=written.spec.as_number,
        ipv4_address=addresses[0],
        ipv6_address=addresses[1],
        cluster_id=written.spec.cluster_id,
    )


def node_document(node: NodeDescription) -> tuple[dict[str, object], dict[str, object]]:
    """Return the metadata and the specification that describe a node."""
    spec: dict[str, object] = {
        "asNumber": node.as_number,
        "ipv4Address": None if node.ipv4_address is None else str(node.ipv4_address),
        "ipv6Address": None if node.ipv6_address is None else str(node.ipv6_address),
        "clusterID": node.cluster_id,
    }
    return {"name": node.name, "labels": dict(sorted(node.labels.items()))}, spec

"""What users write: resources as documents, validated, with the field named that breaks a rule.

A document looks as in Kubernetes and Calico:

    apiVersion: tortie/v1
    kind: Pool
    metadata: {name: default}
    spec: {cidr: 10.244.0.0/16, blockSize: 26}

The kinds are Pool, Reservation, IPAMConfiguration, BGPPeer, BGPFilter and BGPConfiguration; of the two configurations
there is one each, whose name is `default`. A Node is read as well, but what it says is its agent's to write. Unknown
fields are refused: a misspelt one would otherwise be silently without effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from pydantic import ValidationError

from bgp.configuration import BgpConfiguration
from bgp.peering import Filter, PeerDefinition
from controller.errors import RefusedError
from controller.resources import addressing, filtering, nodes, peering
from controller.resources.fields import ONLY_NAME, problems_of
from controller.resources.nodes import NodeDescription
from ipam.configuration import IpamConfiguration
from ipam.pool import Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.resources.fields import Document

#: What people write into the store.
Writable: TypeAlias = Pool | Reservation | IpamConfiguration | PeerDefinition | Filter | BgpConfiguration
Resource: TypeAlias = Writable | NodeDescription

API_VERSION: Final = "tortie/v1"


def parse_resource(document: object) -> Resource:
    """Return what a document describes; raises `RefusedError` that names each field that breaks a rule."""
    if not isinstance(document, dict):
        raise RefusedError("not a mapping; a resource has apiVersion, kind, metadata and spec")
    check_api_version(document)
    kind = document.get("kind")
    parse = _PARSER_BY_KIND.get(kind) if isinstance(kind, str) else None
    if parse is None:
        written = ", ".join(known for known in _PARSER_BY_KIND if known != "Node")
        raise RefusedError(f"kind: {kind!r} cannot be written; write {written}")
    try:
        return parse(document)
    except ValidationError as error:
        # Not chained: the error holds what may be a password.
        raise RefusedError("; ".join(problems_of(error))) from None


def check_api_version(document: Mapping[str, object]) -> None:
    """Raise `RefusedError` for a document of another program's: its kinds may have the names of ours."""
    if document.get("apiVersion") != API_VERSION:
        raise RefusedError(f"apiVersion: {document.get('apiVersion')!r} is not known; write {API_VERSION}")


def kind_and_name(resource: Resource) -> tuple[str, str]:
    """Return a resource's kind and name."""
    name = ONLY_NAME if isinstance(resource, IpamConfiguration | BgpConfiguration) else resource.name
    return _KIND_BY_TYPE[type(resource)], name


def resource_document(resource: Resource) -> dict[str, object]:
    """Return the document that describes a resource; `parse_resource` of it gives the same resource.

    A peer's password is in it. Raises `RefusedError` for a resource that nobody could have written.
    """
    kind, name = kind_and_name(resource)
    metadata: dict[str, object] = {"name": name}
    if isinstance(resource, NodeDescription):
        metadata, spec = nodes.node_document(resource)
    else:
        try:
            spec = _spec(resource).model_dump(by_alias=True, exclude_none=True)
        except ValidationError as error:
            raise RefusedError("; ".join(problems_of(error))) from None
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def versioned(document: Mapping[str, object], version: int) -> dict[str, object]:
    """Return the document with the version of the record it was made from."""
    metadata = document["metadata"]
    known = metadata if isinstance(metadata, dict) else {}
    return {**document, "metadata": {**known, "resourceVersion": str(version)}}


def written_version(document: Mapping[str, object]) -> int | None:
    """Return the version that a document which `parse_resource` takes was made from, if it says so."""
    metadata = document["metadata"]
    text = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return None if text is None else int(text)


def _spec(resource: Writable) -> Document:
    match resource:
        case Pool():
            return addressing.pool_spec(resource)
        case Reservation():
            return addressing.reservation_spec(resource)
        case IpamConfiguration():
            return addressing.configuration_spec(resource)
        case PeerDefinition():
            return peering.peer_spec(resource)
        case Filter():
            return filtering.filter_spec(resource)
        case BgpConfiguration():
            return peering.bgp_configuration_spec(resource)


_PARSER_BY_KIND: Final[Mapping[str, Callable[[object], Resource]]] = {
    "Pool": addressing.parse_pool,
    "Reservation": addressing.parse_reservation,
    "IPAMConfiguration": addressing.parse_configuration,
    "BGPPeer": peering.parse_peer,
    "BGPFilter": filtering.parse_filter,
    "BGPConfiguration": peering.parse_bgp_configuration,
    "Node": nodes.parse_node,
}
_KIND_BY_TYPE: Final[Mapping[type, str]] = {
    Pool: "Pool",
    Reservation: "Reservation",
    IpamConfiguration: "IPAMConfiguration",
    PeerDefinition: "BGPPeer",
    Filter: "BGPFilter",
    BgpConfiguration: "BGPConfiguration",
    NodeDescription: "Node",
}

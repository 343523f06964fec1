"""What users write: resources as documents, validated, with the field named that breaks a rule.

A document looks as in Kubernetes and Calico:

    apiVersion: tortie/v1
    kind: Pool
    metadata: {name: default}
    spec: {cidr: 10.244.0.0/16, blockSize: 26}

Unknown fields are refused: a misspelt one would otherwise be silently without effect.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from controller.errors import RefusedError
from ipam.errors import InvalidPool
from ipam.pool import DEFAULT_BLOCK_PREFIX_LENGTH, AssignmentMode, Pool

API_VERSION: Final = "tortie/v1"
#: A DNS label sequence, as Kubernetes names objects (RFC 1123, section 2.1).
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
_EVERY_NODE: Final = "all()"


def _strict_cidr(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is no CIDR; write it as 10.244.0.0/16 or fd00:244::/64") from error
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length; write {text}/{network.max_prefixlen} if one address is meant")
    written = ipaddress.ip_address(text.partition("/")[0])
    if written != network.network_address:
        raise ValueError(f"{text} has host bits set; write {network}")
    return str(network)


def _known_selector(text: str) -> str:
    if text != _EVERY_NODE:
        raise ValueError(f"{text!r} cannot be evaluated; the only selector is {_EVERY_NODE}, which is every node")
    return text


def _capitalised(value: object) -> object:
    return value.capitalize() if isinstance(value, str) else value


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Metadata(_Document):
    """The name that identifies a resource among those of its kind."""

    name: str = Field(
        pattern=NAME_PATTERN, description="lower case letters, digits, '-' and '.', at most 253 characters"
    )


class PoolSpec(_Document):
    """A range of addresses and how it is used; `cidr` and `blockSize` cannot be changed afterwards."""

    cidr: Annotated[str, AfterValidator(_strict_cidr)] = Field(description="the range, IPv4 or IPv6, no host bits set")
    block_size: int | None = Field(
        default=None,
        description="prefix length of a block: 20 to 32 (IPv4, default 26), 116 to 128 (IPv6, default 122)",
    )
    disabled: bool = Field(default=False, description="no new assignments; what is assigned keeps working")
    assignment: Annotated[Literal["Automatic", "Manual"], BeforeValidator(_capitalised)] = Field(
        default="Automatic", description="Manual pools serve only requests that name them"
    )
    node_selector: Annotated[str, AfterValidator(_known_selector)] = Field(
        default=_EVERY_NODE, description="which nodes take addresses from the pool"
    )
    nat_outgoing: bool = Field(
        default=False, description="masquerade traffic that leaves the pools (kept, without effect yet)"
    )
    disable_bgp_export: bool = Field(default=False, alias="disableBGPExport", description="announce none of its blocks")


class PoolDocument(_Document):
    """A pool as a user writes it."""

    api_version: Literal["tortie/v1"]
    kind: Literal["Pool"]
    metadata: Metadata
    spec: PoolSpec


def parse_pool(document: object) -> Pool:
    """Return the pool that a document describes; raises `RefusedError` that names each field that breaks a rule."""
    try:
        written = PoolDocument.model_validate(document)
    except ValidationError as error:
        raise RefusedError("; ".join(_problems(error))) from error
    spec = written.spec
    cidr = ipaddress.ip_network(spec.cidr)
    try:
        return Pool(
            name=written.metadata.name,
            cidr=cidr,
            block_prefix_length=DEFAULT_BLOCK_PREFIX_LENGTH[cidr.version]
            if spec.block_size is None
            else spec.block_size,
            disabled=spec.disabled,
            assignment=AssignmentMode(spec.assignment.lower()),
            node_selector=spec.node_selector,
            nat_outgoing=spec.nat_outgoing,
            disable_bgp_export=spec.disable_bgp_export,
        )
    except InvalidPool as error:
        rule = str(error).removeprefix(f"pool {written.metadata.name}: ")
        field = "spec.cidr" if "link-local" in rule else "spec.blockSize"
        raise RefusedError(f"{field}: {rule}") from error


def pool_document(pool: Pool) -> dict[str, object]:
    """Return the document that describes a pool; `parse_pool` of it gives the same pool."""
    document = PoolDocument(
        apiVersion=API_VERSION,
        kind="Pool",
        metadata=Metadata(name=pool.name),
        spec=PoolSpec(
            cidr=str(pool.cidr),
            blockSize=pool.block_prefix_length,
            disabled=pool.disabled,
            assignment="Manual" if pool.assignment is AssignmentMode.MANUAL else "Automatic",
            nodeSelector=pool.node_selector,
            natOutgoing=pool.nat_outgoing,
            disableBGPExport=pool.disable_bgp_export,
        ),
    )
    return document.model_dump(by_alias=True)


def _problems(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "document"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{field}: no such field; remove it or correct its spelling")
        elif problem["type"] == "missing":
            lines.append(f"{field}: missing; it has no default")
        elif problem["type"] == "value_error":
            lines.append(f"{field}: {problem['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{field}: {problem['input']!r}: {problem['msg']}")
    return lines

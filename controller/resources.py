"""What users write: resources as documents, validated, with the field named that breaks a rule.

A document looks as in Kubernetes and Calico:

    apiVersion: tortie/v1
    kind: Pool
    metadata: {name: default}
    spec: {cidr: 10.244.0.0/16, blockSize: 26}

The kinds are Pool, Reservation and IPAMConfiguration; of the last there is one, whose name is `default`. Unknown fields
are refused: a misspelt one would otherwise be silently without effect.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from controller.errors import RefusedError
from ipam.configuration import IpamConfiguration
from ipam.errors import InvalidConfiguration, InvalidPool, InvalidReservation, InvalidSelector
from ipam.pool import DEFAULT_BLOCK_PREFIX_LENGTH, AssignmentMode, Pool
from ipam.reservation import Reservation
from ipam.selector import EVERY_NODE, check_selector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Resource: TypeAlias = Pool | Reservation | IpamConfiguration

API_VERSION: Final = "tortie/v1"
#: The name of the only IPAMConfiguration.
CONFIGURATION_NAME: Final = "default"
_DEFAULTS: Final = IpamConfiguration()
#: A DNS label sequence, as Kubernetes names objects (RFC 1123, section 2.1).
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


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


def _selector(text: str) -> str:
    try:
        check_selector(text)
    except InvalidSelector as error:
        raise ValueError(str(error)) from error
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
    node_selector: Annotated[str, AfterValidator(_selector)] = Field(
        default=EVERY_NODE,
        description="which nodes take addresses from the pool, by their labels: all(), has(rack), rack == '7', "
        "rack in {'7', '8'}, joined by &&, || and !",
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


class ReservationSpec(_Document):
    """Ranges that automatic assignment leaves alone; an address that is asked for by itself is assigned."""

    reserved_cidrs: list[Annotated[str, AfterValidator(_strict_cidr)]] = Field(
        alias="reservedCIDRs", description="the ranges, IPv4 and IPv6; they need not lie in a pool"
    )


class ReservationDocument(_Document):
    """A reservation as a user writes it."""

    api_version: Literal["tortie/v1"]
    kind: Literal["Reservation"]
    metadata: Metadata
    spec: ReservationSpec


class ConfigurationMetadata(_Document):
    """The name of the only IPAMConfiguration."""

    name: Literal["default"]


class ConfigurationSpec(_Document):
    """The rules of assignment and release for the whole cluster."""

    strict_affinity: bool = Field(
        default=_DEFAULTS.strict_affinity, description="a node takes addresses only from blocks it owns"
    )
    auto_allocate_blocks: bool = Field(
        default=_DEFAULTS.auto_allocate_blocks, description="a node claims blocks as it needs them"
    )
    max_blocks_per_node: int = Field(
        default=_DEFAULTS.max_blocks_per_node, description="the most blocks of one IP version a node owns"
    )
    cooldown_seconds: int = Field(
        default=_DEFAULTS.cooldown_seconds, description="how long a released address rests before anybody gets it"
    )
    sticky_seconds: int = Field(
        default=_DEFAULTS.sticky_seconds, description="how long it is kept for a workload of the same name"
    )
    grace_seconds: int = Field(
        default=_DEFAULTS.grace_seconds, description="how long unneeded blocks and lost assignments are left alone"
    )


class ConfigurationDocument(_Document):
    """The configuration of address management as a user writes it; what it does not name has its default."""

    api_version: Literal["tortie/v1"]
    kind: Literal["IPAMConfiguration"]
    metadata: ConfigurationMetadata
    spec: ConfigurationSpec


def parse_resource(document: object) -> Resource:
    """Return what a document describes; raises `RefusedError` that names each field that breaks a rule."""
    if not isinstance(document, dict):
        raise RefusedError("not a mapping; a resource has apiVersion, kind, metadata and spec")
    if document.get("apiVersion") != API_VERSION:
        raise RefusedError(f"apiVersion: {document.get('apiVersion')!r} is not known; write {API_VERSION}")
    kind = document.get("kind")
    parse = _PARSER_BY_KIND.get(kind) if isinstance(kind, str) else None
    if parse is None:
        raise RefusedError(f"kind: {kind!r} cannot be written; write {', '.join(_PARSER_BY_KIND)}")
    try:
        return parse(document)
    except ValidationError as error:
        raise RefusedError("; ".join(_problems(error))) from error


def kind_and_name(resource: Resource) -> tuple[str, str]:
    """Return a resource's kind and name."""
    if isinstance(resource, IpamConfiguration):
        return "IPAMConfiguration", CONFIGURATION_NAME
    return type(resource).__name__, resource.name


def resource_document(resource: Resource) -> dict[str, object]:
    """Return the document that describes a resource; `parse_resource` of it gives the same resource."""
    kind, name = kind_and_name(resource)
    if isinstance(resource, Pool):
        spec: _Document = _pool_spec(resource)
    elif isinstance(resource, Reservation):
        spec = ReservationSpec(reservedCIDRs=[str(cidr) for cidr in resource.cidrs])
    else:
        spec = _configuration_spec(resource)
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec.model_dump(by_alias=True)}


def settings_of(configuration: IpamConfiguration) -> dict[str, bool | int]:
    """Return the value of each setting by its name in documents."""
    return _configuration_spec(configuration).model_dump(by_alias=True)


def _parse_pool(document: object) -> Pool:
    written = PoolDocument.model_validate(document)
    spec = written.spec
    cidr = ipaddress.ip_network(spec.cidr)
    default = DEFAULT_BLOCK_PREFIX_LENGTH[cidr.version]
    try:
        return Pool(
            name=written.metadata.name,
            cidr=cidr,
            block_prefix_length=default if spec.block_size is None else spec.block_size,
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


def _parse_reservation(document: object) -> Reservation:
    written = ReservationDocument.model_validate(document)
    cidrs = tuple(ipaddress.ip_network(cidr) for cidr in written.spec.reserved_cidrs)
    try:
        return Reservation(written.metadata.name, cidrs)
    except InvalidReservation as error:
        raise RefusedError(f"spec.reservedCIDRs: {error}") from error


def _parse_configuration(document: object) -> IpamConfiguration:
    spec = ConfigurationDocument.model_validate(document).spec
    try:
        return IpamConfiguration(**spec.model_dump())
    except InvalidConfiguration as error:
        raise RefusedError(f"spec: {error}") from error


def _pool_spec(pool: Pool) -> PoolSpec:
    return PoolSpec(
        cidr=str(pool.cidr),
        blockSize=pool.block_prefix_length,
        disabled=pool.disabled,
        assignment="Manual" if pool.assignment is AssignmentMode.MANUAL else "Automatic",
        nodeSelector=pool.node_selector,
        natOutgoing=pool.nat_outgoing,
        disableBGPExport=pool.disable_bgp_export,
    )


def _configuration_spec(configuration: IpamConfiguration) -> ConfigurationSpec:
    return ConfigurationSpec(
        strictAffinity=configuration.strict_affinity,
        autoAllocateBlocks=configuration.auto_allocate_blocks,
        maxBlocksPerNode=configuration.max_blocks_per_node,
        cooldownSeconds=configuration.cooldown_seconds,
        stickySeconds=configuration.sticky_seconds,
        graceSeconds=configuration.grace_seconds,
    )


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


_PARSER_BY_KIND: Final[Mapping[str, Callable[[object], Resource]]] = {
    "Pool": _parse_pool,
    "Reservation": _parse_reservation,
    "IPAMConfiguration": _parse_configuration,
}

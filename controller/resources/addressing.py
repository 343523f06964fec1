"""The kinds of address management: Pool, Reservation, IPAMConfiguration."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from controller.errors import RefusedError
from controller.resources.fields import (
    Cidr,
    Community,
    Distinct,
    Document,
    Metadata,
    OnlyMetadata,
    Selector,
    community_pair,
    community_text,
    spelled,
)
from ipam.configuration import IpamConfiguration
from ipam.errors import InvalidConfiguration, InvalidPool, InvalidReservation
from ipam.pool import DEFAULT_BLOCK_PREFIX_LENGTH, AssignmentMode, Pool
from ipam.reservation import Reservation
from ipam.selector import EVERY_NODE

_DEFAULTS: Final = IpamConfiguration()
#: Encapsulations that a pool may ask for some day, in lower case.
_UNSUPPORTED: Final = frozenset({"always", "crosssubnet", "cross-subnet"})


def _supported(value: object) -> object:
    if isinstance(value, str) and value.lower() in _UNSUPPORTED:
        raise ValueError(f"{value!r} is not supported yet; write Never, or leave the field out")
    return value


class PoolSpec(Document):
    """A range of addresses and how it is used; `cidr` and `blockSize` cannot be changed afterwards."""

    cidr: Cidr = Field(description="the range, IPv4 or IPv6, no host bits set")
    block_size: int | None = Field(
        default=None,
        json_schema_extra={"minimum": 20, "maximum": 128},
        description="prefix length of a block: 20 to 32 (IPv4, default 26), 116 to 128 (IPv6, default 122)",
    )
    disabled: bool = Field(default=False, description="no new assignments; what is assigned keeps working")
    assignment: Annotated[Literal["Automatic", "Manual"], spelled("Automatic", "Manual")] = Field(
        default="Automatic", description="Manual pools serve only requests that name them"
    )
    node_selector: Selector = Field(
        default=EVERY_NODE,
        description="which nodes take addresses from the pool, by their labels: all(), has(rack), rack == '7', "
        "rack in {'7', '8'}, joined by &&, || and !",
    )
    nat_outgoing: bool = Field(
        default=False, description="what leaves all pools gets the address of the host it leaves by, on hosts with nft"
    )
    encapsulation: Annotated[Literal["Never"], spelled("Never"), BeforeValidator(_supported)] = Field(
        default="Never", description="pools are routed as they are; there is no encapsulation yet"
    )
    disable_bgp_export: bool = Field(default=False, alias="disableBGPExport", description="announce none of its blocks")
    communities: Annotated[list[Community], Distinct] = Field(
        default_factory=list,
        json_schema_extra={"uniqueItems": True},
        description="BGP communities its prefixes are announced with, as '64512:100' (RFC 1997)",
    )


class PoolDocument(Document):
    """A pool as a user writes it."""

    api_version: Literal["tortie/v1"]
    kind: Literal["Pool"]
    metadata: Metadata
    spec: PoolSpec


class ReservationSpec(Document):
    """Ranges that automatic assignment leaves alone; an address that is asked for by itself is assigned."""

    reserved_cidrs: Annotated[list[Cidr], Distinct] = Field(
        alias="reservedCIDRs",
        json_schema_extra={"uniqueItems": True, "minItems": 1},
        description="the ranges, IPv4 and IPv6; they need not lie in a pool",
    )


class ReservationDocument(Document):
    """A reservation as a user writes it."""

    api_version: Literal["tortie/v1"]
    kind: Literal["Reservation"]
    metadata: Metadata
    spec: ReservationSpec


class ConfigurationSpec(Document):
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


class ConfigurationDocument(Document):
    """The configuration of address management as a user writes it; what it does not name has its default."""

    api_version: Literal["tortie/v1"]
    kind: Literal["IPAMConfiguration"]
    metadata: OnlyMetadata
    spec: ConfigurationSpec


def settings_of(configuration: IpamConfiguration) -> dict[str, bool | int]:
    """Return the value of each setting by its name in documents."""
    return configuration_spec(configuration).model_dump(by_alias=True)


def parse_pool(document: object) -> Pool:
    """Return the pool a document describes; raises `RefusedError` or pydantic's `ValidationError`."""
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
            communities=tuple(map(community_pair, spec.communities)),
        )
    except InvalidPool as error:
        rule = str(error).removeprefix(f"pool {written.metadata.name}: ")
        field = "spec.cidr" if "link-local" in rule else "spec.blockSize"
        raise RefusedError(f"{field}: {rule}") from error


def parse_reservation(document: object) -> Reservation:
    """Return the reservation a document describes; raises what `parse_pool` raises."""
    written = ReservationDocument.model_validate(document)
    cidrs = tuple(ipaddress.ip_network(cidr) for cidr in written.spec.reserved_cidrs)
    try:
        return Reservation(written.metadata.name, cidrs)
    except InvalidReservation as error:
        raise RefusedError(f"spec.reservedCIDRs: {error}") from error


def parse_configuration(document: object) -> IpamConfiguration:
    """Return the configuration a document describes; raises what `parse_pool` raises."""
    spec = ConfigurationDocument.model_validate(document).spec
    try:
        return IpamConfiguration(**spec.model_dump())
    except InvalidConfiguration as error:
        raise RefusedError(f"spec: {error}") from error


def reservation_spec(reservation: Reservation) -> ReservationSpec:
    """Return the specification that describes a reservation."""
    return ReservationSpec(reservedCIDRs=[str(cidr) for cidr in dict.fromkeys(reservation.cidrs)])


def pool_spec(pool: Pool) -> PoolSpec:
    """Return the specification that describes a pool."""
    return PoolSpec(
        cidr=str(pool.cidr),
        blockSize=pool.block_prefix_length,
        disabled=pool.disabled,
        assignment="Manual" if pool.assignment is AssignmentMode.MANUAL else "Automatic",
        nodeSelector=pool.node_selector,
        natOutgoing=pool.nat_outgoing,
        disableBGPExport=pool.disable_bgp_export,
        communities=list(dict.fromkeys(map(community_text, pool.communities))),
    )


def configuration_spec(configuration: IpamConfiguration) -> ConfigurationSpec:
    """Return the specification that describes a configuration."""
    return ConfigurationSpec(
        strictAffinity=configuration.strict_affinity,
        autoAllocateBlocks=configuration.auto_allocate_blocks,
        maxBlocksPerNode=configuration.max_blocks_per_node,
        cooldownSeconds=configuration.cooldown_seconds,
        stickySeconds=configuration.sticky_seconds,
        graceSeconds=configuration.grace_seconds,
    )

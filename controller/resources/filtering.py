"""The kind that says what peers may tell and be told: BGPFilter."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from bgp.filter import Action, CidrMatch, Rule
from bgp.peering import Filter
from controller.errors import RefusedError
from controller.resources.fields import Cidr, Community, Document, Metadata, community_pair, community_text, spelled

if TYPE_CHECKING:
    from ipam.address import IPNetwork

_LENGTHS: Final = {4: 32, 6: 128}


class PrefixLengths(Document):
    """Bounds of a prefix length, both inclusive; at least one of them."""

    min: int | None = Field(default=None, ge=0, le=128, description="the shortest prefix length that matches")
    max: int | None = Field(default=None, ge=0, le=128, description="the longest prefix length that matches")


class RuleSpec(Document):
    """What becomes of routes that meet every condition named here; without any it is every route."""

    action: Annotated[Literal["Accept", "Reject"], spelled("Accept", "Reject")]
    cidr: Cidr | None = Field(default=None, description="the range that the route's prefix is compared with")
    match_operator: (
        Annotated[Literal["In", "NotIn", "Equal", "NotEqual"], spelled("In", "NotIn", "Equal", "NotEqual")] | None
    ) = Field(default=None, description="how the prefix relates to cidr; In unless set")
    prefix_length: PrefixLengths | None = Field(default=None, description="bounds of the prefix length")
    community: Community | None = Field(default=None, description="a community that the route carries, as '64512:100'")
    ip_version: Literal[4, 6] | None = Field(default=None, description="the route's IP version")


class FilterSpec(Document):
    """Rules in the order of trial; the first that matches decides, and where none does, what holds without a filter."""

    imports: list[RuleSpec] = Field(default_factory=list, description="rules for what the peer announces")
    exports: list[RuleSpec] = Field(default_factory=list, description="rules for what the peer is told")


class FilterDocument(Document):
    """A filter as a user writes it."""

    api_version: Literal["tortie/v1"]
    kind: Literal["BGPFilter"]
    metadata: Metadata
    spec: FilterSpec


def parse_filter(document: object) -> Filter:
    """Return the filter a document describes; raises `RefusedError` or pydantic's `ValidationError`."""
    written = FilterDocument.model_validate(document)
    return Filter(
        name=written.metadata.name,
        imports=_rules("imports", written.spec.imports),
        exports=_rules("exports", written.spec.exports),
    )


def filter_spec(rules: Filter) -> FilterSpec:
    """Return the specification that describes a filter."""
    return FilterSpec(imports=list(map(_rule_spec, rules.imports)), exports=list(map(_rule_spec, rules.exports)))


def _rules(direction: str, specs: list[RuleSpec]) -> tuple[Rule, ...]:
    return tuple(_rule(f"spec.{direction}.{index}", spec) for index, spec in enumerate(specs))


def _rule(field: str, spec: RuleSpec) -> Rule:
    cidr = None if spec.cidr is None else ipaddress.ip_network(spec.cidr)
    _check(field, spec, cidr)
    lengths = spec.prefix_length or PrefixLengths()
    return Rule(
        action=Action(spec.action),
        cidr=cidr,
        cidr_match=CidrMatch(spec.match_operator or "In"),
        min_length=lengths.min,
        max_length=lengths.max,
        community=None if spec.community is None else community_pair(spec.community),
        version=spec.ip_version,
    )


def _check(field: str, spec: RuleSpec, cidr: IPNetwork | None) -> None:
    """Raise `RefusedError` for a rule that says less than it seems to, or that no route could ever match."""
    if cidr is None and spec.match_operator is not None:
        raise RefusedError(f"{field}.matchOperator: {spec.match_operator} compares with a cidr, and there is none")
    if cidr is not None and spec.ip_version not in (None, cidr.version):
        raise RefusedError(f"{field}.ipVersion: {cidr} is IPv{cidr.version}; no route could match, so leave it out")
    if spec.prefix_length is not None:
        _check_lengths(f"{field}.prefixLength", spec.prefix_length, cidr.version if cidr else spec.ip_version or 6)


def _check_lengths(field: str, lengths: PrefixLengths, version: int) -> None:
    present = [length for length in (lengths.min, lengths.max) if length is not None]
    if not present:
        raise RefusedError(f"{field}: it has neither min nor max; write one of them, or leave it out")
    if max(present) > _LENGTHS[version]:
        raise RefusedError(f"{field}: an IPv{version} prefix length is at most {_LENGTHS[version]}, not {max(present)}")
    if present[0] > present[-1]:
        raise RefusedError(f"{field}: min {present[0]} is greater than max {present[-1]}; no route could match")


def _rule_spec(rule: Rule) -> RuleSpec:
    bounded = rule.min_length is not None or rule.max_length is not None
    return RuleSpec(
        action=rule.action.value,
        cidr=None if rule.cidr is None else str(rule.cidr),
        matchOperator=None if rule.cidr is None else rule.cidr_match.value,
        prefixLength=PrefixLengths(min=rule.min_length, max=rule.max_length) if bounded else None,
        community=None if rule.community is None else community_text(rule.community),
        ipVersion=None if rule.version is None else 4 if rule.version == 4 else 6,  # noqa: PLR2004  the IP version
    )

"""How BGP peers, filters and the configuration of BGP are shown; a password is in a document, never in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bgp.configuration import BgpConfiguration
from bgp.filter import CidrMatch
from controller.cli.listings import Listing
from controller.cli.peers import scope_text
from controller.datamodel import keys
from controller.datamodel.bgp_records import decode_bgp_configuration, decode_filter, decode_peer
from controller.resources import resource_document
from controller.resources.fields import ONLY_NAME, community_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bgp.filter import Rule
    from bgp.peering import Filter, PeerDefinition

_RELATION: Final = {
    CidrMatch.IN: "in",
    CidrMatch.NOT_IN: "not in",
    CidrMatch.EQUAL: "equal to",
    CidrMatch.NOT_EQUAL: "not equal to",
}


def _peer_row(peer: PeerDefinition) -> Sequence[object]:
    return (
        peer.name,
        peer.address,
        peer.as_number,
        scope_text(peer),
        ", ".join(peer.filters) or "-",
        "-" if peer.password is None else "***",
        peer.hold_time_seconds or "-",
        peer.restart_time_seconds or "-",
        peer.ttl_security_hops or "-",
        peer.local_as or "-",
        peer.source_address or "-",
        "self" if peer.next_hop_self else "keep",
        peer.passive,
        peer.max_prefixes,
    )


def _filter_row(rules: Filter) -> Sequence[object]:
    return (
        rules.name,
        len(rules.imports),
        len(rules.exports),
        _texts(rules.imports),
        _texts(rules.exports),
    )


def _texts(rules: Iterable[Rule]) -> str:
    return "; ".join(map(_text, rules)) or "-"


def _text(rule: Rule) -> str:
    """Return a rule in one line."""
    lengths = (rule.min_length, rule.max_length)
    conditions = [
        "" if rule.version is None else f"IPv{rule.version}",
        "" if rule.cidr is None else f"{_RELATION[rule.cidr_match]} {rule.cidr}",
        "" if lengths == (None, None) else f"length {_bounds(*lengths)}",
        "" if rule.community is None else f"with {community_text(rule.community)}",
    ]
    return " ".join([rule.action.value, *(condition for condition in conditions if condition)])


def _bounds(least: int | None, most: int | None) -> str:
    return f"{'' if least is None else least}..{'' if most is None else most}"


PEERS: Final[Listing[PeerDefinition]] = Listing(
    keys.PEERS,
    decode_peer,
    lambda peer: peer.name,
    list,
    (
        *("NAME", "PEER ADDRESS", "PEER AS", "FOR", "FILTERS", "PASSWORD", "HOLD TIME", "RESTART TIME", "TTL HOPS"),
        *("LOCAL AS", "SOURCE ADDRESS", "NEXT HOP", "PASSIVE", "MAX PREFIXES"),
    ),
    6,
    lambda peer: [_peer_row(peer)],
    resource_document,
)
FILTERS: Final[Listing[Filter]] = Listing(
    keys.FILTERS,
    decode_filter,
    lambda rules: rules.name,
    list,
    ("NAME", "IMPORTS", "EXPORTS", "IMPORT RULES", "EXPORT RULES"),
    3,
    lambda rules: [_filter_row(rules)],
    resource_document,
)
CONFIGURATION: Final[Listing[BgpConfiguration]] = Listing(
    keys.BGP_CONFIGURATION,
    decode_bgp_configuration,
    lambda _: ONLY_NAME,
    list,
    ("SETTING", "VALUE"),
    2,
    lambda configuration: [("nodeToNodeMesh", configuration.mesh)],
    resource_document,
    default=BgpConfiguration(),
)

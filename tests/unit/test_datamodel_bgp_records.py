"""What operators write about BGP reads back as it was written, or is refused with the key that is wrong."""

import ipaddress
from collections.abc import Callable

import pytest

from bgp.configuration import BgpConfiguration
from bgp.filter import Action, CidrMatch, Rule
from bgp.peering import Filter, PeerDefinition
from controller.datamodel import bgp_records as records
from controller.datamodel import keys
from controller.errors import MalformedRecord

RULES = (
    Rule(Action.REJECT, ipaddress.ip_network("10.0.0.0/8"), CidrMatch.NOT_IN, 20, 28, (64512, 7), 4),
    Rule(Action.ACCEPT),
)
PEER = PeerDefinition(
    name="tor",
    address=ipaddress.ip_address("fd00::1"),
    as_number=64500,
    node_selector="rack == 'a'",
    password="s3cret",
    hold_time_seconds=9,
    ttl_security_hops=1,
    local_as=64600,
    source_address=ipaddress.ip_address("fd00::2"),
    next_hop_self=False,
    passive=True,
    filters=("in", "out"),
    max_prefixes=5,
)


@pytest.mark.parametrize(
    ("key", "value", "encode", "decode"),
    [
        (keys.peer("tor"), PEER, records.encode_peer, records.decode_peer),
        (
            keys.peer("plain"),
            PeerDefinition("plain", ipaddress.ip_address("10.0.0.1"), 64500),
            records.encode_peer,
            records.decode_peer,
        ),
        (keys.filter_rules("f"), Filter("f", RULES, RULES[1:]), records.encode_filter, records.decode_filter),
        (keys.drain("n1"), records.Drain("n1", 5.0, 30.0), records.encode_drain, records.decode_drain),
        (
            keys.BGP_CONFIGURATION,
            BgpConfiguration(mesh=False),
            records.encode_bgp_configuration,
            records.decode_bgp_configuration,
        ),
    ],
)
def test_a_record_reads_back_as_it_was_written(
    key: str, value: object, encode: Callable[[object], bytes], decode: Callable[[str, bytes], object]
) -> None:
    """Nothing is lost or changed on the way through the store."""
    assert decode(key, encode(value)) == value


@pytest.mark.parametrize("decode", [records.decode_peer, records.decode_filter, records.decode_drain])
@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"name":"x","node":"x"}', b'{"name":"x","imports":[{}]}'])
def test_what_is_no_record_names_its_key(decode: Callable[[str, bytes], object], value: bytes) -> None:
    """A record that makes no sense, or lies under another's key, is refused by its key."""
    with pytest.raises(MalformedRecord, match="cluster/other"):
        decode("cluster/other", value)

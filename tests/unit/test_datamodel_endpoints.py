"""The record of a node's endpoints."""

from __future__ import annotations

import ipaddress

import pytest

from controller.datamodel import keys
from controller.datamodel.endpoints import Endpoints, decode_endpoints, encode_endpoints
from controller.errors import MalformedRecord

ENDPOINTS = Endpoints(
    "n1",
    1_700_000_000.5,
    {
        "tor0123456789ab": (ipaddress.ip_address("10.244.0.1"), ipaddress.ip_address("fd00::1")),
        "torba9876543210": (),
    },
)


def test_what_is_written_is_read_again() -> None:
    """The record holds everything, a link without addresses too."""
    assert decode_endpoints(keys.endpoints("n1"), encode_endpoints(ENDPOINTS)) == ENDPOINTS


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"node":"n1","seen_at":1,"links":[]}',
        b'{"node":"n1","seen_at":"soon","links":{}}',
        b'{"node":"n1","seen_at":1,"links":{"tor1":["10.244.0.256"]}}',
        b'{"node":"n1","seen_at":1,"links":{"tor1":5}}',
    ],
)
def test_a_record_that_makes_no_sense_is_malformed(value: bytes) -> None:
    """Whatever is wrong with it, the error names the key."""
    with pytest.raises(MalformedRecord, match="endpoints/n1"):
        decode_endpoints(keys.endpoints("n1"), value)


def test_a_record_under_the_key_of_another_node_is_malformed() -> None:
    """What one node has wired is not believed of another."""
    with pytest.raises(MalformedRecord, match="it describes n1"):
        decode_endpoints(keys.endpoints("n2"), encode_endpoints(ENDPOINTS))

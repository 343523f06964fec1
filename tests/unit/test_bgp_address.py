"""Prefixes that are made quickly are those of the standard library, and are read from BGP's octets and written back."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import nlri
from bgp.address import IPNetwork, ipv4_prefixes, ipv6_prefixes

NETWORKS: dict[int, st.SearchStrategy[IPNetwork]] = {
    4: st.builds(
        lambda number, length: ipaddress.IPv4Network((number, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    6: st.builds(
        lambda number, length: ipaddress.IPv6Network((number, length), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
}


@given(NETWORKS[4] | NETWORKS[6])
def test_a_prefix_is_the_one_the_standard_library_makes(network: IPNetwork) -> None:
    """It equals it, hashes, prints and sorts like it, and so do the networks inside and around it."""
    make = ipv4_prefixes if network.version == 4 else ipv6_prefixes
    made, again = make([int(network.network_address)] * 2, network.prefixlen)
    assert made == again == network
    assert network == made
    assert hash(made) == hash(network)
    assert {network: True}[made]
    assert (made.version, made.max_prefixlen) == (network.version, network.max_prefixlen)
    assert (str(made), made.num_addresses, made.hostmask) == (str(network), network.num_addresses, network.hostmask)
    assert made.broadcast_address == network.broadcast_address
    assert made.overlaps(network)
    assert hash(made.supernet()) == hash(network.supernet())


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
def test_a_row_of_prefixes_is_read_back(version: int, data: st.DataObject) -> None:
    """Order and repetition are kept; each prefix by itself is in the octets it has in the row."""
    networks = data.draw(st.lists(NETWORKS[version]))
    row = nlri.row(networks)
    assert nlri.prefixes(version, row) == networks
    assert nlri.split(version, row) == [nlri.row([network]) for network in networks]


@pytest.mark.parametrize("version", [4, 6])
@given(row=st.binary(max_size=64))
def test_octets_are_a_row_or_are_refused(version: int, row: bytes) -> None:
    """What is read has the prefixes it says, bits beyond the length left out; nothing but the one error is raised."""
    try:
        found = nlri.prefixes(version, row)
    except nlri.MalformedPrefixes:
        return
    again = nlri.row(found)
    assert len(again) == len(row)
    assert nlri.prefixes(version, again) == found
    assert b"".join(nlri.split(version, row)) == again


@pytest.mark.parametrize(("version", "row"), [(4, "21"), (4, "210a00000000"), (6, "8100"), (4, "1a0a4000"), (6, "01")])
def test_what_is_no_prefix_is_refused(version: int, row: str) -> None:
    """A length beyond the IP version's, and octets that end too early."""
    with pytest.raises(nlri.MalformedPrefixes, match="fits octets"):
        nlri.split(version, bytes.fromhex(row))


def test_bits_beyond_the_length_mean_nothing() -> None:
    """A prefix is one and the same whatever a peer writes behind its length."""
    assert nlri.split(4, bytes.fromhex("1a0a40007f090aff")) == [bytes.fromhex("1a0a400040"), bytes.fromhex("090a80")]

"""Prefixes read from text are those the standard library reads."""

from __future__ import annotations

import ipaddress

import pytest

from bgp.address import parse_prefix


@pytest.mark.parametrize(
    "text",
    ["10.64.0.64/26", "0.0.0.0/0", "10.0.0.1/32", "10.0.0.1", "10.0.0.0/255.0.0.0", "fd00::/122", "fd00::1", "::/0"],
)
def test_a_prefix_is_read_as_the_standard_library_reads_it(text: str) -> None:
    """Every way to write a prefix of either version is understood."""
    assert parse_prefix(text) == ipaddress.ip_network(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.1/8", "010.0.0.0/8", "10.0.0/8", "10.0.0.0.0/8", "/8"),
        *("10.0.0.0/\N{ARABIC-INDIC DIGIT EIGHT}", "10.0.0.0/8/8", "fd00::/129", "fd00::1/64", "ten/8", "10.0.0.0/8\0"),
    ],
)
def test_what_the_standard_library_refuses_is_refused(text: str) -> None:
    """A text that is no prefix raises `ValueError`, which every reader of messages expects."""
    with pytest.raises(ValueError, match=r"."):
        ipaddress.ip_network(text)
    with pytest.raises(ValueError, match=r"."):
        parse_prefix(text)

"""What the pools ask of the packet filter, and what the field of a pool may say."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from controller.errors import RefusedError
from controller.reconcile.firewall import table_body
from controller.resources import parse_resource, resource_document
from ipam.pool import Pool

WEB = Pool("web", ip_network("10.0.0.0/16"), 26, nat_outgoing=True)
DATABASE = Pool("database", ip_network("10.1.0.0/16"), 26, disabled=True)
WEB6 = Pool("web6", ip_network("fd00:1::/64"), 122, nat_outgoing=True)
DATABASE6 = Pool("database6", ip_network("fd00:2::/64"), 122)


def words(text: str) -> str:
    """Return the text with every run of blanks and line ends as one blank."""
    return " ".join(text.split())


@pytest.mark.parametrize("pools", [(), (DATABASE,)])
def test_pools_that_ask_for_nothing_get_no_table(pools: tuple[Pool, ...]) -> None:
    """No chain, and so no tracking of connections, on a host that has no use for it."""
    assert table_body(pools, "tor") == ""


def test_only_what_leaves_all_pools_of_its_version_is_masqueraded() -> None:
    """Sources are the pools that ask for it, exempt destinations are all of them, disabled ones and links included."""
    body = words(table_body((DATABASE6, WEB, DATABASE, WEB6), "tor"))
    assert 'oifname != "tor*" ip saddr @masqueraded4 ip daddr != @pools4 masquerade' in body
    assert 'oifname != "tor*" ip6 saddr @masqueraded6 ip6 daddr != @pools6 masquerade' in body
    assert "set masqueraded4 { type ipv4_addr flags interval elements = { 10.0.0.0/16 } }" in body
    assert "set pools4 { type ipv4_addr flags interval elements = { 10.0.0.0/16, 10.1.0.0/16 } }" in body
    assert "set masqueraded6 { type ipv6_addr flags interval elements = { fd00:1::/64 } }" in body
    assert "set pools6 { type ipv6_addr flags interval elements = { fd00:1::/64, fd00:2::/64 } }" in body


def test_ipv6_sources_are_checked_where_there_are_ipv6_pools() -> None:
    """With or without a way out, and without tracking connections for it."""
    guard = 'iifname "tor*" iifgroup != 116 meta nfproto ipv6 fib saddr . iif oif missing drop'
    assert guard in table_body((DATABASE6,), "tor")
    assert "masquerade" not in table_body((DATABASE6,), "tor")
    assert guard not in table_body((WEB,), "tor")


def test_the_same_pools_in_another_order_are_the_same_table() -> None:
    """What did not change is not written again."""
    pools = (WEB, DATABASE, WEB6, DATABASE6)
    assert table_body(pools, "tor") == table_body(pools[::-1], "tor")


@pytest.mark.parametrize("pools", [(), (DATABASE, DATABASE6)])
def test_a_table_that_masquerades_goes_on_doing_so_for_nobody(pools: tuple[Pool, ...]) -> None:
    """The kernel would break the connections that exist; no new one is masqueraded."""
    body = words(table_body(pools, "tor", table_body((WEB,), "tor")))
    assert body.count("masquerade ") == 2
    assert "set masqueraded4 { type ipv4_addr flags interval }" in body
    assert "set masqueraded6 { type ipv6_addr flags interval }" in body


def document(encapsulation: object) -> dict[str, object]:
    """Return a pool's document with this encapsulation."""
    spec = {"cidr": "10.0.0.0/16", "natOutgoing": True, "encapsulation": encapsulation}
    return {"apiVersion": "tortie/v1", "kind": "Pool", "metadata": {"name": "web"}, "spec": spec}


@pytest.mark.parametrize("word", ["Never", "never"])
def test_a_pool_without_encapsulation_may_say_so(word: str) -> None:
    """It is the same pool as one that does not name the field, and reads back as itself."""
    pool = parse_resource(document(word))
    assert pool == Pool("web", ip_network("10.0.0.0/16"), 26, nat_outgoing=True)
    assert parse_resource(resource_document(pool)) == pool


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("Always", "spec.encapsulation: 'Always' is not supported yet; write Never"),
        ("CrossSubnet", "spec.encapsulation: 'CrossSubnet' is not supported yet; write Never"),
        ("cross-subnet", "spec.encapsulation: 'cross-subnet' is not supported yet; write Never"),
        ("VXLAN", "spec.encapsulation: 'VXLAN': Input should be 'Never'"),
        (False, "spec.encapsulation: False: Input should be 'Never'"),
    ],
)
def test_any_other_encapsulation_is_refused_by_name(value: object, complaint: str) -> None:
    """Nobody believes that traffic is encapsulated when it is not."""
    with pytest.raises(RefusedError) as told:
        parse_resource(document(value))
    assert complaint in str(told.value)

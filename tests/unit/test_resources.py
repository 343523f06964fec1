"""Documents that users write: what they become, and which mistake is reported how."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from controller.errors import RefusedError
from controller.resources import parse_pool, pool_document
from ipam.pool import AssignmentMode, Pool


def document(**spec: object) -> dict[str, Any]:
    """Return a pool's document with this specification."""
    return {
        "apiVersion": "tortie/v1",
        "kind": "Pool",
        "metadata": {"name": "default"},
        "spec": {"cidr": "10.244.0.0/16", **spec},
    }


def test_a_pool_needs_only_a_name_and_a_range() -> None:
    """Everything else has the defaults that Calico's users expect."""
    assert parse_pool(document()) == Pool("default", ip_network("10.244.0.0/16"), 26)


def test_ipv6_blocks_are_122_unless_said_otherwise() -> None:
    """The default block size follows the IP version."""
    assert parse_pool(document(cidr="fd00:244::/64")).block_prefix_length == 122


def test_every_field_is_taken() -> None:
    """Each field of the document reaches the pool."""
    pool = parse_pool(
        document(blockSize=28, disabled=True, assignment="manual", natOutgoing=True, disableBGPExport=True)
    )
    assert pool == Pool(
        "default",
        ip_network("10.244.0.0/16"),
        28,
        disabled=True,
        assignment=AssignmentMode.MANUAL,
        nat_outgoing=True,
        disable_bgp_export=True,
    )


@pytest.mark.parametrize("assignment", AssignmentMode)
def test_a_written_pool_reads_back_as_itself(assignment: AssignmentMode) -> None:
    """What `get -o yaml` prints, `apply` takes as unchanged."""
    pool = Pool("a.b-c", ip_network("fd00::/48"), 120, disabled=True, assignment=assignment, nat_outgoing=True)
    assert parse_pool(pool_document(pool)) == pool


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"cidr": "10.244.0.1/16"}, "spec.cidr: 10.244.0.1/16 has host bits set; write 10.244.0.0/16"),
        (
            {"cidr": "10.244.0.0/33"},
            "spec.cidr: '10.244.0.0/33' is no CIDR; write it as 10.244.0.0/16 or fd00:244::/64",
        ),
        ({"cidr": "10.244.0.1"}, "spec.cidr: '10.244.0.1' has no prefix length; write 10.244.0.1/32"),
        ({"cidr": "169.254.7.0/24"}, "spec.cidr: 169.254.7.0/24 overlaps the link-local range 169.254.0.0/16"),
        ({"blockSize": 33}, "spec.blockSize: block prefix length /33 is outside /20 to /32 for IPv4"),
        ({"blockSize": 0}, "spec.blockSize: block prefix length /0 is outside /20 to /32 for IPv4"),
        ({"cidr": "10.0.0.0/27"}, "spec.blockSize: a /26 block does not fit into 10.0.0.0/27"),
        ({"blocksize": 26}, "spec.blocksize: no such field; remove it or correct its spelling"),
        ({"assignment": "never"}, "spec.assignment: 'Never': Input should be 'Automatic' or 'Manual'"),
        ({"nodeSelector": "rack == '1'"}, "spec.nodeSelector: \"rack == '1'\" cannot be evaluated"),
    ],
)
def test_a_mistake_names_the_field_the_value_and_the_rule(spec: dict[str, object], complaint: str) -> None:
    """The reader knows which line to correct, and how."""
    with pytest.raises(RefusedError) as refusal:
        parse_pool(document(**spec))
    assert str(refusal.value).startswith(complaint)


def test_all_mistakes_of_a_document_are_reported_at_once() -> None:
    """Nobody has to apply a file once for every mistake in it."""
    with pytest.raises(RefusedError) as refusal:
        parse_pool({"apiVersion": "tortie/v1", "kind": "Pool", "metadata": {"name": "Upper"}, "spec": {"extra": 1}})
    for field in ("metadata.name", "spec.cidr: missing", "spec.extra"):
        assert field in str(refusal.value)

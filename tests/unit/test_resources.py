"""Documents that users write: what they become, and which mistake is reported how."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from controller.errors import RefusedError
from controller.resources import parse_resource, resource_document
from ipam.configuration import IpamConfiguration
from ipam.pool import AssignmentMode, Pool
from ipam.reservation import Reservation


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
    assert parse_resource(document()) == Pool("default", ip_network("10.244.0.0/16"), 26)


def test_ipv6_blocks_are_122_unless_said_otherwise() -> None:
    """The default block size follows the IP version."""
    assert parse_resource(document(cidr="fd00:244::/64")) == Pool("default", ip_network("fd00:244::/64"), 122)


def test_every_field_is_taken() -> None:
    """Each field of the document reaches the pool."""
    pool = parse_resource(
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
    assert parse_resource(resource_document(pool)) == pool


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
        ({"assignment": "never"}, "spec.assignment: 'never': Input should be 'Automatic' or 'Manual'"),
        ({"nodeSelector": "rack = '1'"}, "spec.nodeSelector: selector \"rack = '1'\": at character 6 stands '='"),
        ({"nodeSelector": ""}, "spec.nodeSelector: selector '': at character 1 stands its end"),
    ],
)
def test_a_mistake_names_the_field_the_value_and_the_rule(spec: dict[str, object], complaint: str) -> None:
    """The reader knows which line to correct, and how."""
    with pytest.raises(RefusedError) as refusal:
        parse_resource(document(**spec))
    assert str(refusal.value).startswith(complaint)


@pytest.mark.parametrize(
    "selector",
    ["all()", "has(rack)", "rack == '7' && !(zone in {'a', 'b'})", "rack not in {'7'} || name starts with 'h'"],
)
def test_a_pool_takes_every_selector(selector: str) -> None:
    """What nodes are matched by can be written."""
    pool = parse_resource(document(nodeSelector=selector))
    assert isinstance(pool, Pool)
    assert pool.node_selector == selector


def of_kind(kind: str, spec: object, name: str = "default") -> dict[str, Any]:
    """Return a document of this kind."""
    return {"apiVersion": "tortie/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


RESERVATION = Reservation("gateways", (ip_network("10.244.0.0/30"), ip_network("fd00::1/128")))


def test_a_reservation_names_its_ranges() -> None:
    """Both families may stand in one."""
    written = of_kind("Reservation", {"reservedCIDRs": ["10.244.0.0/30", "fd00::1/128"]}, "gateways")
    assert parse_resource(written) == RESERVATION
    assert resource_document(RESERVATION) == written


def test_what_a_configuration_does_not_name_has_its_default() -> None:
    """An empty specification is the configuration that holds without one."""
    assert parse_resource(of_kind("IPAMConfiguration", {})) == IpamConfiguration()


def test_a_written_configuration_reads_back_as_itself() -> None:
    """Every setting is in the document."""
    configuration = IpamConfiguration(
        strict_affinity=True,
        auto_allocate_blocks=False,
        max_blocks_per_node=3,
        cooldown_seconds=4,
        sticky_seconds=5,
        grace_seconds=6,
    )
    assert parse_resource(resource_document(configuration)) == configuration


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        (of_kind("Reservation", {}), "spec.reservedCIDRs: missing; it has no default"),
        (of_kind("Reservation", {"reservedCIDRs": []}), "spec.reservedCIDRs: reservation default has no range; name"),
        (
            of_kind("Reservation", {"reservedCIDRs": ["10.0.0.0/30", "10.0.0.1/30"]}),
            "spec.reservedCIDRs.1: 10.0.0.1/30 has host bits set; write 10.0.0.0/30",
        ),
        (of_kind("Reservation", {"reservedCIDRs": "10.0.0.0/30"}), "spec.reservedCIDRs: '10.0.0.0/30': Input should"),
        (of_kind("IPAMConfiguration", {}, "other"), "metadata.name: 'other': Input should be 'default'"),
        (
            of_kind("IPAMConfiguration", {"autoAllocateBlocks": False}),
            "spec: strict affinity off and automatic blocks off contradict each other",
        ),
        (of_kind("IPAMConfiguration", {"maxBlocksPerNode": 0}), "spec: max blocks per node is 0; a node needs"),
        (of_kind("IPAMConfiguration", {"coolDownSeconds": 1}), "spec.coolDownSeconds: no such field"),
        (of_kind("IPAMConfiguration", {"cooldownSeconds": 1.5}), "spec.cooldownSeconds: 1.5: Input should be a valid"),
        (of_kind("Block", {}), "kind: 'Block' cannot be written; write Pool, Reservation, IPAMConfiguration"),
        (["Pool"], "not a mapping; a resource has apiVersion, kind, metadata and spec"),
        ({**of_kind("Pool", {}), "kind": ["Pool"]}, "kind: ['Pool'] cannot be written"),
    ],
)
def test_a_mistake_in_another_kind_is_named_as_well(written: object, complaint: str) -> None:
    """Field, value and rule, whatever the kind."""
    with pytest.raises(RefusedError) as refusal:
        parse_resource(written)
    assert str(refusal.value).startswith(complaint)


def test_all_mistakes_of_a_document_are_reported_at_once() -> None:
    """Nobody has to apply a file once for every mistake in it."""
    with pytest.raises(RefusedError) as refusal:
        parse_resource({"apiVersion": "tortie/v1", "kind": "Pool", "metadata": {"name": "Upper"}, "spec": {"extra": 1}})
    for field in ("metadata.name", "spec.cidr: missing", "spec.extra"):
        assert field in str(refusal.value)

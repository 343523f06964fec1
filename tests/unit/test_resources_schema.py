"""The printed JSON Schemas, by the word of another implementation: they are schemas, and say what is taken."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from bgp.configuration import BgpConfiguration
from bgp.filter import Action, CidrMatch, Rule
from bgp.peering import Filter, PeerDefinition
from controller.cli.main import run
from controller.errors import RefusedError
from controller.resources import parse_resource, resource_document, versioned
from controller.resources.nodes import NodeDescription
from controller.resources.schema import kind_schema, whole_schema
from ipam.configuration import IpamConfiguration
from ipam.pool import AssignmentMode, Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from pathlib import Path

    from controller.resources import Resource

KINDS = ("Pool", "Reservation", "IPAMConfiguration", "BGPPeer", "BGPFilter", "BGPConfiguration", "Node")
RESOURCES: tuple[Resource, ...] = (
    Pool("p", ip_network("10.0.0.0/16"), 26),
    Pool("p.q", ip_network("fd00::/64"), 122, disabled=True, assignment=AssignmentMode.MANUAL, communities=((1, 2),)),
    Reservation("r", (ip_network("10.0.0.0/30"), ip_network("fd00::1/128"))),
    IpamConfiguration(cooldown_seconds=3, strict_affinity=True),
    BgpConfiguration(mesh=False),
    PeerDefinition("t", ip_address("192.0.2.1"), 4200000001, node="h1", password="p", filters=("in", "out")),
    PeerDefinition(
        "u", ip_address("2001:db8::1"), 1, node_selector="has(rack)", hold_time_seconds=9, next_hop_self=False
    ),
    Filter(
        "in",
        (Rule(Action.ACCEPT, ip_network("10.0.0.0/8"), CidrMatch.EQUAL, 8, 24, (64512, 1)),),
        (Rule(Action.REJECT),),
    ),
    NodeDescription("H1", {"rack": "7"}, 64512, ip_address("192.0.2.1"), None, None),
)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: type(resource).__name__)
def test_what_is_shown_is_valid(resource: Resource) -> None:
    """Alone, in a list, with its version and without, by its kind's schema and by that of all kinds."""
    document = resource_document(resource)
    for one in (document, versioned(document, 7)):
        Draft202012Validator(kind_schema(str(one["kind"]))).validate(one)
        Draft202012Validator(whole_schema()).validate(one)
        assert parse_resource(one) == resource
    items = {"apiVersion": "tortie/v1", "kind": "List", "items": [document]}
    Draft202012Validator(whole_schema()).validate(items)


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_the_schemas_are_schemas(kind: str | None) -> None:
    """Of the dialect that they name, and each field tells what it is for."""
    schema = whole_schema() if kind is None else kind_schema(kind)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    for name, definition in schema["$defs"].items():
        if name.endswith("Spec"):
            assert all("description" in field or "enum" in field for field in definition["properties"].values()), name


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Pool", {"blocksize": 26}),
        ("Pool", {"blockSize": 19}),
        ("Pool", {"blockSize": "26"}),
        ("Pool", {"cidr": None}),
        ("Pool", {"assignment": "Never"}),
        ("Pool", {"communities": ["64512:1", "64512:1"]}),
        ("Reservation", {"reservedCIDRs": []}),
        ("BGPPeer", {"peerAS": 0}),
        ("BGPPeer", {"filters": ["Upper"]}),
        ("BGPPeer", {"filters": [f"f{n}" for n in range(33)]}),
        ("BGPFilter", {"imports": [{"action": "Accept", "ipVersion": 5}]}),
        ("BGPConfiguration", {"nodeToNodeMesh": "maybe"}),
    ],
)
def test_what_the_schema_refuses_is_a_mistake(kind: str, change: dict[str, object]) -> None:
    """An editor that goes by it shows what `apply` would refuse."""
    document = _document(kind)
    document["spec"] |= change
    assert not Draft202012Validator(kind_schema(kind)).is_valid(document)
    assert not Draft202012Validator(whole_schema()).is_valid(document)
    if change != {"blockSize": "26"}:  # text that is a number is taken, though nobody should write it
        with pytest.raises(RefusedError):
            parse_resource(document)


@pytest.mark.parametrize(
    "metadata", [{}, {"name": "Upper"}, {"name": "a", "resourceVersion": "x"}, {"name": "a", "uid": 1}]
)
def test_metadata_has_a_schema_too(metadata: dict[str, object]) -> None:
    """Name and version, nothing else."""
    document = {**_document("Pool"), "metadata": metadata}
    assert not Draft202012Validator(kind_schema("Pool")).is_valid(document)
    with pytest.raises(RefusedError):
        parse_resource(document)


@given(
    st.sampled_from([*KINDS, "Pod"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "cidr",
                        "blockSize",
                        "name",
                        "spec",
                        "imports",
                        "filters",
                        "peerAS",
                        "peerAddress",
                        "labels",
                        "asNumber",
                        "",
                    ]
                )
                | st.text(),
                inner,
            )
        ),
        max_leaves=8,
    ),
)
def test_no_document_ends_in_anything_but_a_resource_or_a_refusal(kind: str, spec: object) -> None:
    """Whatever stands in it; and a resource is shown as what is taken again."""
    for document in (
        {"apiVersion": "tortie/v1", "kind": kind, "metadata": {"name": "default"}, "spec": spec},
        {"apiVersion": "tortie/v1", "kind": kind, "metadata": spec, "spec": {}},
        spec,
    ):
        try:
            resource = parse_resource(document)
        except RefusedError:
            continue
        assert parse_resource(resource_document(resource)) == resource


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("Pool", {"communities": ["1:2", "01:2"]}, r"spec\.communities: 1:2 is there twice; keep one"),
        (
            "Reservation",
            {"reservedCIDRs": ["fd00::/64", "FD00::/64"]},
            r"spec\.reservedCIDRs: fd00::/64 is there twice",
        ),
        ("BGPPeer", {"filters": ["a", "b", "a"]}, r"spec\.filters: a is there twice; keep one"),
    ],
)
def test_nothing_stands_twice_in_a_list(kind: str, change: dict[str, object], complaint: str) -> None:
    """However it is spelt."""
    document = _document(kind)
    document["spec"] |= change
    with pytest.raises(RefusedError, match=complaint):
        parse_resource(document)


def test_a_record_in_which_something_stands_twice_is_shown_all_the_same() -> None:
    """Once: it is used so, and can be applied."""
    pool = Pool("p", ip_network("10.0.0.0/16"), 26, communities=((1, 2), (1, 2)))
    shown = parse_resource(resource_document(pool))
    assert isinstance(shown, Pool)
    assert shown.communities == ((1, 2),)


def test_a_version_may_be_written_as_a_number() -> None:
    """YAML makes one of it where the quotes were lost."""
    document = _document("Pool")
    document["metadata"]["resourceVersion"] = 7
    parse_resource(document)
    document["metadata"]["resourceVersion"] = True
    with pytest.raises(RefusedError, match=r"metadata\.resourceVersion"):
        parse_resource(document)


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Of one kind by any of its names, or of all; blocks are nobody's to write."""
    assert run(["schema", "ippool"]) == 0
    assert json.loads(capsys.readouterr().out) == kind_schema("Pool")
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == whole_schema()
    assert run(["schema", "block"]) == 2
    assert run(["schema", "pod"]) == 2


def test_files_are_validated_without_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each document, and what they say together; filters may be in the store already."""
    monkeypatch.setenv("TORTIE_STORE", "consul")
    monkeypatch.setenv("TORTIE_CONSUL_ADDRESS", "http://127.0.0.1:1")
    file = tmp_path / "all.json"
    file.write_text(
        json.dumps(
            {
                "kind": "List",
                "items": [resource_document(each) for each in RESOURCES if not isinstance(each, NodeDescription)],
            }
        )
    )
    assert run(["validate", "-f", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "pool p valid"
    clash = [Pool("a", ip_network("10.0.0.0/16"), 26), Pool("b", ip_network("10.0.1.0/24"), 26)]
    file.write_text(json.dumps({"kind": "List", "items": [resource_document(each) for each in clash]}))
    assert run(["validate", "-f", str(file)]) == 1
    assert f"{file}: document 1, items[1] (b): spec.cidr: pool a (10.0.0.0/16) overlaps" in capsys.readouterr().err
    assert run(["validate", "-f", str(tmp_path / "none.yaml")]) == 1


def _document(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = next(found for found in map(resource_document, RESOURCES) if found["kind"] == kind)
    return document

"""A node's report as JSON."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from controller.diagnosis.document import UnreadableReport, decode_report, encode_report
from controller.diagnosis.report import ForeignRoute, Hop, Path, StoreReport

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Case: TypeAlias = Any


def test_what_is_written_is_read_back(case: Case) -> None:
    """Every field, empty or not."""
    for report in case.reports.values():
        assert decode_report(encode_report(report)) == report
    prefix = ip_network("10.65.1.0/26")
    case.change(
        "h3",
        store=StoreReport("consul", connected=False, reason="refused", lost_at=4000.5),
        speaker="gone",
        drain="draining",
        decided=False,
        learned={
            prefix: (
                Path(ip_address("192.0.2.1"), ip_address("192.0.2.1")),
                Path(ip_address("192.0.2.2"), ip_address("192.0.2.9"), "filtered"),
            )
        },
        unresolved=frozenset({prefix}),
        failures={prefix: "no"},
        foreign=(ForeignRoute(prefix, 4, 50, (Hop(None, "eth0"), Hop(ip_address("192.0.2.9"), "eth0"))),),
        problems=("one", "two"),
        left_off=3,
    )
    assert decode_report(encode_report(case.reports["h3"])) == case.reports["h3"]


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"[]", b"{}", b'"text"', b"[" * 100_000],
)
def test_what_is_no_report_is_refused(text: bytes) -> None:
    """With a reason, whatever it is."""
    with pytest.raises(UnreadableReport, match="its answer is no report"):
        decode_report(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("addresses", ["x"]),
        ("wanted", [{"kind": "odd", "hops": [], "prefixes": []}]),
        ("announced", {"10.0.0.0/26": "?"}),
        ("takenAt", float("nan")),
        ("leftOff", float("inf")),
        ("store", {"kind": "consul", "connected": False, "reason": "", "lostAt": 1e300}),
        ("sessions", [{"peer": "192.0.2.2", "name": "h2", "state": "idle", "since": -1, "info": ""}]),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(case: Case, name: str, value: object) -> None:
    """The rest of the report does not make up for it."""
    fields = json.loads(encode_report(case.reports["h1"]))
    fields[name] = value
    with pytest.raises(UnreadableReport):
        decode_report(json.dumps(fields).encode())

"""Results and errors, in the form each version of the CNI specification wants."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from controller.cni.failures import CniFailure, ErrorCode, failure_of
from controller.cni.previous_result import parse_previous_result
from controller.cni.result import CniResult, encode_result
from controller.errors import (
    ConflictError,
    KernelRefused,
    MalformedRecord,
    RefusedError,
    StoreDenied,
    StoreUnavailable,
    TransientError,
)
from ipam import errors as ipam_errors

V4 = ipaddress.IPv4Address("10.0.0.1")
V6 = ipaddress.IPv6Address("fd00::1")
RESULT = CniResult(
    "tor1",
    "ee:ee:ee:ee:ee:ee",
    "eth0",
    "02:00:00:00:00:01",
    "/run/netns/x",
    (V4, V6),
    1400,
    ipaddress.IPv4Address("169.254.1.1"),
    ipaddress.IPv6Address("fe80::1"),
)


def test_a_dual_stack_result_of_version_1_0() -> None:
    """Every field in full."""
    assert json.loads(encode_result(RESULT, "1.0.0")) == {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "tor1", "mac": "ee:ee:ee:ee:ee:ee"},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"},
        ],
        "ips": [
            {"address": "10.0.0.1/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::1/128", "gateway": "fe80::1", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
        "dns": {},
    }


@pytest.mark.parametrize(
    ("version", "families", "mtus"),
    [
        ("0.3.1", ["4", "6"], [None, None]),
        ("0.4.0", ["4", "6"], [None, None]),
        ("1.0.0", [None, None], [None, None]),
        ("1.1.0", [None, None], [1400, 1400]),
    ],
)
def test_fields_that_depend_on_the_version(version: str, families: list[str | None], mtus: list[int | None]) -> None:
    """Before 1.0.0 an address names its family; since 1.1.0 an interface has its MTU."""
    decoded = json.loads(encode_result(RESULT, version))
    assert decoded["cniVersion"] == version
    assert [ip.get("version") for ip in decoded["ips"]] == families
    assert [interface.get("mtu") for interface in decoded["interfaces"]] == mtus


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ipam_errors.UnknownPool("x"), 101),
        (ipam_errors.PoolDisabled("x"), 102),
        (ipam_errors.NoPool("x"), 103),
        (ipam_errors.PoolExhausted("x"), 104),
        (ipam_errors.Refused("x"), 100),
        (TransientError("x"), 11),
        (StoreUnavailable("x"), 11),
        (ConflictError([]), 11),
        (KernelRefused("x", 1, "y"), 110),
        (StoreDenied("x"), 111),
        (MalformedRecord("x", "y"), 112),
        (RefusedError("x"), 113),
        (ValueError("x"), 999),
        (CniFailure(ErrorCode.INVALID_CONFIG, "x"), 7),
    ],
)
def test_every_error_has_a_code(error: Exception, code: int) -> None:
    """The runtime gets the code and the text of what went wrong."""
    failure = failure_of(error)
    assert int(failure.code) == code
    assert str(error) in failure.message


@pytest.mark.parametrize(("asked", "answered"), [("0.3.1", "0.3.1"), ("9.9.9", "1.1.0"), (None, "1.1.0")])
def test_an_error_speaks_the_callers_version_where_it_can(asked: str | None, answered: str) -> None:
    """Never a version we do not speak."""
    failure = CniFailure(ErrorCode.TRY_AGAIN_LATER, "text", "more")
    assert json.loads(failure.as_json(asked)) == {"cniVersion": answered, "code": 11, "msg": "text", "details": "more"}


@pytest.mark.parametrize("version", ["0.3.1", "1.0.0", "1.1.0"])
def test_what_plugins_before_ours_answered_stays(version: str) -> None:
    """Everything of theirs comes first and unchanged, ours counts on from there."""
    theirs: dict[str, Any] = {
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "routes": [{"dst": "192.0.2.0/24"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    }
    previous = parse_previous_result({"prevResult": {**theirs, "cniVersion": "x"}})
    merged = json.loads(encode_result(RESULT, version, previous))
    alone = json.loads(encode_result(RESULT, version))
    assert merged["cniVersion"] == version
    assert merged["dns"] == theirs["dns"]
    assert merged["interfaces"] == [*theirs["interfaces"], *alone["interfaces"]]
    assert merged["ips"] == [*theirs["ips"], *({**ip, "interface": 2} for ip in alone["ips"])]
    assert merged["routes"] == [*theirs["routes"], *alone["routes"]]

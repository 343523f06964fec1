"""Refused routes are told in the log once for each peer and rule, and again after a long absence."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from bgp.policy import RejectedRoutes, Rejection
from controller.agent.refusals import Refusals

if TYPE_CHECKING:
    import pytest

DEFAULT = RejectedRoutes(ip_address("192.0.2.9"), Rejection.DEFAULT_ROUTE, 1, (ip_network("0.0.0.0/0"),))
OUTSIDE = RejectedRoutes(ip_address("192.0.2.9"), Rejection.OUTSIDE_POOLS, 2, (ip_network("10.0.0.0/24"),))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the rules told since the last look."""
    reasons = [str(getattr(record, "reason", "")) for record in caplog.records]
    caplog.clear()
    return reasons


def test_each_rule_is_told_once_however_often_it_is_broken(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a new decision nor a peer that flaps repeats it."""
    refusals = Refusals()
    refusals.tell([DEFAULT], 0.0)
    assert told(caplog) == ["default_route"]
    refusals.tell([DEFAULT, OUTSIDE], 1.0)
    refusals.tell([], 2.0)
    refusals.tell([DEFAULT], 3.0)
    assert told(caplog) == ["outside_pools"]


def test_what_comes_again_after_a_long_time_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    """It is news; what lasts is not, however long."""
    refusals = Refusals()
    refusals.tell([DEFAULT, OUTSIDE], 0.0)
    for now in (500.0, 1000.0, 1500.0):
        refusals.tell([DEFAULT], now)
    told(caplog)
    refusals.tell([DEFAULT, OUTSIDE], 1600.0)
    assert told(caplog) == ["outside_pools"]

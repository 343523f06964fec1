"""Making the host a router, in a namespace."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from controller.kernel.sysctls import enable_forwarding

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("host")


def test_the_host_forwards_both_families(sysctl: Callable[[str], str]) -> None:
    """Both switches are on afterwards; once more changes nothing."""
    for _ in range(2):
        enable_forwarding()
        assert sysctl("ipv4/ip_forward") == "1"
        assert sysctl("ipv6/conf/all/forwarding") == "1"


def test_router_advertisements_stay_accepted(
    sysctl: Callable[[str], str], set_sysctl: Callable[[str, str], None]
) -> None:
    """A link that listened to routers goes on listening; one that did not still does not."""
    set_sysctl("ipv6/conf/up0/accept_ra", "1")
    set_sysctl("ipv6/conf/far0/accept_ra", "0")
    enable_forwarding()
    assert sysctl("ipv6/conf/up0/accept_ra") == "2"
    assert sysctl("ipv6/conf/far0/accept_ra") == "0"


def test_a_router_of_before_is_left_as_it_is(
    sysctl: Callable[[str], str], set_sysctl: Callable[[str, str], None]
) -> None:
    """Where forwarding was on, whoever turned it on has decided about advertisements."""
    set_sysctl("ipv6/conf/all/forwarding", "1")
    set_sysctl("ipv6/conf/up0/accept_ra", "1")
    enable_forwarding()
    assert sysctl("ipv6/conf/up0/accept_ra") == "1"


def test_a_loose_host_wide_check_is_reported(
    set_sysctl: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The host-wide loose check overrides every link's strict one; the operator is told, the setting is not touched."""
    set_sysctl("ipv4/conf/all/rp_filter", "2")
    with caplog.at_level(logging.WARNING):
        enable_forwarding()
    assert "rp_filter" in caplog.text

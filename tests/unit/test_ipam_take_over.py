"""Addresses change hands without having been free."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from ipam.errors import AddressUnavailable
from ipam.plan import plan_assign
from ipam.pool import Pool
from ipam.request import AssignRequest
from ipam.take_over import plan_take_over
from ipam.view import View

POOL = Pool("p", ipaddress.ip_network("10.0.0.0/24"), 26)
ASKED = AssignRequest("asked/1", "w", "n", "none", (4,))


def holding(request: AssignRequest = ASKED) -> tuple[View, AssignRequest]:
    """Return a view in which the request has its address, and the workload's request for that address."""
    view = View("h1", pool_by_name={"p": POOL})
    plan = plan_assign(view, request, now=1.0)
    wanted = AssignRequest("workload", "w", "n", "tor1", (4,), addresses=plan.addresses)
    return view.with_blocks(plan.writes), wanted


def test_the_address_is_the_workloads_in_one_step() -> None:
    """With its link's name, and no longer the lender's."""
    view, wanted = holding()
    plan = plan_take_over(view, wanted, "asked/", now=2.0)
    after = view.with_blocks(plan.writes)
    assert plan.addresses == wanted.addresses
    assert list(after.holding("asked/1")) == []
    [(block, (ordinal,))] = after.holding("workload")
    assert (block.holders[ordinal].interface, block.holders[ordinal].created_at) == ("tor1", 2.0)
    block.check()


def test_asked_again_nothing_changes() -> None:
    """The workload has it already."""
    view, wanted = holding()
    view = view.with_blocks(plan_take_over(view, wanted, "asked/", now=2.0).writes)
    again = plan_take_over(view, wanted, "asked/", now=3.0)
    assert (again.addresses, again.writes) == (wanted.addresses, {})


def test_a_free_address_is_assigned() -> None:
    """Nobody lends it: it may have been collected."""
    _, wanted = holding()
    plan = plan_take_over(View("h1", pool_by_name={"p": POOL}), wanted, "asked/", now=2.0)
    assert plan.addresses == wanted.addresses


@pytest.mark.parametrize("lender", ["other/", "asked/2"])
def test_what_another_handle_holds_is_refused(lender: str) -> None:
    """Only who lends gives it away."""
    view, wanted = holding()
    with pytest.raises(AddressUnavailable):
        plan_take_over(view, wanted, lender, now=2.0)


def test_what_another_node_holds_is_refused() -> None:
    """The same handle there is another workload's."""
    view, wanted = holding()
    with pytest.raises(AddressUnavailable):
        plan_take_over(replace(view, node="h2"), wanted, "asked/", now=2.0)

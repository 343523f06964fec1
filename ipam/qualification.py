"""Which pools a request may take addresses from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.errors import AddressUnavailable, NoPool, PoolDisabled, UnknownPool
from ipam.pool import AssignmentMode
from ipam.selector import selects

if TYPE_CHECKING:
    from ipam.address import IPAddress
    from ipam.pool import Pool
    from ipam.request import AssignRequest
    from ipam.view import View


def allowed_pools(view: View, request: AssignRequest, version: int) -> list[Pool]:
    """Return the pools of this version that the request may use, in the order to try them; at least one.

    Those it names, else every enabled, automatic pool whose selector matches the node; raises `Refused`.
    """
    if not request.pools:
        return _automatic_pools(view, version)
    pools = [pool for pool in _named_pools(view, request) if pool.version == version]
    if not pools:
        raise NoPool(
            f"node {view.node}: an IPv{version} address is requested, and none of the requested pools "
            f"({', '.join(request.pools)}) is IPv{version}; request one that is"
        )
    return pools


def pool_of(view: View, request: AssignRequest, address: IPAddress) -> Pool:
    """Return the pool that an address asked for lies in; raises `Refused` if there is none or it may not be used."""
    pools = _named_pools(view, request) if request.pools else list(view.pool_by_name.values())
    for pool in pools:
        if address.version == pool.version and address in pool.cidr:
            if pool.disabled:
                raise PoolDisabled(
                    f"{address} lies in pool {pool.name}, which is disabled; enable it or request another"
                )
            return pool
    ranges = ", ".join(f"{pool.name} ({pool.cidr})" for pool in pools)
    raise AddressUnavailable(f"{address} lies in none of the pools: {ranges or 'there is none'}; request one that does")


def _named_pools(view: View, request: AssignRequest) -> list[Pool]:
    for name in request.pools:
        if name not in view.pool_by_name:
            raise UnknownPool(
                f"pool {name} does not exist; request one of: {', '.join(sorted(view.pool_by_name)) or 'none exists'}"
            )
        if view.pool_by_name[name].disabled:
            raise PoolDisabled(f"pool {name} is disabled; enable it or request another one")
    return [view.pool_by_name[name] for name in request.pools]


def _automatic_pools(view: View, version: int) -> list[Pool]:
    found, passed_over = [], []
    for name, pool in sorted(view.pool_by_name.items()):
        if pool.version != version:
            continue
        if pool.disabled:
            passed_over.append(f"{name} is disabled")
        elif pool.assignment is AssignmentMode.MANUAL:
            passed_over.append(f"{name} is manual")
        elif not selects(pool.node_selector, view.labels):
            passed_over.append(f"{name} selects {pool.node_selector}")
        else:
            found.append(pool)
    if not found:
        raise NoPool(
            f"node {view.node}: no enabled, automatic IPv{version} pool is for it "
            f"({'; '.join(passed_over) or f'there is no IPv{version} pool'}); "
            f"create or enable one, or request one by name"
        )
    return found

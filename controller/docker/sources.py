"""Which addresses the links of a container may send from, where one of its own alone would not do; pure.

A container of several networks has one default route, and answers by that link for the addresses of all of them. So
each of its links may carry each of its addresses, and no other.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controller.docker.values import Endpoint
    from ipam.address import IPAddress


def shared_sources(endpoints: Iterable[Endpoint]) -> dict[str, tuple[IPAddress, ...]]:
    """Return the addresses of each container of several networks by the name of each of its links."""
    by_sandbox: defaultdict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in sorted(endpoints, key=lambda each: each.endpoint_id):
        if endpoint.sandbox:
            by_sandbox[endpoint.sandbox].append(endpoint)
    return {
        endpoint.host_name: tuple(address for each in together for address in each.addresses)
        for together in by_sandbox.values()
        if len(together) > 1
        for endpoint in together
    }

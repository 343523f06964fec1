"""What dockerd is told to do with the end of a link that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from controller.docker.values import Endpoint, Network

#: What the names of links in a container start with; dockerd adds a number.
_LINK_PREFIX: Final = "eth"
#: libnetwork's kinds of static routes.
_NEXT_HOP_ROUTE: Final = 0
_CONNECTED_ROUTE: Final = 1


def join_answer(endpoint: Endpoint, network: Network) -> dict[str, object]:
    """Return the answer to `Join`: each gateway is directly on the link, and all else lies behind it.

    A default route as a static route alone is refused by dockerd 28, and a gateway alone lies in no subnet of the
    container's. A container of an internal network has a route to its pool in place of a default route.
    """
    answer: dict[str, object] = {"InterfaceName": {"SrcName": endpoint.lent_name, "DstPrefix": _LINK_PREFIX}}
    routes: list[dict[str, object]] = []
    for address in endpoint.addresses:
        gateway = network.gateway(address.version)
        routes.append(
            {"Destination": f"{gateway}/{gateway.max_prefixlen}", "RouteType": _CONNECTED_ROUTE, "NextHop": ""}
        )
        if network.internal:
            routes += [
                {"Destination": str(cidr), "RouteType": _NEXT_HOP_ROUTE, "NextHop": str(gateway)}
                for cidr in network.cidrs
                if cidr.version == address.version
            ]
        else:
            answer["Gateway" if address.version == 4 else "GatewayIPv6"] = str(gateway)  # noqa: PLR2004  the IP version
    return {**answer, "StaticRoutes": routes}

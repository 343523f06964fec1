"""An agent that starts anew among a data centre's routes: it writes none of them and removes none of them."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

from bgp.peering import PeerDefinition
from controller.agent_client import agent_status
from controller.errors import AgentUnavailable
from controller.kernel.netlink import DATAGRAM_BYTES, SO_RCVBUFFORCE, messages
from controller.kernel.route_messages import RTM_DELROUTE, RTM_NEWROUTE, heard
from ipam.pool import Pool
from tests.bench.bgp_places import AS_NUMBER, Bird, Node, RouteCount, address, inside, ip, place, write_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.address import IPNetwork
    from tests.bench.bgp_places import Place, Program

COUNT: Final = 65_536
POOL: Final = Pool("ipv4", ipaddress.ip_network("10.64.0.0/10"), 26)
NODE: Final = 1
REFLECTOR: Final = 254
#: A route with our mark that nobody announces: once it is gone, the agent has swept what there is to sweep.
LEFTOVER: Final = ipaddress.ip_network("198.51.100.7/32")
#: RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE.
ROUTE_EVENTS: Final = 0x40 | 0x400
BUFFER_BYTES: Final = 256 * 1024 * 1024

BLOCKS: Final = "".join(f"  route {block} blackhole;\n" for block in POOL.cidr.subnets(new_prefix=26))
REFLECTOR_CONFIGURATION: Final = f"""
router id {address(REFLECTOR)};
protocol device {{ }}
protocol static blocks {{
  ipv4;
{BLOCKS}}}
protocol bgp node {{
  local {address(REFLECTOR)} as {AS_NUMBER};
  neighbor {address(NODE)} as {AS_NUMBER};
  passive on;
  rr client;
  ipv4 {{ import all; export all; next hop self; }};
  ipv6 {{ import all; export none; }};
}}
"""


class Host:
    """A host whose agent learns every block of the pool from a reflector."""

    def __init__(self, where: Place) -> None:
        self._place = where
        store = where.directory / "store.db"
        # The limit is given, for what it is otherwise is none of this test's concern.
        peer = PeerDefinition(
            "reflector", ipaddress.ip_address(address(REFLECTOR)), AS_NUMBER, next_hop_self=False, max_prefixes=100_000
        )
        write_cluster(store, POOL, peer=peer)
        Bird(where, where.host(REFLECTOR), REFLECTOR_CONFIGURATION).start()
        self._node = Node(where, NODE, store=store)
        self.namespace = self._node.namespace
        with closing(RouteCount(self.namespace)) as routes:
            self._other_routes = routes.read()
        self.agent: Program = self._node.start()

    def start_agent(self) -> None:
        """Start it anew, without waiting."""
        self.agent = self._node.start_agent()

    def add_leftover(self) -> None:
        """Leave a route in the kernel as an earlier agent could have."""
        words = ("via", address(REFLECTOR), "proto", "116", "metric", "1024")
        ip("-n", self.namespace, "route", "add", str(LEFTOVER), *words)

    def until_all_is_as_announced(self) -> None:
        """Wait until the kernel has a route for each block and no other of ours, and the agent says so, too."""
        with closing(RouteCount(self.namespace)) as routes:
            self._place.until(lambda: routes.read() == self._other_routes + COUNT, f"at {COUNT} routes")
        self._place.until(self._has_learned_all, "ready with all blocks")

    def counted(self, what: str) -> int:
        """Return a counter of the agent, which began at its start."""
        with inside(self.namespace), closing(http.client.HTTPConnection("127.0.0.1", 9091, timeout=30)) as connection:
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            metrics = connection.getresponse().read().decode()
        [value] = re.findall(rf"(?m)^{what}_total (\S+)$", metrics)
        return int(float(value))

    def _has_learned_all(self) -> bool:
        with suppress(AgentUnavailable):
            status = agent_status(self._node.agent_socket)
            return status.ready and status.routes_in_sync and status.route_count == COUNT
        return False


class Events:
    """What the kernel tells of routes; it must lose nothing."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.bind((0, ROUTE_EVENTS))
        self._socket.setblocking(False)

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()

    def heard(self) -> list[tuple[int, IPNetwork]]:
        """Return the kind and the prefix of every event about a route of our metric; OSError if any was lost."""
        found: list[tuple[int, IPNetwork]] = []
        while True:
            try:
                datagram = self._socket.recv(DATAGRAM_BYTES)
            except BlockingIOError:
                return found
            for kind, _, _, body in messages(datagram):
                prefix, _ = heard(body)
                if prefix is not None:
                    found.append((kind, prefix))


@contextmanager
def events_of(host: Host) -> Iterator[Events]:
    """Listen from now on."""
    with closing(Events(host.namespace)) as events:
        yield events


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Return a host with all blocks in its kernel."""
    with place() as where:
        made = Host(where)
        made.until_all_is_as_announced()
        yield made


@pytest.mark.parametrize("crashed", [False, True])
def test_an_agent_that_starts_anew_writes_none_of_65536_routes(host: Host, *, crashed: bool) -> None:
    """Stopped or killed: of all events until it has swept everything, only a leftover's are about routes of ours.

    The kernel tells of no replacement by the same route, so the agent's own count has to say that there was none.
    """
    with events_of(host) as events:
        if crashed:
            host.agent.kill()
        else:
            host.agent.end()
        host.add_leftover()
        host.start_agent()
        host.until_all_is_as_announced()
        assert events.heard() == [(RTM_NEWROUTE, LEFTOVER), (RTM_DELROUTE, LEFTOVER)]
        assert (host.counted("tortie_routes_programmed"), host.counted("tortie_routes_removed")) == (0, 1)

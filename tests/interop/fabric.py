"""Two hosts with a workload each, and between them a router: real agents, real speakers, real kernel routes.

    workload 1 ── host 1 ── router ── host 2 ── workload 2

To a reflector the hosts are on one subnet and reach each other without it; a top-of-rack router has a subnet for each
host and forwards all they send each other.
"""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bgp.configuration import BgpConfiguration
from bgp.peering import PeerDefinition
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_bgp_configuration, encode_peer
from controller.datamodel.records import encode_pool
from controller.ports import Put
from controller.store.sqlite import SqliteStore
from ipam.pool import Pool
from tests.interop.flows import Pings
from tests.interop.hosts import Host, Link, ip
from tests.interop.routers import Neighbour, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bgp.address import IPAddress, IPNetwork
    from tests.interop.routers import RouterProgram

PASSWORD: Final = "sixteen.letters"
CLUSTER_AS: Final = 64512
_ROUTER_AS: Final = 65000
_POOLS: Final = (
    Pool(name="ipv4", cidr=ipaddress.ip_network("10.244.0.0/16"), block_prefix_length=26),
    Pool(name="ipv6", cidr=ipaddress.ip_network("fd00:244::/64"), block_prefix_length=122),
)


def link(number: int, *, reflector: bool) -> Link:
    """Return the addresses of a host and of its router."""
    subnet = 0 if reflector else number
    four, six = ipaddress.IPv4Network(f"10.7.{subnet}.0/24"), ipaddress.IPv6Network(f"fd07:{subnet}::/64")
    return Link((four[number], six[number]), (four[254], six[254]))


class Fabric:
    """The three of them; `start` brings everything up but waits for nothing."""

    def __init__(self, prefix: str, directory: Path, program: type[RouterProgram], *, reflector: bool) -> None:
        self.reflector = reflector
        self.router_as = CLUSTER_AS if reflector else _ROUTER_AS
        self.router_id = "10.7.0.254"
        self.directory = directory
        self.namespace = f"{prefix}r"
        # To a top-of-rack router each host is an AS of its own: the first by its own number, the second by the
        # number it shows on these sessions alone.
        numbers = (CLUSTER_AS, CLUSTER_AS) if reflector else (64601, CLUSTER_AS)
        self.session_as = (CLUSTER_AS, CLUSTER_AS) if reflector else (64601, 64602)
        self.hosts = tuple(
            Host(number, prefix, directory, link(number, reflector=reflector), as_number)
            for number, as_number in enumerate(numbers, start=1)
        )
        self.pings: list[Pings] = []
        #: The passwords of the hosts' sessions, by host and IP version.
        self.passwords = {(host.name, version): PASSWORD for host in self.hosts for version in (4, 6)}
        self._blocks: dict[str, tuple[IPNetwork, ...]] = {}
        self._namespaces = [self.namespace, *(name for host in self.hosts for name in (host.namespace, host.workload))]
        self._store = SqliteStore(directory / "store.db")
        plan = Plan(
            as_number=self.router_as,
            router_id=self.router_id,
            reflector=reflector,
            neighbours=tuple(
                Neighbour(address, as_number)
                for host, as_number in zip(self.hosts, self.session_as, strict=True)
                for address in host.link.host
            ),
            password=PASSWORD,
        )
        self.router = program(self.namespace, plan)

    async def start(self) -> None:
        """Make the namespaces, write what operators would write, and start every program."""
        self._make_namespaces()
        await self.announce(4, 6)
        await self.write_peers()
        self.router.start()
        for host in self.hosts:
            host.start_speaker()
            host.start_agent()

    def complete(self) -> None:
        """Route what the router's kernel has to route, if its program leaves that to others; hosts are wired now."""
        self._blocks = {host.name: host.blocks() for host in self.hosts}
        if self.reflector or self.router.programs_kernel:
            return
        for _, target, block in self.ways():
            [gateway] = [str(end) for end in target.link.host if end.version == block.version]
            ip("-n", self.namespace, f"-{block.version}", "route", "add", str(block), "via", gateway)

    def ways(self) -> list[tuple[Host, Host, IPNetwork]]:
        """Return each host with each block of the other host: source, target, block."""
        one, two = self.hosts
        return [(a, b, block) for a, b in ((one, two), (two, one)) for block in self._blocks[b.name]]

    def gateways(self, source: Host, target: Host, block: IPNetwork) -> set[IPAddress]:
        """Return by which gateways the source is to reach a block of the target."""
        ends = target.link.host if self.reflector else source.link.router
        return {end for end in ends if end.version == block.version}

    def known_to_router(self) -> dict[IPNetwork, set[IPAddress]]:
        """Return the next hops of each block of a host that the router program knows."""
        found = {block: self.router.next_hops(block) for _, _, block in self.ways()}
        return {block: hops for block, hops in found.items() if hops}

    def session_as_of(self, host: Host) -> int:
        """Return the AS number the host shows the router."""
        return self.session_as[self.hosts.index(host)]

    async def announce(self, *versions: int) -> None:
        """Let the hosts announce their blocks of these IP versions, and no others."""
        pools = [replace(pool, disable_bgp_export=pool.cidr.version not in versions) for pool in _POOLS]
        await self._store.commit([Put(keys.pool(pool.name), encode_pool(pool), None) for pool in pools])

    async def close(self) -> None:
        """Remove everything, however much of it there is."""
        for flow in self.pings:
            flow.remove()
        self.router.remove()
        for host in self.hosts:
            await host.remove()
        await self._store.close()
        self._remove_namespaces()

    def ping(self, source: Host, target: Host) -> Sequence[Pings]:
        """Begin to ping each address of a workload from another one."""
        started = [
            Pings(source.workload, address, self.directory / f"ping{len(self.pings) + number}")
            for number, address in enumerate(target.workload_addresses)
        ]
        self.pings += started
        return started

    def refused_segments(self) -> int:
        """Return how many segments the router's kernel has refused because of their signature (RFC 2385)."""
        lines = self.router.ask("cat", "/proc/net/netstat").splitlines()
        names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
        return int(dict(zip(names, values, strict=True))["TCPMD5Failure"])

    def log(self) -> str:
        """Return the end of what every program logged."""
        return "\n".join([*(host.log() for host in self.hosts), self.router.log()])

    async def write_peers(self) -> None:
        """Let the hosts have their sessions with the router, with these passwords."""
        operations = [Put(keys.BGP_CONFIGURATION, encode_bgp_configuration(BgpConfiguration(mesh=False)), None)]
        for host, session_as in zip(self.hosts, self.session_as, strict=True):
            for address in host.link.router:
                peer = PeerDefinition(
                    name=f"{host.name}-v{address.version}",
                    address=address,
                    as_number=self.router_as,
                    node=host.name,
                    password=self.passwords[host.name, address.version],
                    local_as=session_as,
                )
                operations.append(Put(keys.peer(peer.name), encode_peer(peer), None))
        await self._store.commit(operations)

    def _make_namespaces(self) -> None:
        for name in self._namespaces:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            subprocess.run(["ip", "netns", "exec", self.namespace, "sysctl", "-qw", setting], check=True)
        if self.reflector:
            ip("-n", self.namespace, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            self._address(self.namespace, "br0", self.hosts[0].link.router)
        for host in self.hosts:
            ip(
                "link",
                "add",
                host.name,
                "netns",
                self.namespace,
                "type",
                "veth",
                "peer",
                "up0",
                "netns",
                host.namespace,
            )
            self._address(host.namespace, "up0", host.link.host)
            if self.reflector:
                ip("-n", self.namespace, "link", "set", host.name, "master", "br0", "up")
            else:
                self._address(self.namespace, host.name, host.link.router)

    def _remove_namespaces(self) -> None:
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    @staticmethod
    def _address(namespace: str, device: str, addresses: tuple[IPAddress, IPAddress]) -> None:
        ip("-n", namespace, "address", "add", f"{addresses[0]}/24", "dev", device)
        ip("-n", namespace, "address", "add", f"{addresses[1]}/64", "dev", device, "nodad")
        ip("-n", namespace, "link", "set", device, "up")

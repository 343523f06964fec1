"""Two hosts with a workload each, and between them a router: real agents, real speakers, real kernel routes.

    workload 1 ── host 1 ── router ── host 2 ── workload 2

To a reflector the hosts are on one subnet and reach each other without it; a top-of-rack router has a subnet for each
host and forwards all they send each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bgp.configuration import BgpConfiguration
from bgp.events import EndOfRib, RoutesChanged, SpeakerLost, SpeakerSnapshot
from bgp.peering import PeerDefinition
from controller.agent_client import agent_status
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_bgp_configuration, encode_peer
from controller.datamodel.records import encode_pool
from controller.errors import AgentUnavailable
from controller.ports import Put
from controller.speaker.client import SidecarSpeaker
from controller.store.sqlite import SqliteStore
from ipam.pool import Pool
from tests.interop.routers import Neighbour, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bgp.address import IPAddress, IPNetwork
    from bgp.events import SpeakerEvent
    from bgp.route import LearnedRoute
    from controller.agent_client import AgentStatus
    from tests.interop.routers import RouterProgram

PASSWORD: Final = "sixteen.letters"
CLUSTER_AS: Final = 64512
_ROUTER_AS: Final = 65000
_POOLS: Final = (
    Pool(name="ipv4", cidr=ipaddress.ip_network("10.244.0.0/16"), block_prefix_length=26),
    Pool(name="ipv6", cidr=ipaddress.ip_network("fd00:244::/64"), block_prefix_length=122),
)
_PROGRAMS: Final = Path(sys.executable).parent


def ip(*words: str) -> str:
    """Run `ip`, return what it says, and fail with what it complains of."""
    outcome = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, f"ip {' '.join(words)}: {outcome.stderr}"
    return outcome.stdout


@dataclass(frozen=True, slots=True)
class Link:
    """Both ends of a host's way to the router, IPv4 first."""

    host: tuple[IPAddress, IPAddress]
    router: tuple[IPAddress, IPAddress]


def link(number: int, *, reflector: bool) -> Link:
    """Return the addresses of a host and of its router."""
    subnet = 0 if reflector else number
    four, six = ipaddress.IPv4Network(f"10.7.{subnet}.0/24"), ipaddress.IPv6Network(f"fd07:{subnet}::/64")
    return Link((four[number], six[number]), (four[254], six[254]))


class Host:
    """A host's namespace, its workload's, and the programs in it."""

    def __init__(self, number: int, prefix: str, directory: Path, addresses: Link, as_number: int) -> None:
        self.name = f"host{number}"
        self.namespace = f"{prefix}h{number}"
        self.workload = f"{prefix}w{number}"
        self.link = addresses
        self.workload_addresses: tuple[IPAddress, ...] = ()
        self._directory = directory / self.name
        self._run = self._directory / "run"
        self._run.mkdir(parents=True)
        settings = self._directory / "tortie.toml"
        settings.touch()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TORTIE_")},
            "TORTIE_CONFIG": str(settings),
            "TORTIE_STORE": "sqlite",
            "TORTIE_SQLITE_PATH": str(directory / "store.db"),
            "TORTIE_NODE_NAME": self.name,
            "TORTIE_RUN_DIR": str(self._run),
            "TORTIE_AS_NUMBER": str(as_number),
            "TORTIE_IPV4_ADDRESS": str(addresses.host[0]),
            "TORTIE_IPV6_ADDRESS": str(addresses.host[1]),
            "TORTIE_HOLD_TIME_SECONDS": "9",
            "TORTIE_RESTART_TIME_SECONDS": "60",
        }
        self.observer = Observer(self._run / "bgp.sock")
        self._agent: subprocess.Popen[bytes] | None = None
        self._speaker: subprocess.Popen[bytes] | None = None

    def start_agent(self) -> None:
        """Start the agent without waiting."""
        self._agent = self._start("agent", str(_PROGRAMS / "tortie-agent"))

    def start_speaker(self) -> None:
        """Start the speaker without waiting."""
        paths = ["--socket", str(self._run / "bgp.sock"), "--state-dir", str(self._directory / "bgp")]
        self._speaker = self._start("bgp", str(_PROGRAMS / "tortie-bgp"), *paths)

    def kill_speaker(self) -> None:
        """End the speaker as a crash would."""
        assert self._speaker is not None
        self._speaker.kill()
        self._speaker.wait()

    def status(self) -> AgentStatus | None:
        """Return what the agent says of itself, None while it does not answer."""
        try:
            return agent_status(self._run / "agent.sock")
        except AgentUnavailable:
            return None

    def is_ready(self) -> bool:
        """Say whether a workload could be wired now."""
        status = self.status()
        return status is not None and status.ready

    def established(self) -> set[str]:
        """Return the addresses of the peers with an established session."""
        status = self.status()
        return set() if status is None else {each.address for each in status.sessions if each.established}

    def routes(self, prefix: IPNetwork) -> set[IPAddress]:
        """Return the gateways of this prefix among the kernel's routes of ours."""
        answer = ip("-n", self.namespace, f"-{prefix.version}", "route", "show", "exact", str(prefix), "proto", "116")
        return {ipaddress.ip_address(word) for word in re.findall(r"via (\S+)", answer)}

    def blocks(self) -> tuple[IPNetwork, ...]:
        """Return the blocks the host owns, IPv4 first."""
        words = [
            line.split()[1]
            for version in (4, 6)
            for line in ip("-n", self.namespace, f"-{version}", "route", "show", "type", "blackhole").splitlines()
        ]
        return tuple(ipaddress.ip_network(word) for word in words)

    def wire(self) -> None:
        """Give the workload its addresses, through the CNI plugin."""
        configuration = {
            "cniVersion": "1.0.0",
            "name": "tortie",
            "type": "tortie-cni",
            "agent_socket": str(self._run / "cni.sock"),
            "ipam": {"type": "tortie", "ipv4": True, "ipv6": True},
        }
        variables = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": self.workload,
            "CNI_NETNS": f"/run/netns/{self.workload}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(_PROGRAMS),
        }
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, str(_PROGRAMS / "tortie-cni-py")],
            env={**self._environment, **variables},
            input=json.dumps(configuration),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        addresses = [each["address"].partition("/")[0] for each in json.loads(done.stdout)["ips"]]
        found = map(ipaddress.ip_address, addresses)
        self.workload_addresses = tuple(sorted(found, key=lambda address: address.version))

    def log(self) -> str:
        """Return the end of what the programs logged."""
        return "".join(path.read_text(errors="replace")[-2000:] for path in self._directory.glob("*.log"))

    async def remove(self) -> None:
        """End the programs."""
        await self.observer.close()
        for process in (self._agent, self._speaker):
            if process is not None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait()

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


class Observer:
    """Listens to a host's speaker beside its agent: what was learned on which session, and whether that is all."""

    def __init__(self, socket: Path) -> None:
        self.routes: dict[tuple[IPAddress, IPNetwork], LearnedRoute] = {}
        self.ended: set[tuple[IPAddress, int]] = set()
        self._speaker = SidecarSpeaker(socket)
        self._task = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        await self._speaker.close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._speaker.events()) as events:
            async for event in events:
                self._take(event)

    def _take(self, event: SpeakerEvent) -> None:
        if isinstance(event, SpeakerSnapshot):
            self.ended = set(event.ended)
            self.routes = {(route.peer, route.prefix): route for route in event.routes}
        elif isinstance(event, SpeakerLost):
            self.ended, self.routes = set(), {}
        elif isinstance(event, EndOfRib):
            self.ended.add((event.peer, event.version))
        elif isinstance(event, RoutesChanged):
            for prefix in event.withdrawn:
                self.routes.pop((event.peer, prefix), None)
            self.routes.update({(event.peer, route.prefix): route for route in event.announced})
        else:
            self.ended = {(peer, version) for peer, version in self.ended if peer != event.peer}
            self.routes = {key: route for key, route in self.routes.items() if key[0] != event.peer}


class Pings:
    """A flow of a hundred pings a second from one workload to an address of another."""

    def __init__(self, namespace: str, target: IPAddress, path: Path) -> None:
        self._path = path
        command = ["ip", "netns", "exec", namespace, "ping", "-n", "-i", "0.009", str(target)]
        with path.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def replies(self) -> list[int]:
        """Return the sequence numbers answered so far."""
        return [int(number) for number in re.findall(r"bytes from \S+ icmp_seq=(\d+)", self._path.read_text())]

    def finish(self) -> set[int]:
        """End it and return the sequence numbers that were never answered."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=10)
        replies = self.replies()
        # The last one may have been on its way.
        return set(range(1, max(replies) + 1)) - set(replies)

    def remove(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


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
        await self.set_pools(exported=True)
        await self._write_peers()
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

    async def set_pools(self, *, exported: bool) -> None:
        """Let the blocks of all pools be announced, or not."""
        pools = [replace(pool, disable_bgp_export=not exported) for pool in _POOLS]
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

    def log(self) -> str:
        """Return the end of what every program logged."""
        return "\n".join([*(host.log() for host in self.hosts), self.router.log()])

    async def _write_peers(self) -> None:
        operations = [Put(keys.BGP_CONFIGURATION, encode_bgp_configuration(BgpConfiguration(mesh=False)), None)]
        for host, session_as in zip(self.hosts, self.session_as, strict=True):
            for address in host.link.router:
                peer = PeerDefinition(
                    name=f"{host.name}-v{address.version}",
                    address=address,
                    as_number=self.router_as,
                    node=host.name,
                    password=PASSWORD,
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

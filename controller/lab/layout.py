"""What a lab consists of: names, addresses and paths, all following from its name and its hosts.

Everything the lab makes lies in its state directory or is a network namespace whose name begins with the lab's
prefix; nothing is made in the root namespace. Labs of different names share nothing, so all use the same addresses.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from controller.errors import RefusedError

if TYPE_CHECKING:
    from ipam.address import IPAddress

StoreKind: TypeAlias = Literal["sqlite", "consul"]
RouterProgram: TypeAlias = Literal["bird", "gobgp"]

FABRIC: Final = "fabric"
#: Networks for documentation (RFC 5737, RFC 3849): no lab can be mistaken for a real network.
FABRIC_NETWORKS: Final = {4: ipaddress.ip_network("192.0.2.0/24"), 6: ipaddress.ip_network("2001:db8::/64")}
#: The fabric's own address in each of them, counted from the start of the network.
FABRIC_INDEX: Final = 254
POOLS: Final = {"ipv4": "10.244.0.0/16", "ipv6": "fd00:244::/64"}
CONSUL: Final = "consul"
MAX_HOSTS: Final = 250
MAX_ROUTERS: Final = 3
STATE_ROOT: Final = Path("/run")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Workload:
    """A container in place of which there is only its network namespace; `addresses` are empty until it is wired."""

    name: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A host with its workloads; its addresses end in `index`."""

    index: int
    workloads: tuple[Workload, ...] = ()

    @property
    def name(self) -> str:
        """The host's name, which is also its node's."""
        return f"h{self.index}"


@dataclass(frozen=True, slots=True)
class Router:
    """A router of the fabric that is no host, counted from 1; `reflector`: its configuration follows the hosts."""

    number: int
    program: RouterProgram
    reflector: bool

    @property
    def name(self) -> str:
        """The router's name."""
        return f"r{self.number}"

    @property
    def index(self) -> int:
        """What its addresses end in, behind those of all hosts."""
        return MAX_HOSTS + self.number


@dataclass(frozen=True, slots=True)
class Layout:
    """One lab; `complete` once everything in it has been up, `last_index` is the highest a host ever had."""

    name: str
    store: StoreKind
    dual_stack: bool
    hosts: tuple[Host, ...]
    last_index: int
    complete: bool = False
    routers: tuple[Router, ...] = ()

    @property
    def state(self) -> Path:
        """The directory of everything that is not a namespace."""
        return state_directory(self.name)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions of the lab."""
        return (4, 6) if self.dual_stack else (4,)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """Every workload, host by host."""
        return tuple(workload for host in self.hosts for workload in host.workloads)

    @property
    def consul_address(self) -> str:
        """Consul's HTTP address, in the fabric."""
        return f"http://{FABRIC_NETWORKS[4][FABRIC_INDEX]}:8500"

    def namespace(self, place: str) -> str:
        """Return the name of the namespace of a host, a workload or the fabric."""
        return f"tortie-{self.name}-{place}"

    def host(self, name: str) -> Host:
        """Return the host of this name; raises `RefusedError`."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise RefusedError(
            f"no host {name} in lab {self.name}; there are: {', '.join(host.name for host in self.hosts)}"
        )

    def host_of(self, place: str) -> Host | None:
        """Return the host a place is or lies on, None for fabric and routers; raises `RefusedError`."""
        for host in self.hosts:
            if place == host.name or place in {workload.name for workload in host.workloads}:
                return host
        bare = [FABRIC, *(router.name for router in self.routers)]
        if place in bare:
            return None
        places = [*bare, *(host.name for host in self.hosts), *(workload.name for workload in self.workloads)]
        raise RefusedError(f"no host or workload {place} in lab {self.name}; there are: {', '.join(places)}")

    def router(self, name: str) -> Router:
        """Return the router of this name; raises `RefusedError`."""
        for router in self.routers:
            if router.name == name:
                return router
        there = ", ".join(router.name for router in self.routers) or "none"
        raise RefusedError(f"no router {name} in lab {self.name}; there are: {there}")

    def addresses(self, host: Host | Router) -> tuple[IPAddress, ...]:
        """Return the addresses of a host or router, IPv4 first."""
        return tuple(FABRIC_NETWORKS[version][host.index] for version in self.versions)

    def directory(self, host: Host | Router) -> Path:
        """Return the directory of a host's or router's files."""
        return self.state / host.name

    def log(self, service: str) -> Path:
        """Return the log file of a service."""
        return self.state / "log" / (service.replace("/", "-") + ".log")

    def environment(self, host: Host | None) -> dict[str, str]:
        """Return the settings under which programs of this host run; None is a host without an agent."""
        directory = self.state if host is None else self.directory(host)
        settings = {"TORTIE_STORE": self.store, "TORTIE_CONFIG": str(directory / "tortie.toml")}
        if self.store == "sqlite":
            settings["TORTIE_SQLITE_PATH"] = str(self.state / "store.db")
        else:
            settings["TORTIE_CONSUL_ADDRESS"] = self.consul_address
        if host is not None:
            settings["TORTIE_NODE_NAME"] = host.name
            settings["TORTIE_RUN_DIR"] = str(self.directory(host) / "run")
        return settings

    def with_host(self, host: Host) -> Layout:
        """Return the lab in which this host replaces the one of its name, or is added."""
        others = [other for other in self.hosts if other.index != host.index]
        hosts = tuple(sorted([*others, host], key=lambda each: each.index))
        return replace(self, hosts=hosts, last_index=max(self.last_index, host.index))

    def without_host(self, host: Host) -> Layout:
        """Return the lab without this host."""
        return replace(self, hosts=tuple(other for other in self.hosts if other.index != host.index))


def plan(name: str, *, nodes: int, workloads: int, store: StoreKind, dual_stack: bool) -> Layout:
    """Return the layout of a new lab with `workloads` on each of `nodes` hosts; raises `RefusedError`."""
    check_name(name)
    if not 1 <= nodes <= MAX_HOSTS:
        raise RefusedError(f"{nodes} nodes; a lab has 1 to {MAX_HOSTS}")
    if workloads < 0:
        raise RefusedError(f"{workloads} workloads a node; write 0 or more")
    hosts = tuple(planned_host(index, workloads) for index in range(1, nodes + 1))
    return Layout(name, store, dual_stack, hosts, nodes)


def planned_host(index: int, workloads: int) -> Host:
    """Return a host with this many workloads that have no addresses yet."""
    return Host(index, tuple(Workload(f"h{index}w{number}") for number in range(1, workloads + 1)))


def state_directory(name: str) -> Path:
    """Return the state directory of the lab of this name; raises `RefusedError`."""
    check_name(name)
    return STATE_ROOT / f"tortie-{name}"


def check_name(name: str) -> None:
    """Raise `RefusedError` unless a lab can have this name: it becomes part of namespaces' names and socket paths."""
    if not _NAME.fullmatch(name):
        raise RefusedError(f"{name!r} cannot name a lab: use up to 32 lower case letters, digits and '-'")


def is_namespace_of(lab: str, namespace: str) -> bool:
    """Tell whether a namespace's name is one that this lab gives, and no lab of another name."""
    return re.fullmatch(rf"tortie-{re.escape(lab)}-(fabric|r\d+|h\d+(w\d+)?)", namespace) is not None

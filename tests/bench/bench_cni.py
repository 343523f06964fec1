"""ADD and DEL of a container: from the start of the plugin's process to its end, alone and with 50 in flight.

The peer is `ptp` with `host-local`, of the standard plugins: it makes a veth pair with routes as we do, and keeps its
addresses in files.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from controller.kernel.link_names import container_mac, host_link_name
from controller.kernel.links import KernelLinks
from controller.ports import WorkloadLink
from tests.bench.bgp_places import Node, inside, place, write_cluster
from tests.bench.cni_callers import Container, Plugin, containers
from tests.bench.harness import Benchmark, Better, Comparison, Figure
from tests.bench.ipam_nodes import POOL, consul_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.bench.bgp_places import Place
    from tests.bench.harness import Sample

_SHIM: Final = Path(__file__).parents[2] / "build" / "tortie-cni"
#: Where Debian's containernetworking-plugins has its programs.
_PTP: Final = Path("/usr/lib/cni/ptp")
_ALONE: Final = 20
_IN_FLIGHT: Final = 50
_MANY: Final = 100
_FEW_WORKLOADS: Final = 10
_MANY_WORKLOADS: Final = 1000


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    with ExitStack() as stack:
        where = stack.enter_context(place())
        prefix = f"tcni{os.getpid()}"
        fresh = stack.enter_context(containers(f"{prefix}new", _MANY))
        nodes = [_on_sqlite(where, 1), _on_sqlite(where, 2), _on_consul(where, 3, stack)]
        agents = [node.start() for node in nodes]
        sqlite, full, consul = (_node(where, node) for node in nodes)
        hosts = {"sqlite": sqlite, "consul": consul, "ptp": _ptp(where, 4), "full": full}
        sides: dict[str, Sample] = {
            "process": partial(_milliseconds, sqlite, "VERSION", fresh[:_ALONE]),
            "wiring": partial(_wiring_milliseconds, where.host(5), fresh[:_ALONE]),
            "memory sqlite": agents[0].memory_megabytes,
            "memory full": agents[1].memory_megabytes,
        }
        for name, plugin in hosts.items():
            count = _MANY_WORKLOADS if plugin is full else _FEW_WORKLOADS
            attached = stack.enter_context(containers(f"{prefix}{name}", count))
            where.until(partial(_is_ready, plugin, attached[0]), "ready")
            plugin.call("ADD", attached[1:], in_flight=_IN_FLIGHT)
            for command in ("ADD", "DEL"):
                sides[f"{command} {name}"] = partial(_milliseconds, plugin, command, fresh[:_ALONE])
            for command in ("ADD", "DEL") if plugin is not full else ():
                sides[f"{command} many {name}"] = partial(_per_second, plugin, command, fresh)
        yield sides


def _milliseconds(plugin: Plugin, command: str, containers: list[Container]) -> float:
    """Return the median time of a call, made one after the other."""
    ended = plugin.call(command, containers)
    return 1000 * median(after - before for before, after in pairwise([0.0, *ended]))


def _wiring_milliseconds(host: str, containers: list[Container]) -> float:
    """Return the median time that the agent's own code takes for one link, without the agent."""
    times = []
    with inside(host), closing(KernelLinks()) as links, ExitStack() as stack:
        for number, container in enumerate(containers):
            name = host_link_name(container.name, "eth0")
            mac = container_mac(container.name, "eth0")
            namespace = stack.enter_context(Path(container.namespace_path).open("rb"))
            stack.callback(links.unwire, name)
            link = WorkloadLink(name, "eth0", mac, (IPv4Address(f"10.81.0.{number}"),), 1500)
            started = time.perf_counter()
            links.wire(namespace.fileno(), link)
            times.append(1000 * (time.perf_counter() - started))
    return median(times)


def _per_second(plugin: Plugin, command: str, containers: list[Container]) -> float:
    return len(containers) / plugin.call(command, containers, in_flight=_IN_FLIGHT)[-1]


def _node(where: Place, node: Node) -> Plugin:
    configuration = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "tortie-cni",
        "agent_socket": str(node.cni_socket),
        "ipam": {"type": "tortie", "ipv4": True, "ipv6": False},
    }
    return _plugin(where, _SHIM, configuration, node.namespace)


def _on_sqlite(where: Place, number: int) -> Node:
    store = where.directory / f"store{number}.db"
    write_cluster(store, POOL)
    return Node(where, number, store=store)


def _on_consul(where: Place, number: int, stack: ExitStack) -> Node:
    node = Node(where, number, store=where.directory / "none.db")
    with inside(node.namespace):
        node.environment["TORTIE_CONSUL_ADDRESS"] = stack.enter_context(consul_server())
    node.environment["TORTIE_STORE"] = "consul"
    return node


def _ptp(where: Place, number: int) -> Plugin:
    host = where.host(number)
    where.let_forward(host)
    state = where.directory / "host-local"
    configuration = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.80.0.0/16", "dataDir": str(state)},
    }
    return _plugin(where, _PTP, configuration, host)


def _plugin(where: Place, program: Path, configuration: Mapping[str, object], host: str) -> Plugin:
    written = where.directory / f"{host}.json"
    written.write_text(json.dumps(configuration))
    return Plugin(program, written, host)


def _is_ready(plugin: Plugin, container: Container) -> bool:
    """Attach the container; an agent that has just started is asked again."""
    try:
        plugin.call("ADD", [container])
    except RuntimeError:
        return False
    return True


BENCHMARK = Benchmark(
    title="ADD and DEL, process to process: tortie-cni and its agent against ptp with host-local",
    rows={
        **{
            f"{command.lower()}-{store}": Comparison(f"{command} {store}", f"{command} ptp", "ms", Better.LOWER)
            for command in ("ADD", "DEL")
            for store in ("sqlite", "consul")
        },
        **{
            f"{command.lower()}-in-flight-{store}": Comparison(
                f"{command} many {store}", f"{command} many ptp", "1/s", Better.HIGHER
            )
            for command in ("ADD", "DEL")
            for store in ("sqlite", "consul")
        },
        "add-at-1000-workloads": Comparison("ADD full", "ADD sqlite", "ms", Better.LOWER),
        "memory-at-1000-workloads": Comparison("memory full", "memory sqlite", "MB", Better.LOWER),
        "process-alone": Figure("process", "ms"),
        "wiring-alone": Figure("wiring", "ms"),
    },
    sides=_sides,
)

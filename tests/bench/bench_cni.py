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
#: How many calls one after the other make a sample.
ALONE: Final = 20
_IN_FLIGHT: Final = 50
_MANY: Final = 100
#: In this order, so that each side leaves no container attached to the next.
_COMMANDS: Final = ("ADD", "DEL")
#: How many workloads a host has while it is measured.
FEW_WORKLOADS: Final = 10


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    with ExitStack() as stack:
        where = stack.enter_context(place())
        prefix = f"tcni{os.getpid()}"
        fresh = stack.enter_context(containers(f"{prefix}new", _MANY))
        nodes = [on_sqlite(where, 1), _on_consul(where, 2, stack)]
        for node in nodes:
            node.start()
        sqlite, consul = (plugin_of(where, node) for node in nodes)
        hosts = {"sqlite": sqlite, "consul": consul, "ptp": _ptp(where, 3)}
        sides: dict[str, Sample] = {
            "process": partial(milliseconds, sqlite, "VERSION", fresh[:ALONE]),
            "wiring": partial(_wiring_milliseconds, where.host(4), fresh[:ALONE]),
        }
        for name, plugin in hosts.items():
            attach(where, plugin, stack.enter_context(containers(f"{prefix}{name}", FEW_WORKLOADS)))
            sides |= {
                **{f"{command} {name}": partial(milliseconds, plugin, command, fresh[:ALONE]) for command in _COMMANDS},
                **{f"{command} many {name}": partial(_per_second, plugin, command, fresh) for command in _COMMANDS},
            }
        yield sides


def attach(where: Place, plugin: Plugin, attached: list[Container]) -> None:
    """Attach the containers; an agent that has just started is asked until it is ready."""
    where.until(partial(_is_ready, plugin, attached[0]), "ready")
    plugin.call("ADD", attached[1:], in_flight=_IN_FLIGHT)


def milliseconds(plugin: Plugin, command: str, containers: list[Container]) -> float:
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


def plugin_of(where: Place, node: Node) -> Plugin:
    """Return our plugin as a runtime of the node's host calls it."""
    configuration = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "tortie-cni",
        "agent_socket": str(node.cni_socket),
        "ipam": {"type": "tortie", "ipv4": True, "ipv6": False},
    }
    return _plugin(where, _SHIM, configuration, node.namespace)


def on_sqlite(where: Place, number: int) -> Node:
    """Return a node with a store of its own, which has the pool."""
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
            for command in _COMMANDS
            for store in ("sqlite", "consul")
        },
        **{
            f"{command.lower()}-in-flight-{store}": Comparison(
                f"{command} many {store}", f"{command} many ptp", "1/s", Better.HIGHER
            )
            for command in _COMMANDS
            for store in ("sqlite", "consul")
        },
        "process-alone": Figure("process", "ms"),
        "wiring-alone": Figure("wiring", "ms"),
    },
    sides=_sides,
)

"""Several hosts on one machine: real agents, real speakers and real kernel routes in network namespaces.

    lab = Lab("demo")
    lab.up(nodes=3, workloads=2, store="sqlite", dual_stack=False)
    assert lab.ping().complete
    lab.down()

Everything raises `RefusedError` when the lab or what is named in it does not exist.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from controller.errors import RefusedError
from controller.lab import reachability, readiness, routers, wiring
from controller.lab.control import SupervisorUnavailable, ask, start_supervisor
from controller.lab.layout import (
    FABRIC,
    MAX_HOSTS,
    MAX_ROUTERS,
    Host,
    Layout,
    Router,
    StoreKind,
    Workload,
    plan,
    planned_host,
    state_directory,
)
from controller.lab.network import Network, namespaces_of, remove_namespaces
from controller.lab.processes import kill_processes_in
from controller.lab.services import enter, environment, prepare_consul, services_of
from controller.lab.state import locked, manifest_path, read_manifest, write_manifest
from controller.lab.status import LabStatus, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from controller.lab.layout import RouterProgram
    from controller.lab.reachability import Matrix

_PARALLEL: Final = 8


class Lab:
    """One lab by its name; `progress` is told, step by step, what has come up."""

    def __init__(self, name: str = "lab", progress: Callable[[str], None] | None = None) -> None:
        self.name = name
        self._progress = progress
        self._began = time.monotonic()

    def up(
        self, *, nodes: int = 3, workloads: int = 2, store: StoreKind = "sqlite", dual_stack: bool = False
    ) -> LabStatus:
        """Build the lab and return it once all workloads are wired and reach each other.

        A lab of this name that runs stays as it is and is returned; what is left of a broken one is removed first.
        Raises `LabNotReady` with the end of a log when a part does not come up; what there is then stays, to be looked
        at.
        """
        wanted = plan(self.name, nodes=nodes, workloads=workloads, store=store, dual_stack=dual_stack)
        with locked(self.name) as lock:
            present = read_manifest(self.name)
            if present is not None and self._runs(present):
                if (present.store, present.dual_stack) != (store, dual_stack):
                    raise RefusedError(
                        f"lab {self.name} runs on {present.store}, dual-stack {'on' if present.dual_stack else 'off'}; "
                        f"remove it with `tortiectl lab down --name {self.name}`, or choose another --name"
                    )
                self._tell(f"lab {self.name} is running already and stays as it is")
                return observe(present)
            if present is not None or namespaces_of(self.name):
                self._remove(lock)
                self._tell("removed what was left of an earlier lab")
            write_manifest(wanted)
            try:
                return observe(self._build(wanted, lock))
            except BaseException:
                self._tell(f"not finished; what there is stays until `tortiectl lab down --name {self.name}`")
                raise

    def down(self) -> bool:
        """Remove everything of the lab, however much of it there is; return whether there was anything."""
        with locked(self.name) as lock:
            there = manifest_path(self.name).exists() or bool(namespaces_of(self.name))
            self._remove(lock)
        return there

    def status(self) -> LabStatus:
        """Return the lab as it is now."""
        return observe(self.layout())

    def layout(self) -> Layout:
        """Return the lab's names, addresses and paths."""
        layout = read_manifest(self.name)
        if layout is None:
            raise RefusedError(f"there is no lab {self.name}; `tortiectl lab up --name {self.name}` builds it")
        return layout

    def ping(self) -> Matrix:
        """Return who reaches whom now."""
        return reachability.measure(self.layout())

    def start(self, service: str) -> None:
        """Keep a service (`h1/agent`, `h1/bgp`, `consul`) running from now on."""
        ask(self.layout().name, "start", service)

    def stop(self, service: str) -> None:
        """End a service with everything it started, until it is started again."""
        ask(self.layout().name, "stop", service)

    def log(self, service: str) -> Path:
        """Return the log file of a service, or of the `supervisor`."""
        layout = self.layout()
        path = layout.log(service)
        if not path.exists():
            names = ", ".join(["supervisor", *(each.name for each in observe(layout).services)])
            raise RefusedError(f"no service {service} in lab {self.name}; there are: {names}")
        return path

    def command(self, place: str, arguments: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the command line and environment that run something on a host, in a workload or in the fabric."""
        layout = self.layout()
        settings = environment(layout, layout.host_of(place))
        return (*enter(layout.namespace(place)), *arguments), settings

    def run(
        self, place: str, arguments: Sequence[str], *, timeout_seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run something on a host, in a workload or in the fabric, and return what it printed and its exit code."""
        command, settings = self.command(place, arguments)
        return subprocess.run(
            command, env=settings, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )

    def add_node(self, *, workloads: int = 2) -> str:
        """Add a host with workloads, wait until all reach each other, and return its name."""
        with locked(self.name) as lock:
            layout = self._finished()
            host = planned_host(layout.last_index + 1, workloads)
            if host.index > MAX_HOSTS:
                raise RefusedError(f"lab {self.name} has had {MAX_HOSTS} hosts, which is the most")
            layout = layout.with_host(host)
            write_manifest(layout)
            self._make_hosts(Network(layout, lock), layout, [host])
            ask(self.name, "reload")
            self._tell_reflectors(layout)
            self._connect(layout, [host])
            return host.name

    def remove_node(self, name: str) -> None:
        """Remove a host for good: its services, its node with all its addresses, its workloads and namespaces."""
        with locked(self.name) as lock:
            layout = self.layout()
            host = layout.host(name)
            left = layout.without_host(host)
            if not left.hosts:
                raise RefusedError(
                    f"{name} is the last host of lab {self.name}; "
                    f"`tortiectl lab down --name {self.name}` removes the lab"
                )
            for service in services_of(layout).keys() - services_of(left).keys():
                ask(self.name, "stop", service)
            deleted = readiness.tortiectl(layout, FABRIC, ["node", "delete", "--missing-ok", "--force", name])
            if deleted.returncode:
                raise RefusedError(f"node {name} was not deleted: {deleted.stderr.strip()}")
            self._tell(deleted.stdout.strip())
            self._remove_namespaces(layout, [name, *(workload.name for workload in host.workloads)], lock)
            shutil.rmtree(layout.directory(host), ignore_errors=True)
            write_manifest(left)
            ask(self.name, "reload")
            self._tell_reflectors(left)

    def add_workload(self, host_name: str, wanted: Iterable[str] = ()) -> Workload:
        """Wire one more workload on a host, with the wanted addresses if any, and return it."""
        with locked(self.name) as lock:
            layout = self._finished()
            host = layout.host(host_name)
            numbers = [int(workload.name.partition("w")[2]) for workload in host.workloads]
            workload = Workload(f"{host.name}w{max(numbers, default=0) + 1}")
            host = replace(host, workloads=(*host.workloads, workload))
            write_manifest(layout.with_host(host))
            Network(layout, lock).make_workloads([workload])
            try:
                workload = replace(workload, addresses=wiring.add(layout, host, workload, wanted))
            except RefusedError:
                self._remove_namespaces(layout, [workload.name], lock)
                write_manifest(layout)
                raise
            write_manifest(layout.with_host(replace(host, workloads=(*host.workloads[:-1], workload))))
            return workload

    def remove_workload(self, name: str) -> None:
        """Release a workload's addresses and remove its namespace."""
        with locked(self.name) as lock:
            layout = self.layout()
            host = layout.host_of(name)
            if host is None or name == host.name:
                raise RefusedError(f"{name} is no workload of lab {self.name}")
            [workload] = [each for each in host.workloads if each.name == name]
            wiring.remove(layout, host, workload)
            kept = tuple(each for each in host.workloads if each is not workload)
            write_manifest(layout.with_host(replace(host, workloads=kept)))
            self._remove_namespaces(layout, [name], lock)

    def add_router(self, program: RouterProgram = "bird", configuration: str | None = None) -> Router:
        """Add a router to the fabric and return it as soon as its program is started.

        Without a configuration it is a route reflector for all hosts, those to come included; who is to peer with it
        is said in the store, as in any cluster.
        """
        with locked(self.name) as lock:
            layout = self._finished()
            number = max((router.number for router in layout.routers), default=0) + 1
            if number > MAX_ROUTERS:
                raise RefusedError(f"lab {self.name} has had {MAX_ROUTERS} routers, which is the most")
            router = Router(number, program, reflector=configuration is None)
            layout = replace(layout, routers=(*layout.routers, router))
            write_manifest(layout)
            Network(layout, lock).make_hosts([router])
            layout.directory(router).mkdir(exist_ok=True)
            text = routers.reflector(layout, router) if configuration is None else configuration
            routers.configuration_path(layout, router).write_text(text)
            ask(self.name, "reload")
            return router

    def remove_router(self, name: str) -> None:
        """Remove a router with its namespace and files; whoever peers with it keeps its routes for the restart time."""
        with locked(self.name) as lock:
            layout = self.layout()
            router = layout.router(name)
            ask(self.name, "stop", f"{router.name}/{router.program}")
            self._remove_namespaces(layout, [name], lock)
            shutil.rmtree(layout.directory(router), ignore_errors=True)
            write_manifest(replace(layout, routers=tuple(each for each in layout.routers if each is not router)))
            ask(self.name, "reload")

    def _tell_reflectors(self, layout: Layout) -> None:
        """Make the reflectors take the hosts of this layout for their clients."""
        states = ask(self.name, "status")
        for router in layout.routers:
            if router.reflector:
                routers.configuration_path(layout, router).write_text(routers.reflector(layout, router))
                pid = states[f"{router.name}/{router.program}"]["pid"]
                if pid is not None:
                    os.kill(pid, signal.SIGHUP)

    def _finished(self) -> Layout:
        """Return the layout of a lab that has been up: in another one nobody could ever reach everybody."""
        layout = self.layout()
        if not layout.complete:
            raise RefusedError(
                f"lab {self.name} was never finished; `tortiectl lab up --name {self.name}` builds it anew"
            )
        return layout

    def _runs(self, layout: Layout) -> bool:
        try:
            ask(self.name, "status")
        except SupervisorUnavailable:
            return False
        return layout.complete

    def _build(self, layout: Layout, lock: int) -> Layout:
        (layout.state / "log").mkdir(exist_ok=True)
        (layout.state / "tortie.toml").touch()
        wiring.install_plugin(layout)
        if layout.store == "consul":
            prepare_consul(layout)
        network = Network(layout, lock)
        network.make_fabric()
        self._make_hosts(network, layout, layout.hosts)
        self._tell(f"{len(layout.hosts)} hosts and {len(layout.workloads)} workloads have their namespaces")
        start_supervisor(layout, lock)
        readiness.apply_pools(layout)
        self._tell(f"the {layout.store} store holds the pools")
        layout = replace(self._connect(layout, layout.hosts), complete=True)
        write_manifest(layout)
        return layout

    def _make_hosts(self, network: Network, layout: Layout, hosts: Sequence[Host]) -> None:
        network.make_hosts(hosts)
        network.make_workloads(workload for host in hosts for workload in host.workloads)
        for host in hosts:
            for part in ("run", "bgp"):
                (layout.directory(host) / part).mkdir(parents=True, exist_ok=True)
            (layout.directory(host) / "tortie.toml").touch()
            wiring.configure(layout, host)

    def _connect(self, layout: Layout, hosts: Iterable[Host]) -> Layout:
        """Wait for the agents of new hosts, wire their workloads, and wait until everybody reaches everybody."""
        new = list(hosts)
        readiness.wait_for_agents(layout, new)
        self._tell(f"{len(new)} agents are ready")
        with ThreadPoolExecutor(_PARALLEL) as threads:
            wired = list(threads.map(partial(self._wired, layout), new))
        for host in wired:
            layout = layout.with_host(host)
        write_manifest(layout)
        self._tell(f"{sum(len(host.workloads) for host in new)} workloads are wired")
        self._tell(f"{readiness.wait_for_sessions(layout)} BGP sessions are established")
        matrix = readiness.wait_until_reachable(layout)
        self._tell(f"all {len(matrix.cells)} pairs of workloads reach each other")
        return layout

    def _wired(self, layout: Layout, host: Host) -> Host:
        workloads = (replace(each, addresses=wiring.add(layout, host, each)) for each in host.workloads)
        return replace(host, workloads=tuple(workloads))

    def _remove(self, lock: int) -> None:
        # Processes first: without its name a namespace that a process still holds could not be found again.
        namespaces = namespaces_of(self.name)
        kill_processes_in(namespaces.values())
        remove_namespaces(namespaces, lock=lock)
        shutil.rmtree(state_directory(self.name), ignore_errors=True)

    def _remove_namespaces(self, layout: Layout, places: Iterable[str], lock: int) -> None:
        wanted = {layout.namespace(place) for place in places}
        present = {name: identity for name, identity in namespaces_of(self.name).items() if name in wanted}
        kill_processes_in(present.values())
        remove_namespaces(present, lock=lock)

    def _tell(self, text: str) -> None:
        if self._progress is not None:
            self._progress(f"{time.monotonic() - self._began:5.1f} s  {text}")

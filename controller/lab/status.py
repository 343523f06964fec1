"""A lab as any tool may want to know it: every namespace, address, process, socket and log by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from controller.errors import AgentUnavailable
from controller.lab.control import SupervisorUnavailable, ask
from controller.lab.layout import FABRIC
from controller.lab.readiness import host_status
from controller.lab.services import services_of

if TYPE_CHECKING:
    from controller.lab.layout import Host, Layout


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service: `state` is running, restarting, stopped or unknown; `pid` that of its first process."""

    name: str
    state: str
    pid: int | None
    restarts: int
    last_exit: int | None
    log: str


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host; `ready` and `sessions` (state by peer address) are what its agent says, none while it does not answer."""

    name: str
    namespace: str
    addresses: tuple[str, ...]
    ready: bool
    problems: tuple[str, ...]
    sessions: dict[str, str]
    sockets: dict[str, str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """A workload, the host it is on, and its addresses."""

    name: str
    host: str
    namespace: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab; `complete` is false when building it was interrupted."""

    name: str
    complete: bool
    supervised: bool
    state_directory: str
    fabric_namespace: str
    store: str
    store_location: str
    dual_stack: bool
    hosts: tuple[HostStatus, ...]
    workloads: tuple[WorkloadStatus, ...]
    services: tuple[ServiceStatus, ...]

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can express."""
        return asdict(self)

    @property
    def healthy(self) -> bool:
        """Whether everything runs, every agent is ready and every session is established."""
        return (
            self.complete
            and self.supervised
            and all(service.state == "running" for service in self.services)
            and all(host.ready for host in self.hosts)
            and all(state == "established" for host in self.hosts for state in host.sessions.values())
        )


def observe(layout: Layout) -> LabStatus:
    """Return the lab as it is now."""
    try:
        states, supervised = ask(layout.name, "status"), True
    except SupervisorUnavailable:
        states, supervised = {}, False
    unknown = {"state": "unknown", "pid": None, "restarts": 0, "last_exit": None}
    location = str(layout.state / "store.db") if layout.store == "sqlite" else layout.consul_address
    return LabStatus(
        name=layout.name,
        complete=layout.complete,
        supervised=supervised,
        state_directory=str(layout.state),
        fabric_namespace=layout.namespace(FABRIC),
        store=layout.store,
        store_location=location,
        dual_stack=layout.dual_stack,
        hosts=tuple(_host(layout, host) for host in layout.hosts),
        workloads=tuple(
            WorkloadStatus(workload.name, host.name, layout.namespace(workload.name), workload.addresses)
            for host in layout.hosts
            for workload in host.workloads
        ),
        services=tuple(
            ServiceStatus(name=name, log=str(service.log), **states.get(name, unknown))
            for name, service in services_of(layout).items()
        ),
    )


def _host(layout: Layout, host: Host) -> HostStatus:
    run = layout.directory(host) / "run"
    ready, sessions = False, {}
    problems: tuple[str, ...]
    try:
        agent = host_status(layout, host)
    except AgentUnavailable as error:
        problems = (str(error),)
    else:
        ready, problems = agent.ready, agent.problems
        sessions = {session.address: session.state for session in agent.sessions}
    return HostStatus(
        name=host.name,
        namespace=layout.namespace(host.name),
        addresses=tuple(map(str, layout.addresses(host))),
        ready=ready,
        problems=problems,
        sessions=sessions,
        sockets={name: str(run / f"{name}.sock") for name in ("agent", "cni", "bgp")},
        environment=layout.environment(host),
    )

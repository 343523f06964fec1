"""Waiting for the parts of a lab to be as they should, each with a deadline and a reason when it passes."""

from __future__ import annotations

import ipaddress
import subprocess
import time
from typing import TYPE_CHECKING, Final

from bgp.peer import PeerOrigin
from controller.agent_client import agent_status
from controller.errors import AgentUnavailable, TransientError
from controller.lab.layout import FABRIC, POOLS
from controller.lab.reachability import measure
from controller.lab.services import enter, environment, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from controller.agent_client import AgentStatus, Session
    from controller.lab.layout import Host, Layout
    from controller.lab.reachability import Matrix

_POLL_SECONDS: Final = 0.05
_STORE_SECONDS: Final = 30.0
_AGENT_SECONDS: Final = 45.0
_SESSION_SECONDS: Final = 60.0
_REACHABLE_SECONDS: Final = 30.0
_LOG_LINES: Final = 12
_STORE_UNAVAILABLE: Final = 3  # the exit code of tortiectl


class LabNotReady(TransientError):
    """A part of the lab did not come up in time; says which, and shows the end of its log."""


def apply_pools(layout: Layout) -> None:
    """Write the lab's pools with `tortiectl apply`, as an operator would, as soon as the store answers."""
    documents = [
        f"apiVersion: tortie/v1\nkind: Pool\nmetadata: {{name: {name}}}\nspec: {{cidr: '{cidr}'}}\n"
        for name, cidr in POOLS.items()
        if ipaddress.ip_network(cidr).version in layout.versions
    ]
    file = layout.state / "pools.yaml"
    file.write_text("---\n".join(documents))

    def problem() -> str:
        done = tortiectl(layout, FABRIC, ["apply", "-f", str(file)])
        if done.returncode not in (0, _STORE_UNAVAILABLE):
            raise LabNotReady(done.stderr.strip())
        return "" if done.returncode == 0 else done.stderr.strip()

    _until(problem, _STORE_SECONDS, layout, ["consul"] if layout.store == "consul" else [])


def wait_for_agents(layout: Layout, hosts: Iterable[Host]) -> None:
    """Return when the agent of each of these hosts is ready; raises `LabNotReady`."""
    for host in hosts:

        def problem(host: Host = host) -> str:
            try:
                status = host_status(layout, host)
            except AgentUnavailable as error:
                return str(error)
            return "" if status.ready else f"{host.name} is not ready: {'; '.join(status.problems)}"

        _until(problem, _AGENT_SECONDS, layout, [f"{host.name}/agent", f"{host.name}/bgp"])


def wait_for_sessions(layout: Layout) -> int:
    """Return how many sessions there are once every host has all of its own; raises `LabNotReady`."""
    ends: set[frozenset[str]] = set()
    for host in layout.hosts:

        def problem(host: Host = host) -> str:
            sessions = host_status(layout, host).sessions
            up = sum(session.established for session in sessions)
            # With routers in the fabric there need be no mesh: what the host has is what it is to have.
            wanted = len(layout.hosts) - 1 if _in_mesh(sessions) or not layout.routers else len(sessions)
            return "" if up >= wanted else f"{host.name} has {up} of {wanted} BGP sessions established"

        _until(problem, _SESSION_SECONDS, layout, [f"{host.name}/bgp", f"{host.name}/agent"])
        own = str(layout.addresses(host)[0])
        ends |= {frozenset([own, each.address]) for each in host_status(layout, host).sessions if each.established}
    return len(ends)


def _in_mesh(sessions: Iterable[Session]) -> bool:
    return any(session.origin == PeerOrigin.MESH.value for session in sessions)


def wait_until_reachable(layout: Layout) -> Matrix:
    """Return the matrix as soon as it is complete; raises `LabNotReady` naming the cells that fail."""
    deadline = time.monotonic() + _REACHABLE_SECONDS
    while not (matrix := measure(layout)).complete:
        if matrix.missing:
            raise LabNotReady(
                f"{', '.join(matrix.missing)} lack an address of IPv{' or IPv'.join(map(str, layout.versions))}"
            )
        if time.monotonic() > deadline:
            failed = ", ".join(f"{cell.source} to {cell.target} ({cell.address})" for cell in matrix.unreachable)
            raise LabNotReady(f"after {_REACHABLE_SECONDS:.0f} s: not reachable: {failed}")
        time.sleep(_POLL_SECONDS)
    return matrix


def host_status(layout: Layout, host: Host) -> AgentStatus:
    """Return what the agent of this host says; raises `AgentUnavailable`."""
    return agent_status(layout.directory(host) / "run" / "agent.sock")


def tortiectl(layout: Layout, place: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `tortiectl` on a host or in the fabric, with that place's settings, and return what it did."""
    return subprocess.run(
        (*enter(layout.namespace(place)), program("tortiectl"), *arguments),
        env=environment(layout, layout.host_of(place)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _until(problem: Callable[[], str], seconds: float, layout: Layout, services: Iterable[str]) -> None:
    """Return when there is no problem any more; after so many seconds raise with the problem and the logs' ends."""
    deadline = time.monotonic() + seconds
    while what := problem():
        if time.monotonic() > deadline:
            raise LabNotReady(
                "\n".join([f"after {seconds:.0f} s: {what}", *(_log_end(layout, each) for each in services)])
            )
        time.sleep(_POLL_SECONDS)


def _log_end(layout: Layout, service: str) -> str:
    path = layout.log(service)
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return f"no log of {service} at {path}: it was never started"
    return "\n".join([f"the end of {path}:", *(f"  {line}" for line in lines[-_LOG_LINES:])])

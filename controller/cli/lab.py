"""`tortiectl lab`: several hosts on this machine, with real agents, real BGP sessions and real kernel routes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from controller.cli.examples import examples
from controller.cli.output import output_option, print_columns, print_document
from controller.lab.lab import Lab
from controller.lab.routers import AS_NUMBER
from controller.ports import ROUTE_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

    from controller.lab.layout import RouterProgram, StoreKind
    from controller.lab.reachability import Matrix
    from controller.lab.status import LabStatus

_NAME: Final[Callable[[Any], Any]] = click.option(
    "--name", default="lab", show_default=True, metavar="LAB", help="Which lab; several can run at once."
)
_WORKLOADS: Final[Callable[[Any], Any]] = click.option(
    "--workloads", default=2, show_default=True, type=click.IntRange(min=0), help="Workloads on a node."
)


@click.group()
@examples("tortiectl lab up --nodes 3", "tortiectl lab ping", "tortiectl lab exec h1 -- ip route", "tortiectl lab down")
def lab() -> None:
    """Run several hosts on this machine, in network namespaces; needs root."""


@lab.command()
@_NAME
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(min=1), help="How many hosts.")
@_WORKLOADS
@click.option("--store", default="sqlite", show_default=True, type=click.Choice(["sqlite", "consul"]))
@click.option("--dual-stack", is_flag=True, help="IPv6 beside IPv4.")
@click.pass_context
@examples("tortiectl lab up", "tortiectl lab up --name big --nodes 10 --workloads 3 --store consul --dual-stack")
def up(context: click.Context, /, name: str, nodes: int, workloads: int, store: StoreKind, *, dual_stack: bool) -> None:
    """Build the lab, show it, and exit with 0 only if every workload reaches every other."""
    place = Lab(name, progress=lambda text: click.echo(text, err=True))
    shown = place.up(nodes=nodes, workloads=workloads, store=store, dual_stack=dual_stack)
    _print_lab(place, shown)
    matrix = place.ping()
    _print_matrix(matrix)
    _print_next(shown)
    if not matrix.complete:
        context.exit(1)


@lab.command()
@_NAME
@examples("tortiectl lab down")
def down(name: str) -> None:
    """Remove the lab and everything of it, whatever state it is in."""
    there = Lab(name).down()
    click.echo(f"lab {name} removed" if there else f"there is no lab {name}")


@lab.command()
@_NAME
@output_option("table", "json", "yaml")
@click.pass_context
@examples("tortiectl lab status", "tortiectl lab status -o json")
def status(context: click.Context, /, name: str, form: str) -> None:
    """Show hosts, workloads and services; exit code 1 when something is not as it should be."""
    found = Lab(name).status()
    if form == "table":
        _print_status(found)
    else:
        print_document(found.document(), form)
    if not found.healthy:
        context.exit(1)


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@_NAME
@click.argument("place")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@examples(
    "tortiectl lab exec h1 -- ip route show proto 116",
    "tortiectl lab exec h1w1 -- ping -c 3 10.244.7.64",
    "tortiectl lab exec h2 -- tortiectl node status",
)
def execute(name: str, place: str, command: tuple[str, ...]) -> None:
    """Run a command on a host or in a workload, with that host's settings in its environment."""
    line, environment = Lab(name).command(place, command)
    os.execvpe(line[0], line, environment)  # noqa: S606  there is no shell, and none is wanted


@lab.command()
@_NAME
@click.pass_context
@examples("tortiectl lab ping")
def ping(context: click.Context, /, name: str) -> None:
    """Ping every workload from every workload; exit code 1 if one does not answer."""
    matrix = Lab(name).ping()
    _print_matrix(matrix)
    if not matrix.complete:
        context.exit(1)


@lab.command()
@_NAME
@_WORKLOADS
@examples("tortiectl lab add-node --workloads 1")
def add_node(name: str, workloads: int) -> None:
    """Add a host with workloads, and wait until everybody reaches them."""
    added = Lab(name, progress=lambda text: click.echo(text, err=True)).add_node(workloads=workloads)
    click.echo(f"host {added} added")


@lab.command()
@_NAME
@click.argument("node")
@examples("tortiectl lab remove-node h3")
def remove_node(name: str, node: str) -> None:
    """Remove a host for good, with its node, addresses and workloads."""
    Lab(name, progress=lambda text: click.echo(text, err=True)).remove_node(node)
    click.echo(f"host {node} removed")


@lab.command()
@_NAME
@click.argument("node")
@click.option("--ip", "addresses", multiple=True, metavar="ADDRESS", help="Wire it with this address; repeatable.")
@examples("tortiectl lab add-workload h1", "tortiectl lab add-workload h2 --ip 10.244.7.70")
def add_workload(name: str, node: str, addresses: tuple[str, ...]) -> None:
    """Wire one more workload on a host."""
    added = Lab(name).add_workload(node, addresses)
    click.echo(f"workload {added.name} wired with {', '.join(added.addresses)}")


@lab.command()
@_NAME
@click.argument("workload")
@examples("tortiectl lab remove-workload h1w3")
def remove_workload(name: str, workload: str) -> None:
    """Release a workload's addresses and remove it."""
    Lab(name).remove_workload(workload)
    click.echo(f"workload {workload} removed")


@lab.command()
@_NAME
@click.option("--program", default="bird", show_default=True, type=click.Choice(["bird", "gobgp"]))
@click.option("--configuration", type=click.File(), help="What the program reads; without it, a route reflector.")
@examples("tortiectl lab add-router", "tortiectl lab add-router --program gobgp --configuration r1.conf")
def add_router(name: str, program: RouterProgram, configuration: TextIO | None) -> None:
    """Add a router to the fabric: a route reflector for all hosts, or what its configuration says.

    Hosts peer with it as in any cluster: once a peer with its address is applied.
    """
    place = Lab(name)
    added = place.add_router(program, None if configuration is None else configuration.read())
    addresses = ", ".join(map(str, place.layout().addresses(added)))
    click.echo(f"router {added.name} started at {addresses}, AS {AS_NUMBER} unless configured otherwise")


@lab.command()
@_NAME
@click.argument("router")
@examples("tortiectl lab remove-router r1")
def remove_router(name: str, router: str) -> None:
    """Remove a router of the fabric."""
    Lab(name).remove_router(router)
    click.echo(f"router {router} removed")


@lab.command()
@_NAME
@click.argument("service")
@examples("tortiectl lab stop h1/agent", "tortiectl lab stop consul")
def stop(name: str, service: str) -> None:
    """Stop a service: HOST/agent, HOST/bgp or consul."""
    Lab(name).stop(service)
    click.echo(f"{service} stopped")


@lab.command()
@_NAME
@click.argument("service")
@examples("tortiectl lab start h1/agent")
def start(name: str, service: str) -> None:
    """Start a stopped service."""
    Lab(name).start(service)
    click.echo(f"{service} started")


@lab.command()
@_NAME
@click.argument("service")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many of the last lines.")
@examples("tortiectl lab logs h1/agent -f", "tortiectl lab logs supervisor")
def logs(name: str, service: str, lines: int, *, follow: bool) -> None:
    """Show the end of a service's log."""
    command = ["tail", "-n", str(lines), *(["-f"] if follow else []), str(Lab(name).log(service))]
    subprocess.run(command, check=False)


def _print_lab(place: Lab, shown: LabStatus) -> None:
    host = shown.hosts[0].name
    routes = [["ip", f"-{version}", "route", "show", "proto", str(ROUTE_PROTOCOL)] for version in (4, 6)]
    sections = [
        ("Nodes", [["tortiectl", "get", "nodes"]]),
        ("Blocks", [["tortiectl", "get", "blocks"]]),
        (f"BGP sessions of {host}", [["tortiectl", "node", "status"]]),
        (f"Routes of {host}", routes if shown.dual_stack else routes[:1]),
    ]
    for title, commands in sections:
        click.echo(f"\n{title}")
        for command in commands:
            done = place.run(host, command)
            click.echo((done.stdout + done.stderr).rstrip())


def _print_status(found: LabStatus) -> None:
    state = "" if found.complete else ", incomplete"
    click.echo(f"Lab {found.name}: {found.store} at {found.store_location}, state in {found.state_directory}{state}\n")
    workloads = {
        host.name: " ".join(
            f"{each.name}={','.join(each.addresses) or '-'}" for each in found.workloads if each.host == host.name
        )
        for host in found.hosts
    }
    rows = [
        (
            host.name,
            ", ".join(host.addresses),
            host.ready,
            f"{sum(state == 'established' for state in host.sessions.values())} of {len(host.sessions)}",
            workloads[host.name],
        )
        for host in found.hosts
    ]
    print_columns(("HOST", "ADDRESSES", "READY", "SESSIONS", "WORKLOADS"), rows)
    click.echo()
    services = [(each.name, each.state, each.pid or "-", each.restarts, each.log) for each in found.services]
    print_columns(("SERVICE", "STATE", "PID", "RESTARTS", "LOG"), services)
    for host in found.hosts:
        for problem in host.problems:
            click.echo(f"{host.name}: {problem}")


def _print_matrix(matrix: Matrix) -> None:
    """Print one table for each IP version: a row for each source, a column for each target."""
    for version in sorted({cell.version for cell in matrix.cells}):
        cells = [cell for cell in matrix.cells if cell.version == version]
        targets = list(dict.fromkeys(cell.target for cell in cells))
        reached = {(cell.source, cell.target): "ok" if cell.reachable else "FAIL" for cell in cells}
        sources = list(dict.fromkeys(cell.source for cell in cells))
        rows = [[source, *(reached[source, target] for target in targets)] for source in sources]
        click.echo(f"\nWho reaches whom, IPv{version}: {sum(cell.reachable for cell in cells)} of {len(cells)}")
        print_columns(["FROM \\ TO", *targets], rows)
    for name in matrix.missing:
        click.echo(f"{name} lacks an address")


def _print_next(shown: LabStatus) -> None:
    """Say what to try, as commands that work where this one did."""
    lab = f"{_own_name()} lab"
    option = "" if shown.name == "lab" else f" --name {shown.name}"
    first, last = shown.hosts[0].name, shown.hosts[-1].name
    lines = [
        (f"{lab} exec{option} {first} -- tortiectl ipam show --show-blocks", "how addresses are used"),
        (f"{lab} stop{option} {first}/agent", "traffic goes on"),
        (f"{lab} start{option} {first}/agent", "it comes back"),
        (f"{lab} ping{option}", "the matrix again"),
        (f"{lab} add-node{option}", "one host more"),
        (f"{lab} down{option}", "remove everything"),
    ]
    if first != last:
        lines.insert(-1, (f"{lab} remove-node{option} {last}", "one host less, for good"))
    if shown.workloads:
        source, target = shown.workloads[0], shown.workloads[-1]
        lines.insert(0, (f"{lab} exec{option} {source.name} -- ping -c 3 {target.addresses[0]}", f"to {target.name}"))
    width = max(len(command) for command, _ in lines)
    click.echo("\nTry next")
    for command, why in lines:
        click.echo(f"  {command:<{width}}  # {why}")


def _own_name() -> str:
    """Return how to call this program: by its name where PATH knows it, else by its path from here."""
    path = Path(sys.argv[0])
    return path.name if shutil.which(path.name) else os.path.relpath(path)

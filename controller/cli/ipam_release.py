"""`tortiectl ipam release`: free addresses whose workload is gone, one by one or as a report lists them."""

from __future__ import annotations

import ipaddress
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.assignment.operator_release import Outcome, release_address
from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.errors import RefusedError
from ipam.problem import ProblemKind
from ipam.request import ReleaseRequest

if TYPE_CHECKING:
    from controller.assignment.operator_release import Released
    from controller.ports import Store


@click.command()
@click.option("--ip", "addresses", multiple=True, metavar="IP", help="An address to release; may be given repeatedly.")
@click.option(
    "--from-report", "report", metavar="FILE", help="Release the leaked addresses of an `ipam check -o` report."
)
@click.option("--force", is_flag=True, help="Release an address although its node has it wired.")
@pass_connection
@click.pass_context
@examples(
    "tortiectl ipam release --ip=10.244.7.66",
    "tortiectl ipam check -o report.json",
    "tortiectl ipam release --from-report=report.json",
)
def release(
    context: click.Context, connection: Connection, addresses: tuple[str, ...], report: str | None, *, force: bool
) -> None:
    """Release addresses whose workload is gone; exit code 1 when one is refused because it is in use.

    One that nobody holds is no error. Those of a report are released only if they are still held as it says.
    """
    if bool(addresses) == (report is not None):
        raise click.UsageError("give either --ip or --from-report")
    requests = [ReleaseRequest(_address(each)) for each in addresses] if report is None else _leaked(Path(report))
    if not requests:
        click.echo(f"{report} lists no leaked address; nothing to release")
    if connection.with_store(lambda store: _release(store, requests, force=force, skip_wired=report is not None)):
        context.exit(1)


async def _release(store: Store, requests: list[ReleaseRequest], *, force: bool, skip_wired: bool) -> bool:
    """Release one by one, telling each outcome as it comes; return whether any was refused."""
    refused = False
    for request in dict.fromkeys(requests):
        released = await release_address(store, request, time.time, force=force)
        wired = released.outcome is Outcome.WIRED
        if wired and not skip_wired:
            click.echo(f"tortiectl: error: {_text(request, released)}; remove the workload, or use --force", err=True)
            refused = True
        else:
            click.echo(f"{_text(request, released)}{'; skipped' if wired else ''}")
    return refused


def _text(request: ReleaseRequest, released: Released) -> str:
    """Say what became of an address and who held it."""
    if released.held is None:
        return f"{request.address} is not assigned"
    holder = released.held.holder
    held_by = f"{holder.full_name} on node {holder.node} (handle {holder.handle})"
    match released.outcome:
        case Outcome.GIVEN_ANEW:
            return f"{request.address} was given anew since the report, to {held_by}; skipped"
        case Outcome.WIRED:
            return f"{request.address} is held by {held_by} and is wired there at {released.link}"
        case _:
            doubt = "" if released.checked else "; that node does not tell whether it is still wired"
            return f"{request.address} released; it was held by {held_by}{doubt}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise click.UsageError(f"--ip: {text!r} is no IP address; write one such as 10.244.7.66") from error


def _leaked(path: Path) -> list[ReleaseRequest]:
    """Return the requests for the leaked addresses of a report, guarded by what it says of their holders."""
    try:
        problems = json.loads(path.read_text(encoding="utf-8"))["problems"]
        return [
            ReleaseRequest(
                ipaddress.ip_address(each["subject"]),
                str(each["handle"]),
                None if each["sequence"] is None else int(each["sequence"]),
            )
            for each in problems
            if each["kind"] == ProblemKind.LEAKED.value
        ]
    except OSError as error:
        raise RefusedError(
            f"{path}: cannot be read: {error.strerror}; name the file that `ipam check -o` wrote"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(
            f"{path}: not a report of `tortiectl ipam check -o` ({type(error).__name__}: {error}); write one anew"
        ) from error

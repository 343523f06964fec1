"""`tortiectl node diags`: what is needed to analyse this host, in one archive without tokens and passwords."""

from __future__ import annotations

import asyncio
import io
import os
import platform
import sys
import tarfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from controller.cli.diags_parts import Collected
    from controller.settings import Settings

_STANDARD_OUTPUT: Final = "-"
_OWNER_ONLY: Final = 0o600


@click.command()
@click.option(
    "--output",
    metavar="FILE",
    help="The archive, which must not exist, or - for standard output [tortie-diags-NODE-TIME.tar.gz].",
)
@pass_connection
@click.pass_context
@examples(
    "tortiectl node diags",
    "tortiectl node diags --output /var/tmp/host7.tar.gz",
    "kubectl exec POD -c agent -- tortiectl node diags --output - > host7.tar.gz",
)
def diags(context: click.Context, connection: Connection, output: str | None) -> None:
    """Collect what is needed to analyse this host into an archive, and change nothing.

    In it are versions, settings, the agent's status, report and metrics, links, addresses, routes, rules, neighbours,
    the packet filter, kernel settings, the logs of both services, the names of CNI networks, and whether the store
    answers. Tokens and passwords are not; addresses and the names of workloads are.

    A part that cannot be had is in the archive as a file NAME.missing that says why, and the exit code is 1: the
    archive is there all the same. That this host has no nft or no journalctl is nothing missing.
    """
    settings = _settings(connection)
    node = platform.node() if isinstance(settings, RefusedError) else settings.node_name
    name = f"tortie-diags-{node}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    target = output or f"{name}.tar.gz"
    with _sink(target) as sink:
        collected = _collect(connection, settings)
        sink.write(_archive(name, collected))
    missing = [each for each in collected if each.missing is not None]
    for each in missing:
        click.echo(each.line, err=True)
    click.echo(f"diagnostics of {node} written to {target}", err=target == _STANDARD_OUTPUT)
    if missing:
        context.exit(1)


def _settings(connection: Connection) -> Settings | RefusedError:
    try:
        return connection.settings()
    except RefusedError as error:
        return error


def _collect(connection: Connection, settings: Settings | RefusedError) -> list[Collected]:
    from controller.cli.diags_parts import USUAL_RUN_DIR, collect  # noqa: PLC0415  imports that `--help` need not pay

    if connection.socket or not isinstance(settings, RefusedError):
        agent_socket = connection.agent_socket
    else:
        agent_socket = USUAL_RUN_DIR / "agent.sock"
    return asyncio.run(collect(settings, agent_socket))


def _archive(name: str, collected: Sequence[Collected]) -> bytes:
    """Return a compressed archive of one directory with these files and a list of them."""
    index = "".join(f"{each.line}\n" for each in collected).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for file, content in [("index.txt", index), *(each.file for each in collected)]:
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size, member.mtime, member.mode = len(content), time.time(), _OWNER_ONLY
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


@contextmanager
def _sink(target: str) -> Iterator[BinaryIO]:
    """Open a new file that its owner alone can read, or standard output; a file that does not get complete is removed.

    Raises `RefusedError`.
    """
    if target == _STANDARD_OUTPUT:
        yield sys.stdout.buffer
        return
    path = Path(target)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError:
        raise RefusedError(f"{path} exists; name another file with --output, or remove it") from None
    except OSError as error:
        raise RefusedError(
            f"{path} cannot be written: {error.strerror}; name another file with --output, or - for standard output"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise

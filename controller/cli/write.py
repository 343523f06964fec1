"""`tortiectl create`, `apply` and `replace`: resources from files into the store."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.difference import difference
from controller.cli.documents import files_option, wishes_in
from controller.cli.examples import examples
from controller.cli.planning import Mode
from controller.cli.writing import plan_resources, write_resources
from controller.errors import ConflictError, MalformedRecord, RefusedError, TortieError
from ipam.errors import IpamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from controller.cli.planning import Change
    from controller.cli.wishes import Wish

#: What `kubectl diff` ends with: there is a difference, or something is wrong.
DIFFERENT, WRONG = 1, 2


def dry_run_option() -> Callable[[Any], Any]:
    """Return the option `--dry-run`."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Write nothing and show the difference; exit code 0 if there is none, 1 if there is, 2 if it is refused.",
    )


@click.command()
@files_option()
@dry_run_option()
@pass_connection
@examples("tortiectl create -f pools.yaml", "tortiectl create -f backup.yaml")
def create(connection: Connection, files: tuple[str, ...], *, recursive: bool, dry_run: bool) -> None:
    """Create resources from files; nothing is written if one of them exists or breaks a rule.

    It takes no notice of metadata.resourceVersion, so what `tortiectl get all -o yaml` has printed fills another store.
    """
    with refusals(dry_run=dry_run):
        carry_out(connection, wishes_in(files, recursive=recursive), Mode.CREATE, dry_run=dry_run)


@click.command()
@files_option()
@dry_run_option()
@pass_connection
@examples(
    "tortiectl apply -f pools.yaml",
    "tortiectl apply -R -f network/ --dry-run",
    "tortiectl apply -f - <<END",
    "apiVersion: tortie/v1",
    "kind: Pool",
    "metadata: {name: default}",
    "spec: {cidr: 10.244.0.0/16, blockSize: 26}",
    "END",
)
def apply(connection: Connection, files: tuple[str, ...], *, recursive: bool, dry_run: bool) -> None:
    """Create or change resources from files; nothing is written if one of them breaks a rule.

    The kinds are Pool, Reservation, IPAMConfiguration, BGPPeer, BGPFilter and BGPConfiguration; what a document does
    not name has its default. A document with metadata.resourceVersion, as `tortiectl get` prints it, is refused if
    somebody has changed the resource since. About sixty resources are written all or none; of more, each line that is
    printed is written.
    """
    with refusals(dry_run=dry_run):
        carry_out(connection, wishes_in(files, recursive=recursive), Mode.APPLY, dry_run=dry_run)


@click.command()
@files_option()
@dry_run_option()
@pass_connection
@examples("tortiectl replace -f pools.yaml", "tortiectl get pool default -o yaml | tortiectl replace -f -")
def replace(connection: Connection, files: tuple[str, ...], *, recursive: bool, dry_run: bool) -> None:
    """Change resources that exist; nothing is written if one of them does not, or breaks a rule.

    What a document does not name has its default. One with metadata.resourceVersion is refused if somebody has changed
    the resource since.
    """
    with refusals(dry_run=dry_run):
        carry_out(connection, wishes_in(files, recursive=recursive), Mode.REPLACE, dry_run=dry_run)


def carry_out(connection: Connection, wishes: Sequence[Wish], mode: Mode, *, dry_run: bool) -> None:
    """Write what is wished for and tell each outcome, or show what would change and end with its exit code."""
    if dry_run:
        show_difference(connection.with_store(lambda store: plan_resources(store, wishes, mode)))
        return
    told: list[Change] = []

    def tell(change: Change) -> None:
        told.append(change)
        click.echo(f"{change.wish.title} {change.outcome.value}")

    try:
        connection.with_store(lambda store: write_resources(store, wishes, mode, tell=tell))
    except (TortieError, IpamError):
        if told:
            click.echo(
                f"{len(told)} of {len(wishes)} resources were written before what follows, as listed; of the others "
                f"see what is there with `tortiectl apply --dry-run`, and `tortiectl apply` goes on with them",
                err=True,
            )
        raise


def show_difference(changes: Sequence[Change]) -> None:
    """Print what would change, and end with exit code 1 if anything would."""
    differences = [text for text in map(difference, changes) if text]
    for text in differences:
        click.echo(text)
    if not differences:
        click.echo("nothing would change")
    else:
        click.get_current_context().exit(DIFFERENT)


@contextmanager
def refusals(*, dry_run: bool) -> Iterator[None]:
    """End a dry run that is refused with an exit code of its own: 1 would mean that there is a difference."""
    try:
        yield
    except (RefusedError, ConflictError, MalformedRecord, IpamError) as error:
        if not dry_run:
            raise
        raise DryRunRefused(str(error)) from None  # not chained: it may hold a password


class DryRunRefused(click.ClickException):
    """What a dry run would write would be refused."""

    exit_code = WRONG

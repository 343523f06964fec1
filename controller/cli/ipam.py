"""`tortiectl ipam`: how the addresses of the pools are used, and by which rules they are assigned."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cli.ipam_address import print_address, read_address
from controller.cli.ipam_borrowed import print_borrowed, read_borrowed
from controller.cli.ipam_check import check
from controller.cli.ipam_configure import change_lines, configure, setting_rows
from controller.cli.ipam_release import release
from controller.cli.ipam_usage import print_usage, read_usage
from controller.cli.output import output_option, print_boxed, print_document
from controller.cli.pool_split import split_pool
from controller.cli.reading import end_with, read_configuration
from controller.cli.write import DIFFERENT, dry_run_option, refusals
from controller.resources import resource_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipam.address import IPAddress, IPNetwork


@click.group()
@examples("tortiectl ipam show --show-blocks", "tortiectl ipam show --ip=10.244.7.65")
def ipam() -> None:
    """Show, check and release addresses; set the rules of their assignment; split pools."""


ipam.add_command(check)
ipam.add_command(release)


def _parsed(
    parse: Callable[[str], IPAddress | IPNetwork],
) -> Callable[[click.Context, click.Parameter, str | None], IPAddress | IPNetwork | None]:
    """Return an option's callback that parses its value."""

    def parsed(_context: click.Context, _option: click.Parameter, text: str | None) -> IPAddress | IPNetwork | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return parsed


def _switch(text: str) -> bool:
    """Return what a switch is set to; the empty text, as of a variable that is not set, switches nothing off."""
    if not text.strip():
        raise click.BadParameter("it is empty; say true or false")
    return bool(click.BOOL.convert(text, None, None))


@ipam.command()
@click.option("--show-blocks", is_flag=True, help="Also show each block.")
@click.option("--show-borrowed", is_flag=True, help="Show the addresses whose node does not own their block instead.")
@click.option("--show-configuration", is_flag=True, help="Show the rules of assignment and release instead.")
@click.option("--ip", metavar="IP", callback=_parsed(ipaddress.ip_address), help="Show who holds this address instead.")
@output_option("table", "json", "yaml")
@pass_connection
@examples(
    "tortiectl ipam show --show-blocks",
    "tortiectl ipam show --show-borrowed -o json",
    "tortiectl ipam show --ip=10.244.7.65",
)
def show(
    connection: Connection,
    form: str,
    ip: IPAddress | None,
    *,
    show_blocks: bool,
    show_borrowed: bool,
    show_configuration: bool,
) -> None:
    """Show how many addresses of each pool are in use.

    IPS IN USE are held by workloads; all others count as free: also those that are reserved, and those that rest for a
    while after their release ("resting" with -o json, at most). Blocks that lie in no pool come last.
    """
    if sum((show_blocks, show_borrowed, show_configuration, ip is not None)) > 1:
        raise click.UsageError("--show-blocks, --show-borrowed, --show-configuration and --ip exclude each other")
    if ip is not None:
        state, malformed = connection.with_store(lambda store: read_address(store, ip, time.time()))
        print_address(state, form)
    elif show_borrowed:
        borrowed, malformed = connection.with_store(read_borrowed)
        print_borrowed(borrowed, form)
    elif show_configuration:
        _show_configuration(connection, form)
        return
    else:
        usages, malformed = connection.with_store(lambda store: read_usage(store, time.time(), with_blocks=show_blocks))
        print_usage(usages, form)
    end_with(malformed)


@ipam.command(name="configure")
@click.option("--strict-affinity", type=_switch, metavar="BOOL", help="Take addresses only from blocks the node owns.")
@click.option("--auto-allocate-blocks", type=_switch, metavar="BOOL", help="Let nodes claim blocks as they need them.")
@click.option("--max-blocks-per-node", type=int, metavar="N", help="The most blocks of one IP version a node owns.")
@click.option("--cooldown-seconds", type=int, metavar="N", help="How long a released address rests.")
@click.option("--sticky-seconds", type=int, metavar="N", help="How long it is kept for a workload of the same name.")
@click.option("--grace-seconds", type=int, metavar="N", help="How long what is unneeded or lost is left alone.")
@dry_run_option()
@pass_connection
@examples("tortiectl ipam configure --strict-affinity=true", "tortiectl ipam configure --cooldown-seconds=30 --dry-run")
def configure_command(connection: Connection, /, *, dry_run: bool, **options: bool | int | None) -> None:
    """Change the rules of assignment and release for the whole cluster; what is not named stays as it is."""
    changes = {name: value for name, value in options.items() if value is not None}
    if not changes:
        raise click.UsageError("no setting is named; name at least one")
    with refusals(dry_run=dry_run):
        before, after = connection.with_store(lambda store: configure(store, changes, dry_run=dry_run))
    for line in change_lines(before, after):
        click.echo(line)
    if before == after:
        click.echo("unchanged")
    elif dry_run:
        click.echo("nothing was written")
        click.get_current_context().exit(DIFFERENT)


@ipam.command()
@click.argument("number", type=int)
@click.option("--name", metavar="POOL", help="The pool's name.")
@click.option("--cidr", metavar="CIDR", callback=_parsed(ipaddress.ip_network), help="The pool's range, instead.")
@pass_connection
@examples("tortiectl ipam split 4 --name=default-ipv4", "tortiectl ipam split 2 --cidr=10.244.0.0/16")
def split(connection: Connection, number: int, name: str | None, cidr: IPNetwork | None) -> None:
    """Split a pool into NUMBER (2, 4, 8, 16 or 32) equal pools, named split-POOL-0 and so on.

    Blocks and addresses stay as they are, and so do the other fields. Who requests the old pool by its name is refused
    from then on and must name the new ones.
    """
    which = name if cidr is None else cidr
    if which is None or (name is not None and cidr is not None):
        raise click.UsageError("say which pool: either --name or --cidr")
    pool, parts = connection.with_store(lambda store: split_pool(store, number, which))
    for part in parts:
        click.echo(f"pool {part.name} created ({part.cidr})")
    click.echo(f"pool {pool.name} deleted; requests that name it are refused: let them name the new pools")


def _show_configuration(connection: Connection, form: str) -> None:
    configuration = connection.with_store(read_configuration)
    if form == "table":
        print_boxed(("PROPERTY", "VALUE"), setting_rows(configuration))
    else:
        print_document(resource_document(configuration), form)

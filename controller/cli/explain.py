"""`tortiectl explain`: one address, block, pool or node, with its chain through store, BGP and kernels."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.doctor import finding_document, print_finding
from controller.cli.doctor_options import asking_options
from controller.cli.examples import examples
from controller.cli.output import output_option, print_columns, print_document
from controller.errors import RefusedError

if TYPE_CHECKING:
    from controller.cli.doctor_settling import Asking
    from controller.diagnosis.explain import Explanation, NodeView
    from controller.diagnosis.finding import Finding
    from controller.diagnosis.judge import Judge
    from controller.diagnosis.snapshot import Snapshot
    from controller.ports import Store
    from ipam.address import IPNetwork

#: How many broken links besides the first are told.
_MOST_LINKS: Final = 5


@click.command()
@click.argument("what", metavar="IP|PREFIX|NODE")
@asking_options
@output_option("table", "json", "yaml")
@pass_connection
@click.pass_context
@examples("tortiectl explain 10.244.0.7", "tortiectl explain 10.244.0.0/26", "tortiectl explain node-1 -o json")
def explain(context: click.Context, connection: Connection, what: str, asking: Asking, form: str) -> None:
    """Show who holds an address, in which block and pool, which node announces it, and each node's route to it.

    PREFIX is a block or a pool. The exit code is 1 when a link of the chain is broken; the first one is named, with
    what to do about it.
    """
    judge, network = connection.with_store(lambda store: _settled(store, asking, what))
    explanation = _explanation(judge, what, network)
    if form == "table":
        _print(explanation)
    else:
        print_document(_document(explanation), form)
    if explanation.findings:
        context.exit(1)


async def _settled(store: Store, asking: Asking, what: str) -> tuple[Judge, IPNetwork | None]:
    """Return a reading in which what is broken has been so for a while, and the network asked about, if it is one."""
    from controller.cli.doctor_reading import read_all, read_around  # noqa: PLC0415  imports that `--help` need not pay
    from controller.cli.doctor_settling import settled  # noqa: PLC0415  as above

    network = _network(what)

    async def around(asked: IPNetwork) -> Snapshot:
        found = await read_around(store, asked)
        return found if _is_single(asked) or any(found.blocks_around(asked)) else await read_all(store)

    def find(judge: Judge) -> tuple[Finding, ...]:
        return _explanation(judge, what, network).findings

    if network is None:
        judge, _ = await settled(store, asking, read_all, find)
    else:
        judge, _ = await settled(
            store, asking, lambda _: around(network), find, scope=lambda snapshot: _judged(snapshot, network)
        )
    return judge, network


def _judged(snapshot: Snapshot, asked: IPNetwork) -> IPNetwork:
    """Return the network that is explained: the whole block that a part of one lies in, or else what is asked."""
    block = None if _is_single(asked) else next(snapshot.blocks_around(asked), None)
    return asked if block is None else block.cidr


def _is_single(network: IPNetwork) -> bool:
    return network.prefixlen == network.max_prefixlen


def _explanation(judge: Judge, what: str, network: IPNetwork | None) -> Explanation:
    from controller.diagnosis import explain as explaining  # noqa: PLC0415  imports that `--help` need not pay

    snapshot = judge.snapshot
    if network is None:
        node = snapshot.nodes.get(what)
        if node is None:
            raise RefusedError(
                f"{what} is no address, no network and no node; write one as 10.0.0.7, 10.0.0.0/26, or a name that "
                f"`tortiectl get nodes` shows"
            )
        return explaining.explain_node(judge, node)
    if _is_single(network):
        return explaining.explain_address(judge, network.network_address)
    block = next(snapshot.blocks_around(network), None)
    return explaining.explain_range(judge, network) if block is None else explaining.explain_block(judge, block)


def _network(what: str) -> IPNetwork | None:
    """Return the network that the words name, a single address included; None for what can only be a node's name."""
    try:
        return ipaddress.ip_network(what)
    except ValueError as error:
        if "/" in what:
            raise RefusedError(f"{what} is no network: {error}; write it as 10.0.0.0/26") from error
        return None


def _print(explanation: Explanation) -> None:
    click.echo(explanation.subject)
    for label, text in explanation.facts:
        click.echo(f"  {label:<10} {text}")
    if explanation.nodes:
        click.echo()
        print_columns(("NODE", "EXPECTED", "ACTUAL", "STATE"), [_row(view) for view in explanation.nodes])
    click.echo()
    if not explanation.findings:
        click.echo("No link is broken.")
        return
    first, *others = explanation.findings
    click.echo("The first broken link:")
    print_finding(first)
    if others:
        click.echo("Others:")
    for finding in others[:_MOST_LINKS]:
        print_finding(finding)
    if len(others) > _MOST_LINKS:
        click.echo(f"  and {len(others) - _MOST_LINKS} more; -o json lists them")


def _row(view: NodeView) -> tuple[str, str, str, str]:
    return view.node, view.expected, view.actual, "ok" if view.finding is None else view.finding.kind.value


def _document(explanation: Explanation) -> dict[str, Any]:
    return {
        "subject": explanation.subject,
        "facts": [{"name": label, "text": text} for label, text in explanation.facts],
        "nodes": [
            {
                "node": view.node,
                "expected": view.expected,
                "actual": view.actual,
                "state": "ok" if view.finding is None else view.finding.kind.value,
            }
            for view in explanation.nodes
        ],
        "findings": [finding_document(each) for each in explanation.findings],
    }

"""`tortiectl doctor`: store, kernel and BGP of every node compared, and the first broken link of each chain."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.doctor_options import asking_options
from controller.cli.examples import examples
from controller.cli.output import output_option, print_document

if TYPE_CHECKING:
    from controller.cli.doctor_settling import Asking
    from controller.diagnosis.finding import Finding

#: How many findings of one kind on one node are told in words.
_MOST_ALIKE: Final = 5


@click.command()
@asking_options
@output_option("table", "json", "yaml")
@pass_connection
@click.pass_context
@examples("tortiectl doctor", "tortiectl doctor -o json", "tortiectl doctor --port 9191 --timeout-seconds 2")
def doctor(context: click.Context, connection: Connection, asking: Asking, form: str) -> None:
    """Find what is broken between the store, the kernel and BGP of every node; exit code 1 when something is.

    Every node's agent is asked what it wants and what its kernel has. Of each chain (a workload, a block, a route on
    a node) the first broken link is told, with what to do. It changes nothing.
    """
    from controller.cli.doctor_reading import read_all  # noqa: PLC0415  what takes long to import is for who asks
    from controller.cli.doctor_settling import settled  # noqa: PLC0415  as above
    from controller.diagnosis.doctor import diagnose  # noqa: PLC0415  as above

    judge, findings = connection.with_store(lambda store: settled(store, asking, read_all, diagnose))
    count = len(judge.snapshot.nodes)
    if form != "table":
        document = {
            "nodes": sorted(judge.snapshot.nodes),
            "silent": dict(judge.silence),
            "findings": [finding_document(each) for each in findings],
        }
        print_document(document, form)
    elif findings:
        _print_findings(findings)
        problems = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
        click.echo(f"\n{problems} found on {count} nodes")
    else:
        click.echo(f"no problems found on {count} nodes")
    if findings:
        context.exit(1)


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return a finding for programs."""
    return {
        "kind": finding.kind.value,
        "node": finding.node,
        "subject": finding.subject,
        "problem": finding.text,
        "remedy": finding.remedy,
    }


def _print_findings(findings: tuple[Finding, ...]) -> None:
    """Print them by node, those of the whole cluster first; of many alike only some."""
    by_node: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_node[finding.node or ""].append(finding)
    for node, found in sorted(by_node.items()):
        click.echo(f"{node or 'store'}:")
        told: defaultdict[str, int] = defaultdict(int)
        for finding in found:
            told[finding.kind.value] += 1
            if told[finding.kind.value] <= _MOST_ALIKE:
                print_finding(finding)
        for kind, number in told.items():
            if number > _MOST_ALIKE:
                click.echo(f"  {kind}: {number - _MOST_ALIKE} more; -o json lists them")


def print_finding(finding: Finding) -> None:
    """Print what is wrong and, on a line of its own, what to do."""
    click.echo(f"  {finding.kind.value}: {finding.text}")
    if finding.remedy:
        click.echo(f"    what to do: {finding.remedy}")

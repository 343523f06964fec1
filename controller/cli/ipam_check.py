"""`tortiectl ipam check`: what is wrong with the address management, and the repair of what can be repaired safely."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from controller.assignment.inventory import find_problems
from controller.assignment.repair import repair
from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.errors import RefusedError
from controller.resources import API_VERSION
from ipam.problem import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.assignment.inventory import Findings
    from controller.ports import Store
    from ipam.inventory import Inventory
    from ipam.problem import Problem

#: The steps of the check: each heading, and the kinds of problems that are counted under it.
SECTIONS: Final = (
    ("Addresses that are assigned and not in use", (ProblemKind.LEAKED,)),
    ("Addresses that are in use and not assigned", (ProblemKind.UNASSIGNED,)),
    ("Addresses that are in use twice", (ProblemKind.USED_BY_ANOTHER, ProblemKind.WIRED_TWICE)),
    ("Handles with several addresses of one IP version", (ProblemKind.SEVERAL_ADDRESSES,)),
    ("Addresses of nodes that do not exist", (ProblemKind.UNKNOWN_HOLDER,)),
    ("Blocks of nodes that do not exist", (ProblemKind.UNKNOWN_OWNER,)),
    ("Blocks that nobody owns or uses", (ProblemKind.UNUSED_BLOCK,)),
    ("Pools that overlap", (ProblemKind.POOLS_OVERLAP,)),
    ("Blocks that overlap", (ProblemKind.BLOCKS_OVERLAP,)),
    ("Blocks outside all pools", (ProblemKind.OUTSIDE_POOLS,)),
    ("Blocks of another size than their pool's", (ProblemKind.WRONG_SIZE,)),
    (
        "Records that cannot be read, and keys of nothing",
        (
            ProblemKind.UNREADABLE_BLOCK,
            ProblemKind.MISPLACED_BLOCK,
            ProblemKind.UNREADABLE_RECORD,
            ProblemKind.JUNK_KEY,
        ),
    ),
    (
        "Share keys that differ from their blocks",
        (ProblemKind.SHARE_MISSING, ProblemKind.SHARE_WRONG, ProblemKind.SHARE_WITHOUT_BLOCK),
    ),
    (
        "Summaries that differ from their blocks",
        (ProblemKind.SUMMARY_MISSING, ProblemKind.SUMMARY_WRONG, ProblemKind.SUMMARY_WITHOUT_BLOCK),
    ),
)
#: What is done about a problem that can be repaired.
REPAIRS: Final = {
    ProblemKind.LEAKED: "release",
    ProblemKind.UNUSED_BLOCK: "delete block",
    ProblemKind.SHARE_MISSING: "write share key",
    ProblemKind.SHARE_WRONG: "write share key",
    ProblemKind.SHARE_WITHOUT_BLOCK: "remove share key",
    ProblemKind.SUMMARY_MISSING: "write summary",
    ProblemKind.SUMMARY_WRONG: "write summary",
    ProblemKind.SUMMARY_WITHOUT_BLOCK: "remove summary",
}


@click.command()
@click.option("--show-all-ips", "show_all", is_flag=True, help="Also list every assigned and every wired address.")
@click.option("--show-problem-ips", "show_problems", is_flag=True, help="Also list the addresses with problems.")
@click.option("-o", "--output", "report", metavar="FILE", help="Write the problems to this file, as JSON.")
@click.option("--fix", is_flag=True, help="Repair what can be repaired safely, after asking.")
@click.option("--yes", is_flag=True, help="Repair without asking.")
@pass_connection
@click.pass_context
@examples(
    "tortiectl ipam check",
    "tortiectl ipam check --show-problem-ips -o report.json",
    "tortiectl ipam check --fix",
    "tortiectl ipam release --from-report=report.json",
)
def check(
    context: click.Context,
    connection: Connection,
    report: str | None,
    *,
    show_all: bool,
    show_problems: bool,
    fix: bool,
    yes: bool,
) -> None:
    """Compare pools, blocks, nodes and what is wired; exit code 1 when a problem is found.

    With --fix it shows what it would repair and what it leaves to you, and asks. The exit code is then 1 when a problem
    is left.
    """
    click.echo("Checking the address management of the cluster...\n")
    found = connection.with_store(_find)
    _print_inventory(found.inventory, show_all=show_all)
    _print_problems(found.problems, show_addresses=show_all or show_problems)
    click.echo(f"\nCheck complete; found {len(found.problems)} problems.")
    if report is not None:
        _write_report(Path(report), found)
    left = found.problems
    if fix and _agreed(found.problems, yes=yes):
        left = connection.with_store(lambda store: _repair(store, found)).problems
        told = {problem.identity for problem in found.problems if not problem.repairable}
        for problem in left:
            if problem.identity not in told:
                click.echo(f"  not repaired: {problem.text}")
        click.echo(f"\nRepair complete; {len(left)} problems are left.")
    if left:
        context.exit(1)


async def _find(store: Store) -> Findings:
    return await find_problems(store, time.time)


async def _repair(store: Store, found: Findings) -> Findings:
    await repair(store, found.problems, time.time)
    return await find_problems(store, time.time)


def _print_inventory(inventory: Inventory, *, show_all: bool) -> None:
    click.echo(f"Pools: {len(inventory.pools)}")
    for pool in inventory.pools:
        click.echo(f"  {pool.name}: {pool.cidr}, blocks of /{pool.block_prefix_length}")
    in_use = sum(block.in_use for block in inventory.blocks.values())
    click.echo(f"Blocks: {len(inventory.blocks)}, with {in_use} assigned addresses")
    if show_all:
        for held in sorted(inventory.held(), key=lambda each: (each.address.version, int(each.address))):
            click.echo(f"  {held.address}: {held.holder.full_name} on {held.holder.node}, handle {held.holder.handle}")
    click.echo(f"Nodes: {len(inventory.nodes)}")
    count = sum(len(each) for wired in inventory.wired_by_node.values() for each in wired.addresses_by_link.values())
    click.echo(f"Wired: {count} addresses, by the word of {len(inventory.wired_by_node)} nodes")
    for node, wired in sorted(inventory.wired_by_node.items()):
        seen_at = datetime.fromtimestamp(wired.seen_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if show_all:
            for link, addresses in sorted(wired.addresses_by_link.items()):
                click.echo(f"  {', '.join(map(str, addresses)) or 'no address'}: {link} on {node}, seen {seen_at}")
    for node in inventory.unchecked_nodes():
        click.echo(f"  {node} does not tell what it has wired, so its addresses are not checked; see its agent's log")


def _print_problems(problems: Sequence[Problem], *, show_addresses: bool) -> None:
    hidden = 0
    click.echo()
    for heading, kinds in SECTIONS:
        found = [problem for problem in problems if problem.kind in kinds]
        click.echo(f"{heading}: {len(found)}")
        for problem in found:
            if problem.address is None or show_addresses:
                click.echo(f"  {problem.text}")
            else:
                hidden += 1
    if hidden:
        click.echo(f"\nNot listed are {hidden} problems of single addresses; --show-problem-ips lists them.")


def _agreed(problems: Sequence[Problem], *, yes: bool) -> bool:
    """Show what would be repaired and what is left alone, and return whether to go on."""
    repairable = [problem for problem in problems if problem.repairable]
    by_hand = [problem for problem in problems if not problem.repairable]
    click.echo(f"\nTo be repaired: {len(repairable)}")
    for problem in repairable:
        holder = f" of handle {problem.handle}" if problem.handle is not None else ""
        click.echo(f"  {REPAIRS[problem.kind]} {problem.subject}{holder}")
    click.echo(f"Left to you: {len(by_hand)}")
    for problem in by_hand:
        click.echo(f"  {problem.text}")
    if not repairable:
        return False
    return yes or click.confirm(f"\nRepair {len(repairable)} problems?")


def _write_report(path: Path, found: Findings) -> None:
    document = {
        "apiVersion": API_VERSION,
        "kind": "IPAMReport",
        "checkedAt": datetime.fromtimestamp(found.inventory.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "uncheckedNodes": list(found.inventory.unchecked_nodes()),
        "problems": [
            {
                "kind": problem.kind.value,
                "subject": str(problem.subject),
                "problem": problem.text,
                "repairable": problem.repairable,
                "handle": problem.handle,
                "node": problem.node,
                "sequence": problem.sequence,
            }
            for problem in found.problems
        ],
    }
    try:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{path}: the report cannot be written: {error.strerror}; name another file") from error
    click.echo(f"Report written to {path}.")

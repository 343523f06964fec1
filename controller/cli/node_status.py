"""How a node's own agent and its sessions are shown."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import TYPE_CHECKING

import click

from controller.cli.output import print_boxed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.agent_client import AgentStatus, Session


def print_status(found: AgentStatus) -> None:
    """Print what an agent says of itself, one table of sessions for each IP version."""
    states = ["ready" if found.ready else "NOT READY", *([found.drain] if found.drain else [])]
    click.echo(f"Node {found.node}, tortie {found.version}: {', '.join(states)}")
    for problem in found.problems:
        click.echo(f"  {problem}")
    click.echo(f"Store: {found.store}")
    click.echo(f"Routes: {found.route_count}, {'in sync' if found.routes_in_sync else 'not in sync'}")
    click.echo(f"BGP speaker: {'connected' if found.speaker_connected else 'not connected'}")
    rejected_count = sum(each.count for each in found.rejected)
    if rejected_count:
        click.echo(f"Routes of peers refused: {rejected_count}; see `tortiectl node status --rejected`")
    for version in (4, 6):
        sessions = [session for session in found.sessions if ipaddress.ip_address(session.address).version == version]
        click.echo(f"\nIPv{version} BGP status")
        if sessions:
            headers = ("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")
            print_boxed(headers, [_row(session) for session in sessions])
        else:
            click.echo(f"No IPv{version} peers.")


def print_rejected(found: AgentStatus) -> None:
    """Print which routes of which peer were refused by which rule."""
    if not found.rejected:
        click.echo("No route of a peer is refused.")
        return
    rows = [(each.peer, each.reason, each.count, _examples(each.count, each.examples)) for each in found.rejected]
    print_boxed(("PEER", "REASON", "COUNT", "EXAMPLES"), rows, right=(2,))


def _examples(count: int, examples: Sequence[str]) -> str:
    return ", ".join([*examples, *(["..."] if count > len(examples) else [])])


def _row(session: Session) -> Sequence[str]:
    since = datetime.fromtimestamp(session.since).astimezone().strftime("%Y-%m-%d %H:%M:%S") if session.since else "-"
    return session.address, session.origin, session.state, since, session.info

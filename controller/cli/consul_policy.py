"""`tortiectl consul-policy`: what the tokens of a cluster may do in Consul, as rules of its access control lists.

Consul gives rights on keys by exact name and by prefix. What is one node's alone lies under keys that end in its name:
its record, by which others open BGP sessions with it, what it has wired, and what its transactions rest on. Blocks,
their summaries and the index of them below `share/` are the common book of addresses: any node may claim a block, take
an empty one or borrow from a full one, and tells the owner by a key of the owner's share. So every node writes all of
that. What operators set it only reads.

Where nodes cannot have a token each, as the pods of a DaemonSet, they share one: it writes what is any node's, and
still nothing of the operators'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.datamodel import keys

if TYPE_CHECKING:
    from collections.abc import Iterable

#: `list` is reading with all keys below, also where Consul is set to tell the two apart (`enable_key_list_policy`).
_READ: Final = "list"
_WRITE: Final = "write"
#: What it is about, its name or prefix, and the right.
Rule: TypeAlias = tuple[str, str, str]
#: Consul shows no service of a node that may not be read.
_SHOWN: Final[Rule] = ("node_prefix", "", "read")


@click.command()
@click.option("--node", metavar="NAME", help="What the agent of this node needs.")
@click.option("--agents", is_flag=True, help="What the agents of any number of nodes need that share a token.")
@click.option("--operator", is_flag=True, help="What an operator needs to change anything, and to remove nodes.")
@click.option("--reader", is_flag=True, help="What somebody needs to see everything, passwords of BGP peers included.")
@click.option("--dns", is_flag=True, help="What a Consul agent needs to name the nodes in DNS; no key at all.")
@pass_connection
@click.pass_context
@examples(
    "tortiectl consul-policy --node h1 | consul acl policy create -name tortie-h1 -rules -",
    "consul acl token create -description 'tortie on h1' -policy-name tortie-h1",
    "tortiectl consul-policy --agents | consul acl policy create -name tortie-agents -rules -",
    "tortiectl consul-policy --operator | consul acl policy create -name tortie-operator -rules -",
    "tortiectl consul-policy --reader | consul acl policy create -name tortie-reader -rules -",
    "tortiectl consul-policy --dns | consul acl policy create -name tortie-dns -rules -",
)
def consul_policy(context: click.Context, connection: Connection, /, *, node: str | None, **parts: bool) -> None:
    """Show the rules of a Consul ACL policy: for one node's agent or for all, for operators, for reading, or for DNS.

    Make a policy of them and a token with it, and let the setting consul_token_file name a file that holds the token's
    SecretID. A node's token writes what is that node's and the common book of addresses, and nothing else.
    """
    chosen = [part for part, wanted in parts.items() if wanted]
    if (node is not None) + len(chosen) != 1:
        raise click.UsageError("say whose rules: --node NAME, --agents, --operator, --reader or --dns", context)
    service = connection.settings().consul_service
    if node is not None:
        rules = _agent_rules(service, "key", _own(_checked_name(connection, node)))
    else:
        rules = _RULES_BY_PART[chosen[0]](service)
    click.echo("\n".join(f'{kind} "{name}" {{ policy = "{right}" }}' for kind, name, right in rules))


def _checked_name(connection: Connection, node: str) -> str:
    """Return the name of a node; raises `RefusedError` for what cannot be one."""
    named: str = Connection({**connection.flags, "node_name": node}, connection.socket).settings().node_name
    return named


def _own(node: str) -> tuple[str, ...]:
    """Return the keys that are one node's alone."""
    return keys.node(node), keys.fence(node), keys.endpoints(node)


def _agent_rules(service: str, kind: str, own: Iterable[str]) -> list[Rule]:
    return [
        ("key_prefix", keys.CLUSTER, _READ),
        *((kind, key, _WRITE) for key in own),
        *(("key_prefix", prefix, _WRITE) for prefix in (keys.BLOCKS, keys.USAGE, keys.SHARES)),
        ("service", service, _WRITE),
    ]


def _rules_of_agents(service: str) -> list[Rule]:
    return _agent_rules(service, "key_prefix", _own(""))


def _rules_of_operators(service: str) -> list[Rule]:
    return [("key_prefix", keys.ROOT, _WRITE), ("service", service, _WRITE), _SHOWN]


def _rules_of_readers(service: str) -> list[Rule]:
    return [("key_prefix", keys.ROOT, _READ), *_rules_of_dns(service)]


def _rules_of_dns(service: str) -> list[Rule]:
    return [("service", service, "read"), _SHOWN]


#: By the names of the options.
_RULES_BY_PART: Final = {
    "agents": _rules_of_agents,
    "operator": _rules_of_operators,
    "reader": _rules_of_readers,
    "dns": _rules_of_dns,
}

"""`tortiectl consul-policy`: what the tokens of a cluster may do in Consul, as rules of its access control lists.

Consul gives rights on keys by exact name and by prefix. What is one node's alone lies under keys that end in its name:
its record, by which others open BGP sessions with it, what it has wired, and what its transactions rest on. Blocks,
their summaries and the index of them below `share/` are the common book of addresses: any node may claim a block, take
an empty one or borrow from a full one, and tells the owner by a key of the owner's share. So every node writes all of
that. What operators set it only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.datamodel import keys

if TYPE_CHECKING:
    from collections.abc import Iterable

#: `list` is reading with all keys below, also where Consul is set to tell the two apart (`enable_key_list_policy`).
_READ: Final = "list"
_WRITE: Final = "write"


@click.command()
@click.option("--node", metavar="NAME", help="What the agent of this node needs.")
@click.option("--operator", is_flag=True, help="What an operator needs to change anything, and to remove nodes.")
@click.option("--reader", is_flag=True, help="What somebody needs to see everything, passwords of BGP peers included.")
@click.option("--dns", is_flag=True, help="What a Consul agent needs to name the nodes in DNS; no key at all.")
@pass_connection
@click.pass_context
@examples(
    "tortiectl consul-policy --node h1 | consul acl policy create -name tortie-h1 -rules -",
    "consul acl token create -description 'tortie on h1' -policy-name tortie-h1",
    "tortiectl consul-policy --operator | consul acl policy create -name tortie-operator -rules -",
    "tortiectl consul-policy --reader | consul acl policy create -name tortie-reader -rules -",
    "tortiectl consul-policy --dns | consul acl policy create -name tortie-dns -rules -",
)
def consul_policy(
    context: click.Context, connection: Connection, /, *, node: str | None, operator: bool, reader: bool, dns: bool
) -> None:
    """Show the rules of a Consul ACL policy: for the agent of one node, for operators, for reading, or for DNS.

    Make a policy of them and a token with it, and let the setting consul_token_file name a file that holds the token's
    SecretID. A node's token writes what is that node's and the common book of addresses, and nothing else.
    """
    if (node is not None) + operator + reader + dns != 1:
        raise click.UsageError("say whose rules: --node NAME, --operator, --reader or --dns", context)
    service = connection.settings().consul_service
    if node is not None:
        rules = _node_rules(_checked_name(connection, node), service)
    elif dns:
        rules = _catalog_rules(service, "read")
    elif operator:
        rules = [("key_prefix", keys.ROOT, _WRITE), *_catalog_rules(service, _WRITE)]
    else:
        rules = [("key_prefix", keys.ROOT, _READ), *_catalog_rules(service, "read")]
    click.echo(_rules(rules))


def _checked_name(connection: Connection, node: str) -> str:
    """Return the name of a node; raises `RefusedError` for what cannot be one."""
    named: str = Connection({**connection.flags, "node_name": node}, connection.socket).settings().node_name
    return named


def _node_rules(node: str, service: str) -> list[tuple[str, str, str]]:
    return [
        ("key_prefix", keys.CLUSTER, _READ),
        ("key", keys.CLUSTER_ANCHOR, _WRITE),
        ("key", keys.node(node), _WRITE),
        ("key", keys.fence(node), _WRITE),
        ("key", keys.endpoints(node), _WRITE),
        *(("key_prefix", prefix, _WRITE) for prefix in (keys.BLOCKS, keys.USAGE, keys.SHARES)),
        ("service", service, _WRITE),
    ]


def _catalog_rules(service: str, right: str) -> list[tuple[str, str, str]]:
    # Consul shows no service of a node that may not be read.
    return [("service", service, right), ("node_prefix", "", "read")]


def _rules(rules: Iterable[tuple[str, str, str]]) -> str:
    return "\n".join(f'{kind} "{name}" {{ policy = "{right}" }}' for kind, name, right in rules)

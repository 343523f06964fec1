"""`tortiectl`: one noun or verb a module, imported only when it is used.

Exit codes: 0 done and nothing wrong; 1 refused, or a problem was found; 2 wrong usage; 3 the store or the agent does
not answer.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from controller.cli.connection import Connection
from controller.cli.examples import examples
from controller.errors import AgentUnavailable, StoreDenied, StoreUnavailable, TortieError
from ipam.errors import IpamError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Each command's name, its module below controller.cli (which has it as `command`) and its line in the help.
COMMANDS: Final = {
    "get": ("get", "Show pools, reservations, configurations, BGP peers and filters, nodes, blocks."),
    "create": ("write", "Create resources from files; refuse those that exist."),
    "apply": ("write", "Create or change resources from files."),
    "replace": ("write", "Change resources from files; refuse those that do not exist."),
    "patch": ("patch", "Change some fields of a resource."),
    "edit": ("edit", "Change a resource in an editor."),
    "delete": ("delete", "Delete resources, by name or as files name them."),
    "validate": ("validate", "Check files of resources, without a store."),
    "schema": ("schema", "Print the JSON Schema of resources."),
    "ipam": ("ipam", "Show, check and release addresses; set the rules of their assignment."),
    "node": ("node", "Show or collect this node's state; drain a node, or remove it from the cluster."),
    "explain": ("explain", "Show who holds an address or block, who announces it, and each node's route to it."),
    "doctor": ("doctor", "Find what is broken between the store, the kernel and BGP of every node."),
    "install-cni": ("install_cni", "Install the CNI plugin and a network on this host."),
    "consul-policy": ("consul_policy", "Show the rules of Consul ACL policies for agents, operators and readers."),
    "lab": ("lab", "Run several hosts on this machine, in network namespaces."),
    "completion": ("completion", "Print what a shell needs to complete command lines."),
    "version": ("version", "Show the versions of tortiectl and of this host's agent."),
}
REFUSED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130
#: What writing to a file ends with that cannot take more.
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


class LazyGroup(click.Group):
    """Knows its commands by the table above; importing all of them would make `--help` slow."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the names in the table, and the options; no command is imported for it."""
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        """Import the command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"controller.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's signature
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Each option can be given in the environment (TORTIE_STORE, TORTIE_SQLITE_PATH, ...) or in "
    "/etc/tortie/tortie.toml, as for the agent.",
)
@click.option("--store", type=click.Choice(["sqlite", "consul"]), help="The store of the cluster.")
@click.option("--sqlite-path", type=click.Path(), help="File of the sqlite store.")
@click.option("--consul-address", metavar="URL", help="Consul's HTTP address, e.g. http://127.0.0.1:8500.")
@click.option("--run-dir", type=click.Path(), help="Directory of the agent's sockets.")
@click.option(
    "--agent-socket", type=click.Path(), envvar="TORTIE_AGENT_SOCKET", help="The agent's socket [RUN_DIR/agent.sock]."
)
@click.pass_context
@examples(
    "tortiectl apply -f pools.yaml",
    "tortiectl get pools -o wide",
    "tortiectl ipam show --show-blocks",
    "tortiectl node status",
    "tortiectl lab up",
)
def tortiectl(context: click.Context, /, agent_socket: str | None, **flags: str | None) -> None:
    """Operate a tortie network."""
    context.obj = Connection({name: value for name, value in flags.items() if value is not None}, agent_socket)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; what went wrong is on stderr."""
    try:
        code = tortiectl.main(list(arguments), prog_name="tortiectl", standalone_mode=False)
    except click.UsageError as error:
        return _misused(error)
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", INTERRUPTED)
    except (StoreUnavailable, StoreDenied, AgentUnavailable) as error:
        return _failed(str(error), UNAVAILABLE)
    except (TortieError, IpamError) as error:
        return _failed(str(error), REFUSED)
    return code if isinstance(code, int) else 0


def _misused(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)  # its message is the help
        return USAGE
    where = error.ctx.command_path if error.ctx else "tortiectl"
    return _failed(f"{error.format_message()} (see `{where} --help`)", USAGE)


def _unprinted(error: OSError) -> int:
    """Tell that something could not be written, most likely what was printed; Python is not to try again at its end."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return _failed(f"not everything could be written: {error.strerror}; make room, then run it again", REFUSED)


def _failed(message: str, code: int) -> int:
    print(f"tortiectl: error: {message}", file=sys.stderr)  # noqa: T201  stderr is where errors go
    return code


def main() -> None:
    """Run the command line of this process."""
    try:
        code = run(sys.argv[1:])
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        code = _unprinted(error)
    sys.exit(code)

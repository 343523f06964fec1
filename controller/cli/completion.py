"""`tortiectl completion`: what a shell needs to complete command lines of tortiectl."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from controller.cli.examples import examples

_PROGRAM, _VARIABLE = "tortiectl", "_TORTIECTL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@examples(
    "tortiectl completion bash > /etc/bash_completion.d/tortiectl",
    'tortiectl completion zsh > "${fpath[1]}/_tortiectl"',
    "tortiectl completion fish > ~/.config/fish/completions/tortiectl.fish",
)
def completion(context: click.Context, shell: str) -> None:
    """Print the completion of a shell: commands, options, kinds, and the names of resources in the store.

    For this shell alone: source <(tortiectl completion bash). Names come from the store that the settings name, if it
    answers at once. Bash must be 4.4 or newer.
    """
    root = context.find_root().command
    kinds = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    made = kinds[shell](root, {}, _PROGRAM, _VARIABLE)
    click.echo(made.source_template % made.source_vars())

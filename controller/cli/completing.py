"""What the shell is offered for the arguments that name resources: kinds, and the names that are in the store.

A shell that waits for the Tab key must neither hang nor show an error: whatever is wrong, nothing is offered.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from controller.cli.connection import Connection
from controller.cli.kinds import ALL, KINDS, kind_called
from controller.datamodel import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from controller.cli.kinds import Kind
    from controller.ports import Store

#: How long the store may take; its own deadline is longer, and so may a name server's be.
_DEADLINE_SECONDS: Final = 2.0


def resources_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """Return the argument `what`: a kind and names, completed by the shell."""
    return click.argument("what", nargs=-1, required=required, metavar="KIND [NAME]...", shell_complete=_offered)


def _offered(context: click.Context, _argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what may stand here; called by the shell's completion alone, in a process for this one answer."""
    given = context.params.get("what") or ()
    word, slash, _ = incomplete.partition("/")
    if given and "/" not in given[0]:
        return _named(context, given[0], prefix="", incomplete=incomplete)
    if slash:
        return _named(context, word, prefix=f"{word}/", incomplete=incomplete)
    words = [ALL, *(word for kind in KINDS for word in ([kind.one] if kind.single else [kind.many, kind.one]))]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _named(context: click.Context, word: str, *, prefix: str, incomplete: str) -> list[CompletionItem]:
    try:
        kind = kind_called(word)
    except click.UsageError:
        return []
    names = ["default"] if kind.single else _names_in_store(context, kind)
    return [CompletionItem(prefix + name) for name in names if (prefix + name).startswith(incomplete)]


def _names_in_store(context: click.Context, kind: Kind) -> Sequence[str]:
    try:
        connection = _connection(context)
        settings = connection.settings()
        if settings.store == "sqlite" and not settings.sqlite_path.exists():
            return []  # opening it would make it
        # Threads of the store's client may hang and would keep the process; only its end is sure to come in time.
        signal.signal(signal.SIGALRM, _end)
        signal.setitimer(signal.ITIMER_REAL, _DEADLINE_SECONDS)
        return connection.with_store(lambda store: _listed(store, kind))
    except Exception:  # noqa: BLE001  whatever it is, the person at the shell must not see it
        return []


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def _connection(context: click.Context) -> Connection:
    """Return the connection that the flags before the command name; nothing of the command has run yet."""
    flags = dict(context.find_root().params)
    socket = flags.pop("agent_socket", None)
    return Connection({name: str(value) for name, value in flags.items() if value is not None}, socket)


async def _listed(store: Store, kind: Kind) -> list[str]:
    if kind.name == "Block":
        return [key.removeprefix(keys.USAGE).replace("-", "/") for key in await store.list(keys.USAGE)]
    return [key.removeprefix(kind.prefix) for key in await store.list(kind.prefix)]

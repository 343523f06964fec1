"""`tortiectl edit`: one resource in the operator's editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import yaml

from controller.cli.completing import resources_argument
from controller.cli.connection import Connection, pass_connection
from controller.cli.documents import mistake_text, parsed
from controller.cli.examples import examples
from controller.cli.kinds import one_named
from controller.cli.planning import Mode
from controller.cli.present import read_present
from controller.cli.writing import write_resources
from controller.errors import RefusedError, TortieError
from ipam.errors import IpamError

if TYPE_CHECKING:
    from controller.cli.planning import Change
    from controller.cli.present import Present
    from controller.cli.wishes import Wish

#: How the lines begin that are ours in the file, not the operator's.
_OURS: Final = "#: "
_HEAD: Final = (
    "Change what you like below, save and leave the editor; lines that begin with # mean nothing.",
    "Leave it without a change, or with an empty file, and nothing is written.",
)


@click.command()
@resources_argument()
@pass_connection
@examples("tortiectl edit pool default", "EDITOR='code --wait' tortiectl edit bgpfilter from-tor")
def edit(connection: Connection, what: tuple[str, ...]) -> None:
    """Open a resource in the editor that VISUAL or EDITOR names, vi without either, and write what is saved.

    What breaks a rule is opened again, with the mistakes at its top. It is refused if somebody else has changed the
    resource meanwhile. What was written and could not be stored is kept in its file.
    """
    kind, name = one_named(what)
    if not kind.by_people:
        raise RefusedError(
            f"{kind.many} are written by agents alone; see `tortiectl node --help` and `tortiectl ipam --help`"
        )
    present = connection.with_store(lambda store: read_present(store, kind, name))
    handle, path = tempfile.mkstemp(prefix=f"tortiectl-{kind.one}-{name}-", suffix=".yaml")
    os.close(handle)  # it is readable to its owner alone: a password may be in it
    file = Path(path)
    text = yaml.safe_dump(present.document, sort_keys=False)
    try:
        change = _edited(connection, present, text, file)
    except (TortieError, IpamError, KeyboardInterrupt):
        if _saved(file) in ("", text):
            file.unlink(missing_ok=True)
        else:
            click.echo(f"what you wrote is kept in {file}", err=True)
        raise
    file.unlink(missing_ok=True)
    if change is None:
        click.echo(f"{kind.title(name)} unchanged: the edit was cancelled")
    else:
        click.echo(f"{change.wish.title} {change.outcome.value}")


def _edited(connection: Connection, present: Present, text: str, file: Path) -> Change | None:
    """Let the text be edited until it is written, and return what became of it; None if nothing is to be."""
    mistake: Exception | None = None
    while True:
        ours = "".join(f"{_OURS}{line}\n" for line in (*_HEAD, *_lines(mistake)))
        file.write_text(ours + text, encoding="utf-8", errors="surrogateescape")
        _run_editor(file)
        saved = _saved(file)
        if saved == text:
            if mistake is not None:
                raise mistake
            return None
        text = saved
        try:
            document = _document(saved)
            if document is None:
                return None
            return _written(connection, present.changed_to(document))
        except (RefusedError, IpamError) as error:
            mistake = error


def _written(connection: Connection, wish: Wish) -> Change:
    return connection.with_store(lambda store: write_resources(store, [wish], Mode.APPLY))[0]


def _lines(mistake: Exception | None) -> list[str]:
    return [] if mistake is None else ["", *f"NOT WRITTEN: {mistake}".splitlines()]


def _saved(file: Path) -> str:
    """Return what the operator saved, whatever the bytes are; nothing where the editor has removed the file."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_OURS.rstrip()))


def _document(text: str) -> object:
    try:
        documents = [document for document in parsed(text) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"neither YAML nor JSON: {mistake_text(error)}") from None
    if len(documents) > 1:
        raise RefusedError(f"{len(documents)} documents; keep the one of this resource")
    return documents[0] if documents else None


def _run_editor(file: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(command), str(file)], check=False).returncode
    except (OSError, ValueError) as error:
        raise RefusedError(f"the editor {command!r} cannot be started: {error}; set EDITOR to another one") from error
    if code != 0:
        raise RefusedError(f"the editor {command!r} ended with exit code {code}")

"""`tortiectl patch`: some fields of one resource changed, whatever the others are."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

import click
import jsonpatch
import jsonpointer
import yaml

from controller.cli.completing import resources_argument
from controller.cli.connection import Connection, pass_connection
from controller.cli.documents import mistake_text, parsed, text_of
from controller.cli.examples import examples
from controller.cli.guarding import with_retries
from controller.cli.kinds import one_named
from controller.cli.planning import Mode
from controller.cli.present import read_present
from controller.cli.write import dry_run_option, refusals, show_difference
from controller.cli.writing import plan_resources, write_resources
from controller.errors import ConflictError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.cli.kinds import Kind
    from controller.cli.planning import Change
    from controller.ports import Store

#: What the library raises for operations that are none, or not possible; the last two for values of wrong types.
_IMPOSSIBLE: Final = (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError)


@click.command()
@resources_argument()
@click.option("-p", "--patch", "text", metavar="PATCH", help="The patch, in JSON or YAML.")
@click.option(
    "--patch-file",
    "file",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="A file with it; - is standard input.",
)
@click.option(
    "--type",
    "form",
    type=click.Choice(["merge", "json"]),
    default="merge",
    show_default=True,
    help="merge: fields as they are to be, null for the default (RFC 7386); json: a list of operations (RFC 6902).",
)
@dry_run_option()
@pass_connection
@examples(
    "tortiectl patch pool default -p '{spec: {disabled: true}}'",
    """tortiectl patch bgpfilter in --type=json -p '[{op: add, path: /spec/imports/0, value: {action: Reject}}]'""",
    "tortiectl patch ipamconfiguration -p '{spec: {cooldownSeconds: 30}}' --dry-run",
)
def patch(
    connection: Connection, what: tuple[str, ...], text: str | None, file: str | None, form: str, *, dry_run: bool
) -> None:
    """Change some fields of one resource.

    What others change at the same time is kept: the patch is made to whatever is there when it is written. A patch that
    sets metadata.resourceVersion is refused if the resource has another version.
    """
    if (text is None) == (file is None):
        raise click.UsageError("give the patch either with -p or with --patch-file")
    kind, name = one_named(what)
    with refusals(dry_run=dry_run):
        change = _merge(_patch_in(text, file)) if form == "merge" else _operations(_patch_in(text, file))
        done = connection.with_store(lambda store: patch_resource(store, kind, name, change, dry_run=dry_run))
        if dry_run:
            show_difference([done])
        else:
            click.echo(f"{done.wish.title} {done.outcome.value}")


async def patch_resource(
    store: Store, kind: Kind, name: str, change: Callable[[object], object], *, dry_run: bool
) -> Change:
    """Write what `change` makes of a resource's document, and return what became of it.

    Nothing is written when `dry_run`. Raises `RefusedError` for a resource that does not exist or may not become so,
    and `ConflictError` when others kept writing it.
    """

    async def attempt() -> Change:
        present = await read_present(store, kind, name)
        wish = present.changed_to(change(copy.deepcopy(present.document)))
        try:
            write = plan_resources if dry_run else write_resources
            return (await write(store, [wish], Mode.APPLY))[0]
        except RefusedError as error:
            key = kind.key(name)
            if (await store.get([key])).get(key) != present.entry:
                raise ConflictError([key]) from error
            raise

    return await with_retries(attempt)


def merged(target: object, patch: object) -> object:
    """Return the target with a merge patch applied (RFC 7386, section 2); neither is changed."""
    if not isinstance(patch, dict):
        return patch
    fields = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            fields.pop(name, None)
        else:
            fields[name] = merged(fields.get(name), value)
    return fields


def _merge(patch: object) -> Callable[[object], object]:
    if not isinstance(patch, dict):
        raise RefusedError(f"the patch is no mapping: write fields as they are to be, as {'{spec: {disabled: true}}'}")
    return lambda document: merged(document, patch)


def _operations(patch: object) -> Callable[[object], object]:
    if not isinstance(patch, list):
        raise RefusedError(
            "the patch is no list of operations: write [{op: replace, path: /spec/disabled, value: true}]"
        )

    def apply(document: object) -> object:
        for number, operation in enumerate(patch, start=1):
            try:
                document = jsonpatch.apply_patch(document, [operation], in_place=True)
            except _IMPOSSIBLE as error:
                # Not chained, and not its text: that tells the whole document, which may have a password in it.
                raise RefusedError(f"operation {number}, {_shown(operation)}: {_reason(error)}") from None
        return document

    return apply


def _shown(operation: object) -> str:
    fields = operation if isinstance(operation, dict) else {}
    return f"{fields.get('op')} {fields.get('path')}"


def _reason(error: Exception) -> str:
    if isinstance(error, jsonpatch.JsonPatchTestFailed):
        return "the value there is another one"
    if isinstance(error, jsonpatch.JsonPatchConflict | jsonpointer.JsonPointerException):
        return "there is no such place in the resource; see its fields with `tortiectl get ... -o json`"
    return "it is none of the operations of RFC 6902; write {op: replace, path: /spec/disabled, value: true}"


def _patch_in(text: str | None, file: str | None) -> object:
    shown = file or "-p"
    try:
        documents = parsed(text if text is not None else text_of(file or "-"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"{shown}: neither YAML nor JSON: {mistake_text(error)}") from None
    if len(documents) != 1:
        raise RefusedError(f"{shown}: {len(documents)} documents; a patch is one")
    return documents[0]

"""`tortiectl delete`: resources out of the store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from controller.cli.completing import resources_argument
from controller.cli.connection import Connection, pass_connection
from controller.cli.documents import documents_in, files_option
from controller.cli.examples import examples
from controller.cli.guarding import with_retries
from controller.cli.kinds import BY_NAME, KINDS, Named, named
from controller.cli.peers import delete_filter, delete_peer
from controller.cli.pools import delete_pool, remove_malformed_pool
from controller.cli.removal import delete_block, delete_record
from controller.cli.wishes import refused_for
from controller.cli.write import DIFFERENT, WRONG, refusals
from controller.datamodel import keys
from controller.errors import ConflictError, MalformedRecord, RefusedError
from controller.ports import Delete
from controller.resources import check_api_version
from controller.resources.fields import ONLY_NAME
from controller.store.memory import MemoryStore
from ipam.errors import IpamError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from controller.cli.kinds import Kind
    from controller.ports import Store

_RECORD: Final = "record"
#: What names others goes before what is named.
_ORDER: Final = ("BGPPeer", "BGPFilter")


@click.command(no_args_is_help=True)
@resources_argument(required=False)
@files_option(required=False)
@click.option("--force", is_flag=True, help="Delete a pool or a block whose record cannot be read.")
@click.option("--missing-ok", is_flag=True, help="What does not exist is no error.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Delete nothing and show what would go; exit code 0 for nothing, 1 for something, 2 if any is refused.",
)
@pass_connection
@click.pass_context
@examples(
    "tortiectl delete pool default",
    "tortiectl delete bgppeer tor-a tor-b",
    "tortiectl delete -f pools.yaml --dry-run",
    "tortiectl delete block 10.244.7.64/26",
    "tortiectl delete record tortie/v1/cluster/reservations/gateways",
)
def delete(
    context: click.Context,
    connection: Connection,
    what: tuple[str, ...],
    files: tuple[str, ...],
    *,
    recursive: bool,
    force: bool,
    missing_ok: bool,
    dry_run: bool,
) -> None:
    """Delete resources by kind and name, or those that files name; of a document its spec does not count.

    A pool goes with its empty blocks, and not while addresses of it are in use. A filter does not go while a peer names
    it. Without a configuration its defaults hold. A block goes only when it is empty. `delete record KEY` removes what
    nobody can read, by its key, as `tortiectl ipam check` tells it.

    --force is for what cannot be read, and changes nothing for others. Nodes forget such a pool, so their routes to its
    addresses end, and its blocks stay; rather apply the pool anew where its range is known. Addresses of such a block
    may be given to others at once.

    Each is deleted by itself: one that is refused is told of, the others go, and the exit code is 1.
    """
    if bool(what) == bool(files):
        raise click.UsageError("name either a kind and names, or files with -f")
    how = _How(force=force, missing_ok=missing_ok, dry_run=dry_run)
    with refusals(dry_run=dry_run):
        if what[:1] == (_RECORD,):
            work = partial(_delete_records, what[1:], how)
        else:
            work = partial(_delete_each, _in_files(files, recursive=recursive) if files else named(what), how)
        done = connection.with_store(partial(_rehearsed, work) if dry_run else work)
    if dry_run and not done.deleted and not done.refused:
        click.echo("nothing would be deleted")
    if done.refused:
        context.exit(WRONG if dry_run else 1)
    if dry_run and done.deleted:
        context.exit(DIFFERENT)


@dataclass(frozen=True, slots=True)
class _How:
    """What an operator allows for; a dry run deletes in a copy, and tells so."""

    force: bool
    missing_ok: bool
    dry_run: bool

    @property
    def deleted(self) -> str:
        """What has become of something, as it is printed."""
        return "would be deleted" if self.dry_run else "deleted"


class _Done(NamedTuple):
    """Whether anything was deleted, and whether anything was refused."""

    deleted: bool
    refused: bool


async def _rehearsed(work: Callable[[Store], Awaitable[_Done]], store: Store) -> _Done:
    """Do the work on a copy of everything: what goes first may be in the way of what goes next."""
    return await work(MemoryStore(await store.list(keys.ROOT)))


async def delete_reservation(store: Store, name: str) -> None:
    """Remove a reservation, also one that cannot be read; raises `RefusedError` when it does not exist."""
    key = keys.reservation(name)

    async def attempt() -> None:
        found = await store.list(keys.RESERVATIONS)
        if key not in found:
            present = ", ".join(other.removeprefix(keys.RESERVATIONS) for other in found)
            raise RefusedError(f"reservation {name} does not exist; the reservations are: {present or 'none'}")
        await store.commit([Delete(key, found[key].version)])

    await with_retries(attempt)


async def _delete_records(record_keys: Sequence[str], how: _How, store: Store) -> _Done:
    if not record_keys:
        raise click.UsageError("which record? write `tortiectl delete record KEY`, as `tortiectl ipam check` names it")
    for key in record_keys:
        await delete_record(store, key)
        click.echo(f"record {key} {how.deleted}")
    return _Done(deleted=True, refused=False)


async def _delete_each(wanted: Sequence[Named], how: _How, store: Store) -> _Done:
    """Delete one by one, telling each outcome as it comes."""
    deleted = refused = False
    for kind, name in [(each.kind, name) for each in wanted for name in _names(each)]:
        # Without a configuration its defaults hold: to delete it is no mistake, and changes nothing.
        passes = how.missing_ok or (how.dry_run and kind.single and not _is_misnamed(kind, name))
        if passes and not await _is_there(store, kind, name):
            click.echo(f"{kind.title(name)} does not exist")
            continue
        try:
            await _delete(store, kind, name, force=how.force)
        except (RefusedError, ConflictError, MalformedRecord, IpamError) as error:
            click.echo(f"tortiectl: error: {error}", err=True)
            refused = True
        else:
            click.echo(f"{kind.title(name)} {how.deleted}")
            deleted = True
    return _Done(deleted, refused)


async def _is_there(store: Store, kind: Kind, name: str) -> bool:
    return not _is_misnamed(kind, name) and bool(await store.get([kind.key(name)]))


def _names(each: Named) -> Sequence[str]:
    if each.kind.single:
        return each.names or [ONLY_NAME]
    if not each.names:
        raise click.UsageError(f"which {each.kind.one}? write `tortiectl delete {each.kind.one} NAME`")
    return each.names


async def _delete(store: Store, kind: Kind, name: str, *, force: bool) -> None:
    match kind.name:
        case "Pool":
            if not (force and await remove_malformed_pool(store, name)):
                await delete_pool(store, name)
        case "Reservation":
            await delete_reservation(store, name)
        case "BGPPeer":
            await delete_peer(store, name)
        case "BGPFilter":
            await delete_filter(store, name)
        case "Block":
            await delete_block(store, name, force=force)
        case "Node":
            raise RefusedError(f"node {name} is removed with `tortiectl node delete {name}`, once its agent is stopped")
        case _ if _is_misnamed(kind, name):
            raise RefusedError(f"{kind.title(name)} does not exist; there is one, and its name is {ONLY_NAME}")
        case _:
            await store.commit([Delete(kind.prefix, None)])


def _is_misnamed(kind: Kind, name: str) -> bool:
    """Tell whether this names another resource of a kind of which there is one."""
    return kind.single and name != ONLY_NAME


def _in_files(files: Sequence[str], *, recursive: bool) -> list[Named]:
    """Return what the documents name, peers before filters; raises `RefusedError` for one that names none."""
    found: list[Named] = []
    mistakes: list[str] = []
    for place, document in documents_in(files, recursive=recursive):
        try:
            found.append(_named_by(document))
        except RefusedError as error:
            mistakes.append(f"{place}: {error}")
    if mistakes:
        raise refused_for(mistakes)
    order = {name: number for number, name in enumerate(_ORDER)}
    return sorted(found, key=lambda each: order.get(each.kind.name, len(KINDS)))


def _named_by(document: object) -> Named:
    fields = document if isinstance(document, dict) else {}
    check_api_version(fields)
    kind = BY_NAME.get(str(fields.get("kind")))
    if kind is None:
        raise RefusedError(f"kind: {fields.get('kind')!r} is not known; write {', '.join(BY_NAME)}")
    metadata = fields.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        raise RefusedError(f"metadata.name: missing; it says which {kind.one} to delete")
    return Named(kind, (name,))

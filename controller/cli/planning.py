"""What becomes of resources that are to be written: all of them compared with what there is before any is written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from bgp.peering import PeerDefinition
from controller.cli.kinds import BY_NAME
from controller.cli.peers import missing_filters, scope_mistakes
from controller.cli.pools import leftover_mistake, overlap_mistakes
from controller.cli.stored import key_of, record_of, resource_in
from controller.cli.wishes import refused_for
from controller.errors import MalformedRecord, RefusedError
from controller.ports import ABSENT, MAX_VALUE_BYTES, Put
from controller.resources import kind_and_name
from controller.resources.nodes import NodeDescription
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from controller.cli.wishes import Wish
    from controller.ports import Entry
    from controller.resources import Resource

_MOVE: Final = "create a second pool, move the workloads, then delete the first"
#: Where a document has what an agent's setting decides.
_FIELD_BY_SETTING: Final = {
    "labels": "metadata.labels",
    "as_number": "spec.asNumber",
    "ipv4_address": "spec.ipv4Address",
    "ipv6_address": "spec.ipv6Address",
    "cluster_id": "spec.clusterID",
}


class Mode(Enum):
    """What may become of a resource: only what is not there yet, whatever it is, or only what is there.

    A configuration is always there: its defaults hold where nobody has written one.
    """

    CREATE = "create"
    APPLY = "apply"
    REPLACE = "replace"


class Outcome(Enum):
    """What becomes of a resource, as it is printed."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one wish. `before` is None for what is not there or cannot be read, `put` for what stays."""

    wish: Wish
    outcome: Outcome
    before: Resource | None
    put: Put | None


def planned(wishes: Sequence[Wish], entries: Mapping[str, Entry], mode: Mode) -> list[Change]:
    """Return what becomes of each wish; raises `RefusedError` that tells every mistake with its place.

    `entries` holds the record of each wish, and all records of the kinds that have to be compared: pools for a pool,
    with the summaries of blocks if it is new, peers and filters for a peer.
    """
    changes: list[Change] = []
    mistakes: list[str] = []
    for wish in wishes:
        try:
            changes.append(_change(wish, entries.get(key_of(wish.resource)), mode))
        except RefusedError as error:
            mistakes.append(f"{wish.place}: {error}")
    written = {key_of(wish.resource) for wish in wishes}
    mistakes += [f"{wish.place}: {text}" for wish, text in _conflicts(changes, entries, written)]
    if mistakes:
        raise refused_for(mistakes)
    return changes


def check_together(wishes: Sequence[Wish]) -> None:
    """Raise `RefusedError` if wishes contradict each other, whatever there is; filters may be there already."""
    wish_by_resource = {id(wish.resource): wish for wish in wishes}
    mistakes = [
        f"{wish_by_resource[id(resource)].place}: {text}"
        for resource, text in (
            *overlap_mistakes([wish.resource for wish in wishes if isinstance(wish.resource, Pool)], {}),
            *scope_mistakes([wish.resource for wish in wishes if isinstance(wish.resource, PeerDefinition)], {}),
        )
    ]
    if mistakes:
        raise refused_for(mistakes)


def _change(wish: Wish, entry: Entry | None, mode: Mode) -> Change:
    if isinstance(wish.resource, NodeDescription):
        if mode is Mode.CREATE:
            raise RefusedError("nobody creates a node; it comes when tortie-agent is started on its host")
        return _unchanged_node(wish, wish.resource, entry)
    if entry is not None and mode is Mode.CREATE:
        raise RefusedError(f"{wish.title} exists; change it with `tortiectl apply`")
    if entry is None and mode is Mode.REPLACE and not BY_NAME[kind_and_name(wish.resource)[0]].single:
        raise RefusedError(f"{wish.title} does not exist; create it with `tortiectl create`, or use `tortiectl apply`")
    if mode is not Mode.CREATE:
        _check_version(wish, entry)
    key, value = record_of(wish.resource)
    if len(value) > MAX_VALUE_BYTES:
        raise RefusedError(f"its record has {len(value)} bytes, and at most {MAX_VALUE_BYTES} fit; divide it into two")
    put = Put(key, value, ABSENT if entry is None else entry.version)
    if entry is None:
        return Change(wish, Outcome.CREATED, None, put)
    present = _readable(key, entry)
    if isinstance(wish.resource, Pool) and isinstance(present, Pool):
        _check_unmoved(wish.resource, present)
    if present == wish.resource:
        return Change(wish, Outcome.UNCHANGED, present, None)
    return Change(wish, Outcome.CONFIGURED, present, put)


def _readable(key: str, entry: Entry) -> Resource | None:
    try:
        return resource_in(key, entry.value)
    except MalformedRecord:
        return None  # what cannot be read is repaired by writing it anew


def _check_version(wish: Wish, entry: Entry | None) -> None:
    """Raise `RefusedError` if the record is not the one that the document was made from."""
    present = ABSENT if entry is None else entry.version
    if wish.version in (None, present):
        return
    kind, name = kind_and_name(wish.resource)
    was = "nothing" if wish.version == ABSENT else wish.version
    now = "deleted" if entry is None else f"changed (its resourceVersion is {present} now)"
    raise RefusedError(
        f"metadata.resourceVersion: {was} was read, and {wish.title} has been {now} since; read it again with "
        f"`tortiectl get {BY_NAME[kind].one} {name} -o yaml`, or remove the field to write over what others did"
    )


def _unchanged_node(wish: Wish, node: NodeDescription, entry: Entry | None) -> Change:
    """Return that nothing becomes of a node; raises `RefusedError` for everything that its agent decides."""
    if entry is None:
        raise RefusedError(f"node {node.name} does not exist; it comes when tortie-agent is started on its host")
    present = _readable(key_of(node), entry)
    if not isinstance(present, NodeDescription):
        raise RefusedError("the record cannot be read; its agent writes it anew when it starts, nobody else can")
    _check_version(wish, entry)
    for setting, field in _FIELD_BY_SETTING.items():
        wanted, is_now = getattr(node, setting), getattr(present, setting)
        if wanted != is_now:
            raise RefusedError(
                f"{field}: {_shown(wanted)} instead of {_shown(is_now)}: this is for the agent on {node.name} to say; "
                f"write {setting} in its /etc/tortie/tortie.toml, or set TORTIE_{setting.upper()}, and restart it"
            )
    return Change(wish, Outcome.UNCHANGED, present, None)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in sorted(value.items())) or "none"
    return "none" if value is None else str(value)


def _check_unmoved(pool: Pool, present: Pool) -> None:
    if present.cidr != pool.cidr:
        raise RefusedError(f"spec.cidr: {present.cidr} cannot be changed to {pool.cidr}; {_MOVE}")
    if present.block_prefix_length != pool.block_prefix_length:
        raise RefusedError(
            f"spec.blockSize: {present.block_prefix_length} cannot be changed to {pool.block_prefix_length}; {_MOVE}"
        )


def _conflicts(
    changes: Sequence[Change], entries: Mapping[str, Entry], written: Container[str]
) -> Iterator[tuple[Wish, str]]:
    """Yield what is wrong with wishes beside what there is and beside each other, once these keys are written."""
    wish_by_key = {key_of(change.wish.resource): change.wish for change in changes}
    pools = [change.wish.resource for change in changes if isinstance(change.wish.resource, Pool)]
    peers = [change.wish.resource for change in changes if isinstance(change.wish.resource, PeerDefinition)]
    for change in changes:
        pool = change.wish.resource
        text = leftover_mistake(pool, entries) if isinstance(pool, Pool) and change.before is None else None
        if text is not None:
            yield change.wish, text
    for pool, text in overlap_mistakes(pools, entries):
        yield wish_by_key[key_of(pool)], text
    for peer, text in (*scope_mistakes(peers, entries), *missing_filters(peers, entries, written)):
        yield wish_by_key[key_of(peer)], text

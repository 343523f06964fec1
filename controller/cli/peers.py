"""Peers and filters in the store, as far as they depend on each other.

A filter that a peer names must exist: without it the session could let in what it must not. Two peers of one address
for the same nodes would take turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.cli.guarding import next_revision, revision, with_retries
from controller.cli.reading import decoded_each, way_out
from controller.datamodel import keys
from controller.datamodel.bgp_records import decode_peer
from controller.errors import RefusedError
from controller.ports import Check, Delete

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

    from bgp.peering import PeerDefinition
    from controller.ports import Entry, Store


def scope_text(peer: PeerDefinition) -> str:
    """Return which nodes have the peer."""
    if peer.node is not None:
        return f"node {peer.node}"
    return "every node" if peer.node_selector is None else f"nodes with {peer.node_selector}"


def scope_mistakes(
    peers: Sequence[PeerDefinition], entries: Mapping[str, Entry]
) -> Iterator[tuple[PeerDefinition, str]]:
    """Yield each peer that has the address and scope of another one once these are written, and what is wrong.

    `entries` holds the record of each peer in the store; where one cannot be read, nothing can be told.
    """
    written = {keys.peer(peer.name) for peer in peers}
    others = {key: entry for key, entry in entries.items() if key.startswith(keys.PEERS) and key not in written}
    present, malformed = decoded_each(others, decode_peer)
    if malformed and peers:
        yield peers[0], f"whether two peers have one address cannot be told: {way_out(malformed[0])}"
        return
    name_of: dict[tuple[object, ...], str] = {}
    for peer in [*present, *peers]:
        identity = (peer.address, peer.node, peer.node_selector)
        if identity in name_of and keys.peer(peer.name) in written:
            text = (
                f"spec.peerAddress: bgppeer {name_of[identity]} has {peer.address} for {scope_text(peer)} too; change "
                f"that one, or delete it"
            )
            yield peer, text
        name_of[identity] = peer.name


def missing_filters(
    peers: Iterable[PeerDefinition], entries: Mapping[str, Entry], written: Container[str]
) -> Iterator[tuple[PeerDefinition, str]]:
    """Yield each peer with a filter that is neither in the store nor among the keys that are written along."""
    for peer in peers:
        for name in peer.filters:
            key = keys.filter_rules(name)
            if key not in entries and key not in written:
                text = f"spec.filters: bgpfilter {name} does not exist; apply it first, or in the same file"
                yield peer, text


def filter_checks(
    peers: Iterable[PeerDefinition], entries: Mapping[str, Entry], written: Collection[str]
) -> list[Check]:
    """Return the checks that keep the filters these peers name in place; `written` are in the same transaction."""
    wanted = {keys.filter_rules(name) for peer in peers for name in peer.filters}
    return [Check(key, entries[key].version) for key in sorted(wanted.difference(written))]


async def delete_peer(store: Store, name: str) -> None:
    """Remove a peer, also one that cannot be read; raises `RefusedError` when it does not exist."""

    async def attempt() -> None:
        expected = await revision(store, keys.PEERS_REVISION)
        entry = _existing("bgppeer", name, keys.PEERS, await store.list(keys.PEERS))
        await store.commit([Delete(keys.peer(name), entry.version), next_revision(keys.PEERS_REVISION, expected)])

    await with_retries(attempt)


async def delete_filter(store: Store, name: str) -> None:
    """Remove a filter, also one that cannot be read; raises `RefusedError` while a peer names it.

    The revision is what keeps a peer from naming it meanwhile.
    """

    async def attempt() -> None:
        expected = await revision(store, keys.PEERS_REVISION)
        entry = _existing("bgpfilter", name, keys.FILTERS, await store.list(keys.FILTERS))
        peers, malformed = decoded_each(await store.list(keys.PEERS), decode_peer)
        users = [peer.name for peer in peers if name in peer.filters]
        if users:
            raise RefusedError(
                f"bgpfilter {name} is named by bgppeer {', '.join(users)}, whose session would end without it; remove "
                f"it from spec.filters there first"
            )
        if malformed:
            raise RefusedError(f"whether a peer names bgpfilter {name} cannot be told: {way_out(malformed[0])}")
        await store.commit([Delete(keys.filter_rules(name), entry.version), Check(keys.PEERS_REVISION, expected)])

    await with_retries(attempt)


def _existing(kind: str, name: str, prefix: str, entries: Mapping[str, Entry]) -> Entry:
    entry = entries.get(prefix + name)
    if entry is None:
        present = ", ".join(key.removeprefix(prefix) for key in entries)
        raise RefusedError(f"{kind} {name} does not exist; there are: {present or 'none'}")
    return entry

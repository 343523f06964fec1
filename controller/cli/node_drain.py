"""Nodes taken out of the way of traffic and put back: the record their agents go by, and waiting for its effect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from controller.agent_client import agent_status
from controller.cli.guarding import with_retries
from controller.datamodel import keys
from controller.datamodel.bgp_records import Drain, decode_drain, encode_drain
from controller.errors import AgentUnavailable, MalformedRecord, RefusedError
from controller.ports import ABSENT, Check, Delete, Put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from controller.ports import Entry, Store

#: How long the agent of this host may take to act on a drain whose time has come, in seconds.
_ACT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.2


async def drain_node(store: Store, name: str, *, grace_seconds: float, now: float) -> tuple[Drain, bool]:
    """Return the drain the node is under, and whether it is new: one that is there stays as it is.

    Raises `RefusedError` for a node that does not exist, `ConflictError` when others kept writing.
    """

    async def attempt() -> tuple[Drain, bool]:
        found = await store.get([keys.node(name), keys.drain(name)])
        if keys.node(name) not in found:
            raise await unknown_node(store, name)
        entry = found.get(keys.drain(name))
        present = _drain_in(name, entry)
        if present is not None:
            return present, False
        drain = Drain(name, now, grace_seconds)
        put = Put(keys.drain(name), encode_drain(drain), ABSENT if entry is None else entry.version)
        # With the check no drain is left behind for a node that is being deleted.
        await store.commit([put, Check(keys.node(name), found[keys.node(name)].version)])
        return drain, True

    return await with_retries(attempt)


async def undrain_node(store: Store, name: str) -> bool:
    """Take the node's drain away, also one that cannot be read, and return whether there was one.

    Raises `RefusedError` for a node that does not exist, `ConflictError` when others kept writing.
    """

    async def attempt() -> bool:
        found = await store.get([keys.node(name), keys.drain(name)])
        if keys.drain(name) not in found:
            if keys.node(name) not in found:
                raise await unknown_node(store, name)
            return False
        await store.commit([Delete(keys.drain(name), found[keys.drain(name)].version)])
        return True

    return await with_retries(attempt)


async def read_drain(store: Store, name: str) -> Drain | None:
    """Return the drain a node is under, if its record is there and can be read."""
    return _drain_in(name, (await store.get([keys.drain(name)])).get(keys.drain(name)))


def await_withdrawal(
    drain: Drain,
    present: Callable[[], Drain | None],
    socket: Path,
    *,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Return when the drained node announces nothing: True if its agent said so, False if only the clock did.

    Its agent is asked if it is the one behind `socket`. `present` reads the drain from the store. Raises `RefusedError`
    when the drain is taken away or replaced meanwhile, `AgentUnavailable` when the agent does not act on it in time.
    """
    end = drain.since + drain.grace_seconds
    while (left := end - clock()) > 0:
        _refuse_if_gone(drain, present())
        pause(min(left, 1.0))
    deadline = clock() + _ACT_SECONDS
    while (phase := _phase_told(drain.node, socket)) not in (None, "drained"):
        _refuse_if_gone(drain, present())
        if clock() > deadline:
            raise AgentUnavailable(
                f"node {drain.node}: its agent still says {phase or 'not drained'!r} {_ACT_SECONDS:.0f} s after the "
                f"time to withdraw; see `tortiectl node status` and the agent's log"
            )
        pause(_POLL_SECONDS)
    _refuse_if_gone(drain, present())
    return phase is not None


def _phase_told(node: str, socket: Path) -> str | None:
    """Return what the node's agent says of its drain; None if it is not the agent of this host."""
    try:
        found = agent_status(socket)
    except AgentUnavailable:
        return None
    return found.drain if found.node == node else None


def _refuse_if_gone(drain: Drain, present: Drain | None) -> None:
    if present != drain:
        raise RefusedError(f"node {drain.node} was undrained or drained anew meanwhile; nothing is waited for any more")


def _drain_in(name: str, entry: Entry | None) -> Drain | None:
    try:
        return None if entry is None else decode_drain(keys.drain(name), entry.value)
    except MalformedRecord:
        return None  # it is replaced


async def unknown_node(store: Store, name: str) -> RefusedError:
    """Return the refusal of a node that does not exist, with the names of those that do."""
    present = ", ".join(key.removeprefix(keys.NODES) for key in await store.list(keys.NODES))
    return RefusedError(f"node {name} does not exist; the nodes are: {present or 'none'}")

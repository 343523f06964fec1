"""The store in Consul's key-value store: for a cluster.

A watch is a blocking query (https://developer.hashicorp.com/consul/api-docs/features/blocking). What it does about
their edges:
- The first read of a watch, and the first after any failure, is `consistent`: a server that was just elected may
  answer other reads before it has applied its log, and the keys it does not know yet would look deleted.
- An index that went back means a server that was restored or lags behind; its answer is dropped, and read again so.
- A read without permission looks empty. Before emptiness is believed, one key is asked for by itself, which a token
  without the permission may not.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from controller.errors import StoreDenied, StoreUnavailable
from controller.ports import MAX_OPERATIONS
from controller.store import consul_format
from controller.store.backoff import Backoff
from controller.store.consul_http import ConsulClient
from controller.store.difference import Delivered
from controller.store.transaction import check_keys, check_operations, check_prefix

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Sequence

    from controller.ports import Entry, Operation, Version, WatchEvent
    from controller.store.consul_access import ConsulAccess

_TRANSACTION: Final = "/v1/txn"
_KEYS: Final = "/v1/kv/"
_CONSISTENT: Final = [("consistent", "1")]
_RECURSE: Final = [("recurse", "1")]
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_WAIT_SECONDS: Final = 30
#: Consul adds up to a sixteenth to the wait, so that the queries of many clients do not end together.
_LONGEST_WAIT_SECONDS: Final = _WAIT_SECONDS * 17 / 16


class ConsulStore:
    """A `Store` in Consul. One event loop uses it; it connects when it is first asked.

    `heard` is called whenever a watch has an answer, also one with nothing new.
    """

    def __init__(
        self, access: ConsulAccess, *, timeout_seconds: float = 5.0, heard: Callable[[], None] = lambda: None
    ) -> None:
        self._heard = heard
        self._client = ConsulClient(access, timeout_seconds=timeout_seconds)
        self._closed = asyncio.Event()

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries of those keys that exist; of one instant for up to MAX_OPERATIONS keys."""
        check_keys(keys)
        if len(keys) == 1:
            return await self._get_one(next(iter(keys)))
        found: dict[str, Entry] = {}
        rest = iter(keys)
        while batch := list(islice(rest, MAX_OPERATIONS)):
            answer = await self._client.put(_TRANSACTION, _CONSISTENT, consul_format.reading(batch))
            if answer.status == _CONFLICT:
                raise consul_format.failure(answer.body, batch)
            read = consul_format.entries_read(answer.body)
            found |= {key: read[key] for key in batch if key in read}
            if not read:
                await self._get_one(batch[0])
        return found

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Return every entry whose key starts with the prefix, sorted by key, as of one instant."""
        check_prefix(prefix)
        _, entries = await self._read_prefix(prefix, 0)
        return entries

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Apply all operations or none, in one transaction; the version of every key written."""
        check_operations(operations)
        answer = await self._client.put(_TRANSACTION, _CONSISTENT, consul_format.transaction(operations))
        if answer.status == _CONFLICT:
            raise consul_format.failure(answer.body, consul_format.step_keys(operations))
        return consul_format.versions(answer.body, operations)

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Deliver a `Snapshot` of the prefix, then `Changes`; ends when the store is closed."""
        check_prefix(prefix)
        delivered = Delivered()
        backoff = Backoff()
        index = 0
        event: WatchEvent | None
        while not self._closed.is_set():
            pause_seconds = 0.0
            try:
                seen, entries = await self._read_prefix(prefix, index)
                event = delivered.advance(entries) if seen >= index else None
                index = seen if seen >= index else 0
                backoff.reset()
                self._heard()
            except (StoreUnavailable, StoreDenied) as error:
                index = 0
                pause_seconds = backoff.next_seconds()
                event = delivered.interrupt(str(error))
            if event is not None and not self._closed.is_set():
                yield event
            if pause_seconds:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_seconds):
                        await self._closed.wait()

    async def close(self) -> None:
        """Close all connections and end the watches."""
        self._closed.set()
        await self._client.close()

    async def _get_one(self, key: str) -> dict[str, Entry]:
        answer = await self._client.get(_KEYS + key, _CONSISTENT)
        return {} if answer.status == _NOT_FOUND else consul_format.entries(answer.body)

    async def _read_prefix(self, prefix: str, index: int) -> tuple[int, dict[str, Entry]]:
        """Return the prefix's index and entries, once that is past `index` or the wait is over; at once if it is 0."""
        if index:
            params = [*_RECURSE, ("index", str(index)), ("wait", f"{_WAIT_SECONDS}s")]
            answer = await self._client.get(_KEYS + prefix, params, wait_seconds=_LONGEST_WAIT_SECONDS)
        else:
            answer = await self._client.get(_KEYS + prefix, _RECURSE + _CONSISTENT)
        if answer.status != _NOT_FOUND:
            return answer.index, consul_format.entries(answer.body)
        if prefix:
            await self._client.get(_KEYS + prefix, _CONSISTENT)
        return answer.index, {}

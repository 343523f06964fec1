"""Writes that rest on several records: none of them may change meanwhile.

Every write of a record that others are compared with also writes a revision, against the version it was read at before
those others were read. Whoever loses that race reads again, and then sees what the other has written.
"""

from __future__ import annotations

import json
import random
import uuid
from asyncio import sleep
from typing import TYPE_CHECKING, Final, TypeVar

from controller.datamodel import keys
from controller.errors import ConflictError
from controller.ports import ABSENT, Put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.ports import Store, Version

T = TypeVar("T")
_ATTEMPTS: Final = 8
_LONGEST_PAUSE_SECONDS: Final = 0.2


async def revision(store: Store, key: str) -> Version:
    """Return the version of the revision under this key; read it before the records it guards."""
    entry = (await store.get([key])).get(key)
    return ABSENT if entry is None else entry.version


def next_revision(key: str, expected: Version) -> Put:
    """Return the write of a revision; Consul gives a value written twice no new version, so it is unique."""
    return Put(key, json.dumps({"revision": uuid.uuid4().hex}).encode(), expected)


def new_anchor() -> Put:
    """Return the write of the cluster's anchor; no other contents of a store will ever have one of this value."""
    return Put(keys.CLUSTER_ANCHOR, json.dumps({"contents": uuid.uuid4().hex}).encode(), ABSENT)


async def with_retries(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what an attempt returns that meets no conflict; raises the last of several `ConflictError`."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await attempt()
        except ConflictError:
            await sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311  jitter is no secret
    return await attempt()

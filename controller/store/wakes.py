"""Who waits for which prefix: how a write wakes the watches of its own process at once."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Wakes:
    """The watches of one store object, each with the prefix it follows."""

    def __init__(self) -> None:
        self._prefix_by_wake: dict[asyncio.Event, str] = {}

    @contextmanager
    def following(self, prefix: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever a key under the prefix was written, for as long as the context lasts."""
        wake = asyncio.Event()
        self._prefix_by_wake[wake] = prefix
        try:
            yield wake
        finally:
            del self._prefix_by_wake[wake]

    def written(self, keys: Collection[str]) -> None:
        """Wake those whose prefix one of the keys starts with."""
        for wake, prefix in self._prefix_by_wake.items():
            if any(key.startswith(prefix) for key in keys):
                wake.set()

    def all(self) -> None:
        """Wake every watch: the store was closed."""
        for wake in self._prefix_by_wake:
            wake.set()

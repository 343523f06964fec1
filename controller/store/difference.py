"""What a watch has delivered, and what it must deliver next: two maps and the difference between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.ports import Changes, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.ports import Entry


class Delivered:
    """Everything under one prefix as the consumer of a watch knows it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] | None = None

    def advance(self, entries: Mapping[str, Entry]) -> Snapshot | Changes | None:
        """Take the entries as delivered, and return the event that says so; None when the consumer knows it all."""
        known, self._entries = self._entries, dict(entries)
        if known is None:
            return Snapshot(self._entries.copy())
        written = {key: entry for key, entry in entries.items() if known.get(key) != entry}
        deleted = frozenset(known.keys() - entries.keys())
        return Changes(written, deleted) if written or deleted else None

"""What a watch has delivered, and what it must deliver next: two maps and the difference between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.ports import Changes, Interrupted, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.ports import Entry


class Delivered:
    """Everything under one prefix as the consumer of a watch knows it, and whether it knows of an outage."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] | None = None
        self._interrupted = False

    def advance(self, entries: Mapping[str, Entry]) -> Snapshot | Changes | None:
        """Take the entries as delivered, and return the event that says so; None when there is nothing to say.

        After an interruption there is always something to say, if only that it is over.
        """
        known, self._entries = self._entries, dict(entries)
        resumed, self._interrupted = self._interrupted, False
        if known is None:
            return Snapshot(self._entries.copy())
        written = {key: entry for key, entry in entries.items() if known.get(key) != entry}
        deleted = frozenset(known.keys() - entries.keys())
        return Changes(written, deleted) if written or deleted or resumed else None

    def interrupt(self, reason: str) -> Interrupted | None:
        """Return the event that tells of an outage; None when the consumer knows of it already."""
        if self._interrupted:
            return None
        self._interrupted = True
        return Interrupted(reason)

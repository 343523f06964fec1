"""What an assigner is told from outside, the rules and news of its share, kept until no commit is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.ports import Snapshot

if TYPE_CHECKING:
    from collections.abc import Collection

    from controller.assignment.knowledge import Knowledge, Rules
    from controller.ports import Changes, Entry
    from ipam.address import IPNetwork


class News:
    """What came since it was last taken; of each key only the latest."""

    def __init__(self) -> None:
        self._rules: Rules | None = None
        self._share: dict[str, Entry | None] = {}

    def set_rules(self, rules: Rules) -> None:
        """Keep these as all the rules there are."""
        self._rules = rules

    def observe_share(self, event: Snapshot | Changes, known_keys: Collection[str]) -> None:
        """Keep what the watch of the share delivered; a snapshot without one of the known keys says that it is gone."""
        if isinstance(event, Snapshot):
            self._share = {**dict.fromkeys(known_keys), **event.entries}
        else:
            self._share |= {**event.written, **dict.fromkeys(event.deleted)}

    def take(self, knowledge: Knowledge) -> tuple[Knowledge, Collection[IPNetwork]]:
        """Return the knowledge under the latest rules, and the blocks that the share says something new of."""
        rules, self._rules = self._rules, None
        share, self._share = self._share, {}
        if rules is not None:
            knowledge = knowledge.with_rules(rules)
        written = {key: entry for key, entry in share.items() if entry is not None}
        return knowledge, knowledge.outdated_by(written, share.keys() - written.keys())

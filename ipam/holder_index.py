"""What follows from a block's holders and is asked for often: carried along with each change, not counted anew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ipam.block import Holder

#: As records are written: whatever is not ASCII takes up to twelve bytes a character.
_ENCODER: Final = json.JSONEncoder()


@dataclass(frozen=True, slots=True)
class HolderIndex:
    """The ordinals held under each handle, lowest first, and how long the texts of all holders are in JSON."""

    ordinals_by_handle: Mapping[str, tuple[int, ...]]
    text_bytes: int

    @classmethod
    def of(cls, holders: Mapping[int, Holder]) -> HolderIndex:
        """Return the index of these holders by ordinal."""
        ordinals_by_handle: dict[str, tuple[int, ...]] = {}
        for ordinal in sorted(holders):
            handle = holders[ordinal].handle
            ordinals_by_handle[handle] = (*ordinals_by_handle.get(handle, ()), ordinal)
        return cls(ordinals_by_handle, sum(map(_text_bytes, holders.values())))

    def with_holder(self, ordinal: int, holder: Holder) -> HolderIndex:
        """Return the index of one holder more."""
        ordinals = tuple(sorted((*self.ordinals_by_handle.get(holder.handle, ()), ordinal)))
        return HolderIndex({**self.ordinals_by_handle, holder.handle: ordinals}, self.text_bytes + _text_bytes(holder))

    def without(self, gone: Mapping[int, Holder]) -> HolderIndex:
        """Return the index without some of the holders."""
        left = dict(self.ordinals_by_handle)
        for handle in {holder.handle for holder in gone.values()}:
            ordinals = _other_than(left.pop(handle), gone)
            if ordinals:
                left[handle] = ordinals
        return HolderIndex(left, self.text_bytes - sum(map(_text_bytes, gone.values())))


def _other_than(ordinals: tuple[int, ...], gone: Collection[int]) -> tuple[int, ...]:
    return tuple(ordinal for ordinal in ordinals if ordinal not in gone)


def _text_bytes(holder: Holder) -> int:
    texts = (holder.handle, holder.node, holder.workload, holder.namespace, holder.interface)
    return json_bytes("".join(texts))


def json_bytes(text: str) -> int:
    """Return how long a text is in a record, quotes included."""
    return len(_ENCODER.encode(text))

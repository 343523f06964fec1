"""Requests that differ in one place only, packed together; pure.

Of ten thousand routes nearly all lead through the same next hop and have prefixes of one length: their messages are one
message with other addresses. Repeating it and laying all addresses over the copies takes a tenth of the time that
packing each takes.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WORD_BYTES: Final = 4
#: struct nlmsghdr, and its number (include/uapi/linux/netlink.h).
_HEADER_BYTES: Final = 16
_SEQUENCE_WORD: Final = 2
#: Two of these are less than a socket sends at once.
_MOST_BYTES: Final = 64 * 1024


class Series(NamedTuple):
    """Requests of one type with the same flags, and the same body but for some bytes from `position` on.

    `values` has these bytes of the first request, the second, and so on, `size` of each; position, size and the length
    of the body are multiples of four.
    """

    kind: int
    flags: int
    body: bytes
    position: int
    size: int
    values: bytes

    @property
    def request_count(self) -> int:
        """How many requests these are."""
        return len(self.values) // self.size


def portions(series: Iterable[Series]) -> Iterator[Series]:
    """Yield the same requests in series of at most 64 KiB, or of one request."""
    for each in series:
        most = max(1, _MOST_BYTES // (_HEADER_BYTES + len(each.body))) * each.size
        if len(each.values) <= most:
            yield each
            continue
        for start in range(0, len(each.values), most):
            yield each._replace(values=each.values[start : start + most])


def repeated(message: bytes, series: Series, first_sequence: int) -> bytearray:
    """Return the messages, numbered from `first_sequence` on; `message` is one of them, header and body."""
    _, _, _, position, size, values = series
    count, step = len(values) // size, len(message) // _WORD_BYTES
    messages = bytearray(message * count)
    words = memoryview(messages).cast("I")
    words[_SEQUENCE_WORD::step] = memoryview(array("I", range(first_sequence, first_sequence + count)))
    own, first = memoryview(values).cast("I"), (_HEADER_BYTES + position) // _WORD_BYTES
    for word in range(size // _WORD_BYTES):
        words[first + word :: step] = own[word :: size // _WORD_BYTES]
    return messages

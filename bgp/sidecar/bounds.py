"""What a peer can make ExaBGP 5.0.15 decode, tell and keep, bounded: a single one may have been taken over.

By itself ExaBGP takes messages of 64 KiB (RFC 8654) that are nearly all attributes, sorts 16,000 communities once for
each of them, and tells and keeps the result for every prefix. These are replacements of attributes of ExaBGP's classes,
as the repairs are.
"""

from __future__ import annotations

from typing import Any, Final

from exabgp.bgp.message.update.attribute.attribute import Attribute, TreatAsWithdraw
from exabgp.bgp.message.update.attribute.attributes import Attributes

from bgp.exabgp_events import LONG_ATTRIBUTES

#: How many octets the attributes of one update may take: 500 communities, or as many ASes.
MOST_OCTETS: Final = 2_048
#: The length of an attribute has two octets if this flag is set (RFC 4271, section 4.3).
_EXTENDED_LENGTH: Final = 0x10
#: The types of attributes that are needed to know of which prefixes an update is.
_WITH_PREFIXES: Final = (bytes([Attribute.CODE.MP_REACH_NLRI]), bytes([Attribute.CODE.MP_UNREACH_NLRI]))


class _Long(TreatAsWithdraw):  # type: ignore[misc]  # ExaBGP has no types
    """Makes ExaBGP take what an update announces for withdrawn."""

    def __str__(self) -> str:
        return LONG_ATTRIBUTES


def apply() -> None:
    """Set every bound; before ExaBGP starts, and once."""
    refuse_long_attributes()


def refuse_long_attributes() -> None:
    """Take an update for the withdrawal of its prefixes if its attributes are too long (RFC 7606, section 2).

    The session goes on, and none of the attributes is decoded.
    """
    parse = Attributes.parse

    def parse_bounded(self: Any, data: Any, direction: Any, negotiated: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        if len(data) > MOST_OCTETS:
            prefixes, others = _apart(bytes(data))
            if others > MOST_OCTETS:
                self.add(_Long())
                data = prefixes
        return parse(self, data, direction, negotiated)

    Attributes.parse = parse_bounded


def _apart(data: bytes) -> tuple[bytes, int]:
    """Return those attributes that hold prefixes, and how many octets the others take."""
    prefixes = []
    at, others = 0, 0
    while at < len(data):
        header = 4 if data[at] & _EXTENDED_LENGTH else 3
        after = at + header + int.from_bytes(data[at + 2 : at + header])
        if data[at + 1 : at + 2] in _WITH_PREFIXES:
            prefixes.append(data[at:after])
        else:
            others += after - at
        at = after
    return b"".join(prefixes), others

"""Learned prefixes go through ExaBGP 5.0.15 as they came: by the row, not one by one.

ExaBGP makes an object of every prefix, keeps it, and writes a JSON object for it: of a node that joins, that was half
of what its first routes waited for. Now all prefixes that one field of an update holds are one object, with the octets
they came in; attributes and everything that can be wrong with them stay with ExaBGP. The Adj-RIB-In is answered in the
same form. These are replacements of attributes of ExaBGP's classes, as the repairs are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from exabgp.bgp.message.action import Action
from exabgp.bgp.message.notification import Notify
from exabgp.bgp.message.update.nlri.nlri import NLRI
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import NoNextHop
from exabgp.rib.change import Change
from exabgp.rib.incoming import IncomingRIB

from bgp import nlri
from bgp.exabgp_events import REFUSED_MARK
from bgp.holding import Holding

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION: Final = {AFI.ipv4: 4, AFI.ipv6: 6}
#: "Invalid Network Field" of an update (RFC 4271, section 6.3).
_INVALID_NETWORK_FIELD: Final = (3, 10)
#: Under what ExaBGP's Adj-RIB-In has what was learned.
_LEARNED: Final = "learned"
#: So long the attributes of a route are at most, as JSON, if nobody means harm.
_COMMON_CHARACTERS: Final = 512


class Row(NLRI):  # type: ignore[misc]  # ExaBGP has no types
    """What one field of an update holds: prefixes of one family and with one action, each by itself in `parts`.

    ExaBGP makes a withdrawal of an announcement that it refuses (RFC 7606): an event then has a mark before it.
    """

    def __init__(self, afi: Any, safi: Any, action: Any, parts: list[bytes]) -> None:  # noqa: ANN401 - ExaBGP's
        super().__init__(afi, safi, action)
        self.parts = parts
        self.nexthop = NoNextHop
        self._was = action

    def json(self, compact: bool | None = None) -> str:  # noqa: ARG002, FBT001 - ExaBGP's signature
        """Return what an event holds of it."""
        mark = "" if self.action == self._was else REFUSED_MARK
        return f'"{mark}{b"".join(self.parts).hex()}"'

    def as_dict(self) -> dict[str, object]:
        """Return what an answer holds of it."""
        family = {"afi": str(self.afi), "safi": str(self.safi)}
        return {"prefixes": b"".join(self.parts).hex(), "nexthop": str(self.nexthop), "family": family}


class _Told:
    """What a row was announced with: its family, its next hop and its attributes as JSON."""

    __slots__ = ("afi", "nexthop", "safi", "text")

    def __init__(self, row: Row, text: str) -> None:
        self.afi, self.safi, self.nexthop = row.afi, row.safi, row.nexthop
        self.text = text

    def weight(self) -> int:
        """Return how much it weighs beside its prefixes."""
        return len(self.text) // _COMMON_CHARACTERS

    def as_dict(self) -> object:
        """Return what an answer holds of the attributes."""
        return json.loads(f"{{{self.text}}}")


def apply() -> None:
    """Make the replacements; before ExaBGP starts, once, and after those of `bgp.sidecar.haste`."""
    take_prefixes_by_the_row()
    keep_prefixes_by_the_row()


def take_prefixes_by_the_row() -> None:
    """Read all prefixes of a unicast family at once; a row that is none ends the session, as one prefix would."""
    unpack = NLRI.unpack_nlri.__func__

    def unpack_row(cls: Any, afi: Any, safi: Any, data: Any, *rest: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        action, addpath = rest
        version = _VERSION.get(afi)
        if version is None or safi != SAFI.unicast or addpath:
            return unpack(cls, afi, safi, data, action, addpath)
        try:
            parts = nlri.split(version, bytes(data))
        except nlri.MalformedPrefixes as error:
            raise Notify(*_INVALID_NETWORK_FIELD, str(error)) from None
        return Row(AFI.create(afi), SAFI.create(safi), action, parts), b""

    NLRI.unpack_nlri = classmethod(unpack_row)


def keep_prefixes_by_the_row() -> None:
    """Keep for each learned prefix what it was announced with, and show together what was announced together.

    What is kept is bounded, and attributes are kept as the text that events have of them, which takes a tenth of the
    room.
    """
    update = IncomingRIB.update_cache

    def update_cache(self: Any, change: Any) -> None:  # noqa: ANN401 - ExaBGP's
        row = change.nlri
        if not isinstance(row, Row):
            update(self, change)
            return
        # In the place of what ExaBGP keeps, so that it goes with that.
        learned = self._seen.get(_LEARNED)
        if learned is None:
            learned = self._seen[_LEARNED] = Holding[_Told](_Told.weight)
        if row.action == Action.ANNOUNCE:
            learned.put(_VERSION[row.afi], row.parts, _Told(row, change.attributes.json()))
        else:
            learned.drop(_VERSION[row.afi], row.parts)

    def cached_changes(self: Any, families: Any = None, actions: Any = None) -> Iterator[Any]:  # noqa: ANN401, ARG001 - ExaBGP's
        learned = self._seen.get(_LEARNED)
        for _, told, parts in () if learned is None else learned.alike():
            row = Row(told.afi, told.safi, Action.ANNOUNCE, parts)
            row.nexthop = told.nexthop
            yield Change(row, told)

    IncomingRIB.update_cache = update_cache
    IncomingRIB.cached_changes = cached_changes

"""Learned prefixes go through ExaBGP 5.0.15 as they came: by the row, not one by one.

ExaBGP makes an object of every prefix, keeps it, and writes a JSON object for it: of a node that joins, that was half
of what its first routes waited for. Now all prefixes that one field of an update holds are one object, with the octets
they came in; attributes and everything that can be wrong with them stay with ExaBGP. The Adj-RIB-In is answered in the
same form. These are replacements of attributes of ExaBGP's classes, as the repairs are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exabgp.bgp.message.action import Action
from exabgp.bgp.message.notification import Notify
from exabgp.bgp.message.update.nlri.nlri import NLRI
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import NoNextHop
from exabgp.rib.change import Change
from exabgp.rib.incoming import IncomingRIB

from bgp import nlri

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION: Final = {AFI.ipv4: 4, AFI.ipv6: 6}
#: "Invalid Network Field" of an update (RFC 4271, section 6.3).
_INVALID_NETWORK_FIELD: Final = (3, 10)


class Row(NLRI):  # type: ignore[misc]  # ExaBGP has no types
    """What one field of an update holds: prefixes of one family and with one action, each by itself in `parts`."""

    def __init__(self, afi: Any, safi: Any, action: Any, parts: list[bytes]) -> None:  # noqa: ANN401 - ExaBGP's
        super().__init__(afi, safi, action)
        self.parts = parts
        self.nexthop = NoNextHop

    def json(self, compact: bool | None = None) -> str:  # noqa: ARG002, FBT001 - ExaBGP's signature
        """Return what an event holds of it."""
        return f'"{b"".join(self.parts).hex()}"'

    def as_dict(self) -> dict[str, object]:
        """Return what an answer holds of it."""
        family = {"afi": str(self.afi), "safi": str(self.safi)}
        return {"prefixes": b"".join(self.parts).hex(), "nexthop": str(self.nexthop), "family": family}


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
    """Keep for each learned prefix what it was announced with, and show together what was announced together."""
    update = IncomingRIB.update_cache

    def update_cache(self: Any, change: Any) -> None:  # noqa: ANN401 - ExaBGP's
        row = change.nlri
        if not isinstance(row, Row):
            update(self, change)
            return
        kept = self._seen.setdefault(row.family().afi_safi(), {})
        if row.action == Action.ANNOUNCE:
            kept.update(dict.fromkeys(row.parts, change))
        else:
            for part in row.parts:
                kept.pop(part, None)

    def cached_changes(self: Any, families: Any = None, actions: Any = None) -> Iterator[Any]:  # noqa: ANN401, ARG001 - ExaBGP's
        for kept in self._seen.values():
            parts_by_change: dict[int, tuple[Any, list[bytes]]] = {}
            for part, change in kept.items():
                parts_by_change.setdefault(id(change), (change, []))[1].append(part)
            for change, parts in parts_by_change.values():
                row = Row(change.nlri.afi, change.nlri.safi, Action.ANNOUNCE, parts)
                row.nexthop = change.nlri.nexthop
                yield Change(row, change.attributes)

    IncomingRIB.update_cache = update_cache
    IncomingRIB.cached_changes = cached_changes

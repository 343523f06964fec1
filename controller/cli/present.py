"""One resource as it is in the store, to be changed: its document, and the record that the change rests on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bgp.configuration import BgpConfiguration
from controller.cli.reading import way_out
from controller.cli.stored import document_in, key_of
from controller.cli.wishes import Wish, wish_of
from controller.errors import MalformedRecord, RefusedError
from controller.ports import ABSENT
from controller.resources import resource_document
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.cli.kinds import Kind
    from controller.ports import Entry, Store
    from controller.resources import Writable

#: What holds where nobody has written a configuration.
_DEFAULTS: Final[Mapping[str, Writable]] = {
    "IPAMConfiguration": IpamConfiguration(),
    "BGPConfiguration": BgpConfiguration(),
}


@dataclass(frozen=True, slots=True)
class Present:
    """A resource's document, and its record; None for a configuration of which nobody has written one."""

    kind: Kind
    name: str
    document: dict[str, object]
    entry: Entry | None

    def changed_to(self, document: object) -> Wish:
        """Return the wish that it be as this document says, at the version that stands there, if one does.

        Raises `RefusedError` for a document that breaks a rule or is another resource's.
        """
        title = self.kind.title(self.name)
        wish = wish_of(document, title)
        if key_of(wish.resource) != self.kind.key(self.name):
            raise RefusedError(
                f"{title}: it would be {wish.title}; kind and name stay, create another resource instead"
            )
        return replace(wish, version=ABSENT) if self.entry is None else wish


async def read_present(store: Store, kind: Kind, name: str) -> Present:
    """Return a resource; raises `RefusedError` when there is none, when it cannot be read or is no resource."""
    if kind.name == "Block":
        raise RefusedError("blocks are written by agents alone; see `tortiectl ipam --help`")
    key = kind.key(name)
    entry = (await store.get([key])).get(key)
    if entry is not None:
        try:
            return Present(kind, name, document_in(key, entry.value, entry.version), entry)
        except MalformedRecord as error:
            raise RefusedError(way_out(error)) from error
    if kind.single:
        return Present(kind, name, resource_document(_DEFAULTS[kind.name]), None)
    raise RefusedError(f"{kind.title(name)} does not exist; see `tortiectl get {kind.many}`")

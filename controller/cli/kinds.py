"""The kinds of resources as they are named on the command line: `pool`, `pools`, `pool/default`, `all`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from controller.datamodel import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Every kind that people write; of nodes and blocks there may be very many.
ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind: its name in documents, on the command line (one and many), by other names, and where its records lie.

    Of a `single` kind there is one resource, with one key.
    """

    name: str
    one: str
    many: str
    prefix: str
    others: tuple[str, ...] = ()
    single: bool = False
    by_people: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """Everything that the kind is called."""
        return (self.one, self.many, *self.others)

    def key(self, name: str) -> str:
        """Return the key of the record of this name."""
        return self.prefix if self.single else self.prefix + name.replace("/", "-")

    def title(self, name: str) -> str:
        """Return how one resource is called in what is printed."""
        return f"{self.one} {name}"


KINDS: Final = (
    Kind("Pool", "pool", "pools", keys.POOLS, ("ippool", "ippools")),
    Kind("Reservation", "reservation", "reservations", keys.RESERVATIONS, ("ipreservation", "ipreservations")),
    Kind(
        "IPAMConfiguration",
        "ipamconfiguration",
        "ipamconfigurations",
        keys.IPAM_CONFIGURATION,
        ("ipamconfig",),
        single=True,
    ),
    Kind(
        "BGPConfiguration", "bgpconfiguration", "bgpconfigurations", keys.BGP_CONFIGURATION, ("bgpconfig",), single=True
    ),
    Kind("BGPPeer", "bgppeer", "bgppeers", keys.PEERS, ("peer", "peers")),
    Kind("BGPFilter", "bgpfilter", "bgpfilters", keys.FILTERS, ("filter", "filters")),
    Kind("Node", "node", "nodes", keys.NODES, by_people=False),
    Kind("Block", "block", "blocks", keys.BLOCKS, by_people=False),
)
BY_NAME: Final = {kind.name: kind for kind in KINDS}
_BY_WORD: Final = {word: kind for kind in KINDS for word in kind.words}


@dataclass(frozen=True, slots=True)
class Named:
    """What was named on the command line: the resources of a kind with these names, or all of it without any."""

    kind: Kind
    names: tuple[str, ...] = ()


def kind_called(word: str) -> Kind:
    """Return the kind that is called so, in upper or lower case; raises click's `UsageError`."""
    kind = _BY_WORD.get(word.lower())
    if kind is None:
        raise click.UsageError(f"{word!r} is no kind of resource; the kinds are: {', '.join(k.many for k in KINDS)}")
    return kind


def named(arguments: Sequence[str]) -> list[Named]:
    """Return what these arguments name: KIND [NAME...], KIND,KIND, KIND/NAME..., or `all`.

    Raises click's `UsageError`.
    """
    first, *names = arguments
    if "/" in first:
        return list(_joined(arguments))
    kinds = list(_kinds(first))
    if names and len(kinds) > 1:
        raise click.UsageError(f"{first!r} names several kinds; write each as KIND/NAME, as pool/{names[0]}")
    return [_checked(kind, tuple(names)) for kind in kinds]


def one_named(arguments: Sequence[str]) -> tuple[Kind, str]:
    """Return the one resource that people write which these arguments name; raises click's `UsageError`."""
    found = named(arguments)
    if len(found) != 1 or (len(found[0].names) != 1 and not found[0].kind.single):
        raise click.UsageError("name one resource, as pool/default")
    return found[0].kind, "default" if found[0].kind.single else found[0].names[0]


def _kinds(text: str) -> Iterable[Kind]:
    words = text.lower().split(",")
    found = [[kind for kind in KINDS if kind.by_people] if word == ALL else [kind_called(word)] for word in words]
    return dict.fromkeys(kind for kinds in found for kind in kinds)


def _joined(arguments: Sequence[str]) -> Iterator[Named]:
    names_by_kind: dict[Kind, list[str]] = {}
    for argument in arguments:
        word, slash, name = argument.partition("/")
        if not slash or not name:
            raise click.UsageError(f"{argument!r}: the others are written as KIND/NAME; write this one so too")
        names_by_kind.setdefault(kind_called(word), []).append(name)
    for kind, names in names_by_kind.items():
        yield _checked(kind, tuple(names))


def _checked(kind: Kind, names: tuple[str, ...]) -> Named:
    if kind.single and any(name != "default" for name in names):
        raise click.UsageError(f"there is one {kind.one}, and its name is default; leave the name out")
    return Named(kind, tuple(dict.fromkeys(names)))

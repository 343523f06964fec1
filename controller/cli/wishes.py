"""What is to be written, and where that stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.errors import RefusedError
from controller.ports import Version
from controller.resources import kind_and_name, parse_resource, written_version

if TYPE_CHECKING:
    from controller.resources import Resource


@dataclass(frozen=True, slots=True)
class Wish:
    """A resource as it is to be. `place` says where that is written: file and document, or a resource's name.

    `version` is that of the record it was made from, ABSENT where there was none, None if it does not say.
    """

    resource: Resource
    place: str
    version: Version | None = None

    @property
    def title(self) -> str:
        """What the resource is called."""
        kind, name = kind_and_name(self.resource)
        return f"{kind.lower()} {name}"


def wish_of(document: object, place: str) -> Wish:
    """Return what a document wishes for; raises `RefusedError` that begins with the place."""
    try:
        resource = parse_resource(document)
    except RefusedError as error:
        raise RefusedError(f"{place}: {error}") from None  # not chained: it may hold a password
    version = written_version(document) if isinstance(document, dict) else None
    return Wish(resource, place, None if version is None else Version(version))


def refused_for(mistakes: list[str]) -> RefusedError:
    """Return the refusal that tells all of these mistakes."""
    return RefusedError("\n  ".join(["nothing was written:", *mistakes] if len(mistakes) > 1 else mistakes))

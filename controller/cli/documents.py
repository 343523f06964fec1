"""Files of resources: YAML or JSON, several documents in one, lists of resources taken apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from controller.errors import RefusedError
from controller.resources import kind_and_name, parse_resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from controller.resources import Resource


def resources_in(files: Iterable[str]) -> list[Resource]:
    """Return the resources that the files describe, `-` being standard input.

    Raises `RefusedError` that names file, document and field of every mistake.
    """
    resources: list[Resource] = []
    mistakes: list[str] = []
    place_of: dict[tuple[str, str], str] = {}
    for file in files:
        for place, document in _documents(file):
            try:
                resource = parse_resource(document)
            except RefusedError as error:
                mistakes.append(f"{place}: {error}")
                continue
            kind, name = kind_and_name(resource)
            if (kind, name) in place_of:
                also = place_of[kind, name]
                mistakes.append(f"{place}: metadata.name: {kind.lower()} {name} is also in {also}; keep one")
            place_of[kind, name] = place
            resources.append(resource)
    if mistakes:
        raise RefusedError("\n  ".join(["nothing was written:", *mistakes] if len(mistakes) > 1 else mistakes))
    if not resources:
        raise RefusedError(f"{', '.join(files)}: no resource in it; write at least one document, of kind Pool, say")
    return resources


def _documents(file: str) -> Iterator[tuple[str, object]]:
    shown = "standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
    except OSError as error:
        raise RefusedError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, or nesting without end
        raise RefusedError(f"{shown}: neither YAML nor JSON: {' '.join(str(error).split())}") from error
    for number, document in enumerate(documents, start=1):
        place = f"{shown}: document {number}"
        if document is None:
            continue  # what stands between two `---`
        items = document.get("items") if isinstance(document, dict) else None
        if isinstance(items, list) and str(document.get("kind")).endswith("List"):
            for index, item in enumerate(items):
                yield _named(f"{place}, items[{index}]", item), item
        else:
            yield _named(place, document), document


def _named(place: str, document: object) -> str:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{place} ({name})" if isinstance(name, str) else place

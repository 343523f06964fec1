"""Files of resources: YAML or JSON, several documents in one, lists of resources taken apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from controller.errors import RefusedError
from controller.resources import API_VERSION, parse_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipam.pool import Pool


def pools_in(files: Iterable[str]) -> list[Pool]:
    """Return the pools that the files describe, `-` being standard input.

    Raises `RefusedError` that names file, document and field of every mistake.
    """
    pools: list[Pool] = []
    mistakes: list[str] = []
    place_of: dict[str, str] = {}
    for file in files:
        for place, document in _documents(file):
            try:
                pool = parse_pool(_of_known_kind(document))
            except RefusedError as error:
                mistakes.append(f"{place}: {error}")
                continue
            if pool.name in place_of:
                mistakes.append(f"{place}: metadata.name: pool {pool.name} is also in {place_of[pool.name]}; keep one")
            place_of[pool.name] = place
            pools.append(pool)
    if mistakes:
        raise RefusedError("\n  ".join(["nothing was written:", *mistakes] if len(mistakes) > 1 else mistakes))
    if not pools:
        raise RefusedError(f"{', '.join(files)}: no resource in it; write at least one document of kind Pool")
    return pools


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
        if (
            isinstance(document, dict)
            and document.get("kind") == "PoolList"
            and isinstance(document.get("items"), list)
        ):
            for index, item in enumerate(document["items"]):
                yield _named(f"{place}, items[{index}]", item), item
        else:
            yield _named(place, document), document


def _named(place: str, document: object) -> str:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{place} ({name})" if isinstance(name, str) else place


def _of_known_kind(document: object) -> object:
    if not isinstance(document, dict):
        raise RefusedError("not a mapping; a resource has apiVersion, kind, metadata and spec")
    if document.get("apiVersion") != API_VERSION:
        raise RefusedError(f"apiVersion: {document.get('apiVersion')!r} is not known; write {API_VERSION}")
    if document.get("kind") != "Pool":
        raise RefusedError(f"kind: {document.get('kind')!r} cannot be written; write Pool")
    return document

"""Files of resources: YAML or JSON, several documents in one, lists of resources taken apart, whole directories."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import yaml

from controller.cli.wishes import refused_for, wish_of
from controller.errors import RefusedError
from controller.resources import kind_and_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from controller.cli.wishes import Wish

#: The files of a directory that are read.
_SUFFIXES: Final = (".json", ".yaml", ".yml")


def files_option(*, required: bool = True) -> Callable[[Any], Any]:
    """Return the options `-f` and `-R`, as the arguments `files` and `recursive`."""
    files = click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        required=required,
        metavar="FILE",
        type=click.Path(allow_dash=True),
        help="YAML or JSON, or a directory of such files; - is standard input. May be given repeatedly.",
    )
    recursive = click.option("-R", "--recursive", is_flag=True, help="Also read the directories below a directory.")
    return lambda function: files(recursive(function))


def wishes_in(files: Iterable[str], *, recursive: bool = False) -> list[Wish]:
    """Return what the files wish for, `-` being standard input, a directory standing for the files in it.

    Raises `RefusedError` that names file, document and field of every mistake.
    """
    wishes: list[Wish] = []
    mistakes: list[str] = []
    place_of: dict[tuple[str, str], str] = {}
    for place, document in documents_in(files, recursive=recursive):
        try:
            wish = wish_of(document, place)
        except RefusedError as error:
            mistakes.append(str(error))
            continue
        identity = kind_and_name(wish.resource)
        if identity in place_of:
            mistakes.append(f"{place}: metadata.name: {wish.title} is also in {place_of[identity]}; keep one")
        place_of[identity] = place
        wishes.append(wish)
    if mistakes:
        raise refused_for(mistakes)
    return wishes


def documents_in(files: Iterable[str], *, recursive: bool = False) -> list[tuple[str, object]]:
    """Return every document in these files with the place it stands at; raises `RefusedError` if there is none."""
    paths = [path for file in files for path in _paths(file, recursive=recursive)]
    found = [each for path in paths for each in _documents(path)]
    if not found:
        raise RefusedError(f"{', '.join(files)}: no resource in it; write at least one document, of kind Pool, say")
    return found


def parsed(text: str) -> list[object]:
    """Return the documents of a text in YAML or JSON; raises yaml's `YAMLError`, `ValueError` or `RecursionError`."""
    if text.lstrip().startswith(("{", "[")):
        try:
            # YAML knows JSON, but not with tabs between its tokens.
            return [json.loads(text, object_pairs_hook=_unique)]
        except json.JSONDecodeError:
            pass
    try:
        return list(yaml.load_all(text, _StrictLoader))
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        # The library's own, of a value that is not of the type its tag says: `!!timestamp x`, say.
        raise ValueError(f"a value is not what its tag says ({type(error).__name__}: {error})") from error


def mistake_text(error: Exception) -> str:
    """Return what keeps a text from being read and where, on one line, without the text: a password may stand there."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    return f"{' '.join(filter(None, (error.context, error.problem)))}{place}"


def text_of(file: str) -> str:
    """Return what stands in a file, or comes by standard input; raises `RefusedError`, `ValueError` for no text."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{file}: cannot be read: {error.strerror}") from error


def _paths(file: str, *, recursive: bool) -> Sequence[str]:
    path = Path(file)
    if file == "-" or not path.is_dir():
        return [file]
    found = path.rglob("*") if recursive else path.iterdir()
    return sorted(str(each) for each in found if each.suffix in _SUFFIXES and each.is_file())


def _documents(file: str) -> Iterator[tuple[str, object]]:
    shown = "standard input" if file == "-" else file
    try:
        documents = parsed(text_of(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, or nesting without end
        raise RefusedError(f"{shown}: neither YAML nor JSON: {mistake_text(error)}") from None
    for number, document in enumerate(documents, start=1):
        place = f"{shown}: document {number}"
        if document is None:
            continue  # what stands between two `---`
        items = document.get("items") if isinstance(document, dict) else None
        if isinstance(items, list) and isinstance(document, dict) and str(document.get("kind")).endswith("List"):
            for index, item in enumerate(items):
                yield _named(f"{place}, items[{index}]", item), item
        else:
            yield _named(place, document), document


def _named(place: str, document: object) -> str:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{place} ({name})" if isinstance(name, str) else place


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice; keep one")
    return fields


class _StrictLoader(yaml.SafeLoader):
    """Refuses a field that is there twice, of which YAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  the base class's signature
        """Return the mapping; raises yaml's `ConstructorError` with the place of the second field."""
        seen: set[tuple[str, object]] = set()
        for key, _ in node.value:
            identity = (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key))
            if identity in seen:
                problem = f"{key.value!r} is there twice; keep one"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(identity)
        return super().construct_mapping(node, deep)

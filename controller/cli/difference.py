"""What a write would change, as a unified difference of the documents before and after; no password is in it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import yaml

from controller.resources import resource_document

if TYPE_CHECKING:
    from controller.cli.planning import Change
    from controller.resources import Resource

_HIDDEN, _HIDDEN_ANEW = "***", "*** (another one)"


def difference(change: Change) -> str:
    """Return the lines that go and that come, after two lines that say where each stands; empty if nothing changes."""
    if change.put is None:
        return ""
    before, after = _document(change.before), _document(change.wish.resource)
    _hide_passwords(before, after)
    origin = f"{change.wish.title} in the store" if before else f"no {change.wish.title} that can be read"
    lines = difflib.unified_diff(_lines(before), _lines(after), origin, change.wish.place, lineterm="")
    return "\n".join(lines)


def _document(resource: Resource | None) -> dict[str, Any]:
    return {} if resource is None else resource_document(resource)


def _hide_passwords(before: dict[str, Any], after: dict[str, Any]) -> None:
    was, is_then = before.get("spec", {}), after.get("spec", {})
    anew = "password" in was and was["password"] != is_then.get("password")
    if "password" in was:
        was["password"] = _HIDDEN
    if "password" in is_then:
        is_then["password"] = _HIDDEN_ANEW if anew else _HIDDEN


def _lines(document: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(document, sort_keys=False).splitlines() if document else []

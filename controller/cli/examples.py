"""Examples at the end of a command's help."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C", bound="Callable[..., object]")


def examples(*lines: str) -> Callable[[C], C]:
    """Return a decorator that ends a command's help with these command lines."""

    def decorate(function: C) -> C:
        # A line of \b alone keeps click from filling the paragraph.
        shown = "\n".join(f"  {line}" for line in lines)
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n\b\nExamples:\n{shown}"
        return function

    return decorate

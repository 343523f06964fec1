"""How long to wait before trying again."""

from __future__ import annotations

import random
from typing import Final

_FIRST_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 5.0


class Backoff:
    """Waits that double from 0.1 s to 5 s, each shortened by up to half so that many watches do not return at once."""

    def __init__(self) -> None:
        self._ceiling_seconds = _FIRST_SECONDS

    def next_seconds(self) -> float:
        """Return the next wait."""
        ceiling, self._ceiling_seconds = self._ceiling_seconds, min(2 * self._ceiling_seconds, _LONGEST_SECONDS)
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311  spreads load, guards nothing

    def reset(self) -> None:
        """Start again from the shortest wait."""
        self._ceiling_seconds = _FIRST_SECONDS

"""What has failed and is tried again: told once in the log for each reason, and in the status until it is over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controller.errors import TortieError

log = logging.getLogger(__name__)


class Complaints:
    """The failures that last, each by a constant sentence that says what could not be done."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def tell(self, what: str, error: TortieError) -> None:
        """Note that this failed; a warning in the log the first time, and whenever the reason is another."""
        level = logging.DEBUG if self._reasons.get(what) == str(error) else logging.WARNING
        self._reasons[what] = str(error)
        log.log(level, what, extra={"reason": str(error)})

    def settle(self, what: str) -> None:
        """Note that this works."""
        self._reasons.pop(what, None)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What fails at present and why."""
        return tuple(f"{what}: {reason}" for what, reason in self._reasons.items())

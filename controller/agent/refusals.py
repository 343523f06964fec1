"""Routes that are refused, told in the log once for each peer and rule; how many there are is in the status."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.policy import RejectedRoutes, Rejection
    from ipam.address import IPAddress

log = logging.getLogger(__name__)

#: What has been away for so long is news when it comes again; a peer that flaps is not.
_NEWS_AFTER_SECONDS: Final = 600.0


class Refusals:
    """When which peer last broke which rule; `now` is in seconds on any scale that only grows."""

    def __init__(self) -> None:
        self._last: dict[tuple[IPAddress, Rejection], float] = {}

    def tell(self, rejected: Iterable[RejectedRoutes], now: float) -> None:
        """Log what is refused now and was not within the last ten minutes."""
        self._last = {key: last for key, last in self._last.items() if now - last < _NEWS_AFTER_SECONDS}
        for routes in rejected:
            key = (routes.peer, routes.reason)
            if key not in self._last:
                log.warning(
                    "routes of a peer are refused",
                    extra={
                        "peer": str(routes.peer),
                        "reason": routes.reason.value,
                        "count": routes.count,
                        "examples": [str(prefix) for prefix in routes.examples],
                    },
                )
            self._last[key] = now

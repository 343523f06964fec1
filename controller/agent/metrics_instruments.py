"""What is counted and timed while it happens; what can be read at a scrape is not here (`metrics_families`).

Labels are closed sets: a command, a kind of result, an operation. Never a workload or an address.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from controller.cni.request import Command
from controller.errors import StoreDenied, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.cni.failures import ErrorCode
    from controller.errors import TortieError

#: Upper bounds in seconds: from what a single round trip takes to the deadline of the caller.
_CNI_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STORE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REACHABLE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

#: What failures of a store are called.
_UNAVAILABLE: Final = "unavailable"
_DENIED: Final = "denied"
_REFUSED: Final = "refused"

_SUCCESS: Final = "success"
_OTHER: Final = "other"


class Instruments:
    """The instruments of one agent, in a registry of their own; `clock` is any that only grows, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard_at: float | None = None
        self._commands = frozenset(command.value for command in Command)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._cni_requests = Counter(
            "tortie_cni_requests",
            "Calls of container runtimes that were answered, by command and by success or the name of the error.",
            ["command", "result"],
            registry=self.registry,
        )
        self._cni_seconds = Histogram(
            "tortie_cni_request_seconds",
            "Time from a call's arrival to the end of its work, in seconds.",
            ["command"],
            buckets=_CNI_BUCKETS,
            registry=self.registry,
        )
        self._store_seconds = Histogram(
            "tortie_store_request_seconds",
            "Time a request to the store took, failed ones included, in seconds.",
            ["operation"],
            buckets=_STORE_BUCKETS,
            registry=self.registry,
        )
        self._store_errors = Counter(
            "tortie_store_errors",
            "Requests to the store that failed, and watches that were interrupted; conflicts are no errors.",
            ["operation", "reason"],
            registry=self.registry,
        )
        self._transaction_seconds = Histogram(
            "tortie_ipam_transaction_seconds",
            "Time a transaction of address management took in the store, in seconds.",
            buckets=_STORE_BUCKETS,
            registry=self.registry,
        )
        self.reachable_seconds = Histogram(
            "tortie_workload_reachable_seconds",
            "Time from the commit of an address in the store until this node's kernel has its route and every "
            "established BGP session has been given the announcement that covers it, in seconds.",
            buckets=_REACHABLE_BUCKETS,
            registry=self.registry,
        )
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Make the series of what never happened yet, so that the first time is seen as a change."""
        for command in Command:
            self._cni_requests.labels(command.value, _SUCCESS)
        self._store_errors.labels("watch", _UNAVAILABLE)
        for operation in ("get", "list", "commit"):
            for reason in (_UNAVAILABLE, _DENIED, _REFUSED):
                self._store_errors.labels(operation, reason)

    def cni_answered(self, command: str | None, code: ErrorCode | None, seconds: float) -> None:
        """Count a CNI call; whatever no runtime may ask is one command, `other`."""
        known = command if command in self._commands else _OTHER
        self._cni_requests.labels(known, _SUCCESS if code is None else code.name.lower()).inc()
        self._cni_seconds.labels(known).observe(seconds)

    def store_asked(self, operation: str, seconds: float, error: TortieError | None) -> None:
        """Count a request to the store."""
        if operation != "watch":
            self._store_seconds.labels(operation).observe(seconds)
        if error is not None:
            self._store_errors.labels(operation, _reason(error)).inc()

    def transaction_ended(self, operation: str, seconds: float, _error: TortieError | None) -> None:
        """Take the time of an operation of address management that is a transaction."""
        if operation == "commit":
            self._transaction_seconds.observe(seconds)

    def store_heard(self) -> None:
        """Take note that a watch of the store had an answer."""
        self._heard_at = self._clock()

    @property
    def watch_lag_seconds(self) -> float | None:
        """How long ago a watch of the store had its last answer; None before the first."""
        return None if self._heard_at is None else self._clock() - self._heard_at


def _reason(error: TortieError) -> str:
    match error:
        case StoreUnavailable():
            return _UNAVAILABLE
        case StoreDenied():
            return _DENIED
        case _:
            return _REFUSED

"""What the controller raises, grouped by what the caller should do.

TortieError
├── RefusedError             the request breaks a rule: tell the user, do not retry
│   └── TooManyOperations    a transaction larger than every store takes: split it
├── ConflictError            somebody else wrote first: read again, plan again, retry
├── TransientError           it may work later: back off and retry
│   ├── StoreUnavailable     the store does not answer, or answers with a server error
│   ├── SpeakerUnavailable   the BGP sidecar's socket is not there
│   ├── AgentUnavailable     the agent's socket is not there
│   └── KernelUnavailable    the kernel did not answer a netlink message in time
└── PermanentError           it will not work by trying again: stop that object and report
    ├── StoreDenied          the store refuses the credentials
    ├── MalformedRecord      a record in the store does not decode; names the key
    └── KernelRefused        the kernel refused a message; carries its errno and text
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class TortieError(Exception):
    """Root of everything the controller raises."""


class RefusedError(TortieError):
    """The request breaks a rule; nothing was changed."""


class TooManyOperations(RefusedError):
    """A transaction holds more operations than every store takes."""


class ConflictError(TortieError):
    """A transaction was not applied because a key's version had moved.

    `keys` are those known to have moved; it may be empty when the store does not say.
    """

    def __init__(self, keys: Collection[str]) -> None:
        super().__init__(f"changed by somebody else in the meantime: {', '.join(sorted(keys)) or 'unknown keys'}")
        self.keys = frozenset(keys)


class TransientError(TortieError):
    """It may work later."""


class StoreUnavailable(TransientError):
    """The store does not answer, or answers with a server error."""


class SpeakerUnavailable(TransientError):
    """The BGP sidecar's socket is not there or went away."""


class AgentUnavailable(TransientError):
    """The agent's socket is not there or went away."""


class KernelUnavailable(TransientError):
    """The kernel did not answer a netlink message in time, or its answer was lost."""


class PermanentError(TortieError):
    """Trying again will not help."""


class StoreDenied(PermanentError):
    """The store refuses the credentials or the permission they carry."""


class MalformedRecord(PermanentError):
    """A record in the store does not decode."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"record {key} in the store cannot be read: {reason}")
        self.key = key
        self.reason = reason


class KernelRefused(PermanentError):
    """The kernel refused a netlink message."""

    def __init__(self, what: str, error_number: int, text: str) -> None:
        super().__init__(f"{what}: {text} (errno {error_number})")
        self.error_number = error_number

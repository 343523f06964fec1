"""What a container runtime is told when a call fails: CNI error codes and the JSON that carries them.

Codes up to 99 are those of the CNI specification ("Error"), the others are ours:

    100  address management refuses the request       110  the kernel refuses the link or the route
    101  a pool asked for does not exist              111  the store refuses our credentials
    102  a pool asked for is disabled                 112  a record in the store cannot be read
    103  no pool fits the node and the family         113  the request breaks another rule of the agent
    104  every allowed pool is full                   120  CHECK found the attachment other than ADD left it
    105  an address asked for cannot be had           999  a defect in the agent; its log has the traceback
"""

from __future__ import annotations

import json
from enum import IntEnum

from controller.cni.protocol import CNI_VERSIONS, DEFAULT_CNI_VERSION
from controller.errors import (
    ConflictError,
    KernelRefused,
    MalformedRecord,
    RefusedError,
    StoreDenied,
    StoreUnavailable,
    TortieError,
    TransientError,
)
from ipam import errors as ipam_errors


class ErrorCode(IntEnum):
    """The codes of CNI errors that are answered."""

    INCOMPATIBLE_VERSION = 1
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODE_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    PLUGIN_NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    IPAM_REFUSED = 100
    UNKNOWN_POOL = 101
    POOL_DISABLED = 102
    NO_POOL = 103
    POOL_EXHAUSTED = 104
    ADDRESS_UNAVAILABLE = 105
    KERNEL_REFUSED = 110
    STORE_DENIED = 111
    MALFORMED_RECORD = 112
    REFUSED = 113
    CHECK_FAILED = 120
    INTERNAL = 999


#: How much is shown of a value that is wrong, and of all that is said.
_SHOWN_CHARACTERS = 200
_SAID_CHARACTERS = 4000


def shown(value: object) -> str:
    """Return what a message says of a value that the caller sent: the value as JSON, shortened if it is long."""
    return shortened(json.dumps(value))


def shortened(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    """Return the text, or its beginning and how much is left out."""
    return text if len(text) <= most else f"{text[:most]}... (and {len(text) - most} characters more)"


class CniFailure(TortieError):
    """A call that cannot be answered with success; carries what the runtime is told."""

    def __init__(self, code: ErrorCode, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = shortened(message, _SAID_CHARACTERS)
        self.details = shortened(details, _SAID_CHARACTERS)

    def as_json(self, cni_version: str | None) -> bytes:
        """Return the CNI error in the caller's version, if it is one we speak."""
        fields = {
            "cniVersion": cni_version if cni_version in CNI_VERSIONS else DEFAULT_CNI_VERSION,
            "code": int(self.code),
            "msg": self.message,
            "details": self.details,
        }
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


#: The first class that fits counts, so a class stands before those it inherits from.
_CODES: tuple[tuple[type[Exception], ErrorCode, str], ...] = (
    (ipam_errors.UnknownPool, ErrorCode.UNKNOWN_POOL, "create the pool, or correct its name in the configuration"),
    (ipam_errors.PoolDisabled, ErrorCode.POOL_DISABLED, "enable the pool, or name another one in the configuration"),
    (ipam_errors.NoPool, ErrorCode.NO_POOL, "create or enable a pool that fits this node"),
    (
        ipam_errors.PoolExhausted,
        ErrorCode.POOL_EXHAUSTED,
        "the message names the ways out; existing containers are not affected",
    ),
    (ipam_errors.AddressUnavailable, ErrorCode.ADDRESS_UNAVAILABLE, "ask for another address, or for none"),
    (ipam_errors.Refused, ErrorCode.IPAM_REFUSED, "correct the network configuration"),
    (StoreUnavailable, ErrorCode.TRY_AGAIN_LATER, "existing containers are not affected; try again when it answers"),
    (TransientError, ErrorCode.TRY_AGAIN_LATER, "nothing needs to be corrected; try again"),
    (ConflictError, ErrorCode.TRY_AGAIN_LATER, "nothing needs to be corrected; try again"),
    (KernelRefused, ErrorCode.KERNEL_REFUSED, "the agent's log says more"),
    (StoreDenied, ErrorCode.STORE_DENIED, "give the agent a token the store accepts"),
    (MalformedRecord, ErrorCode.MALFORMED_RECORD, "repair or delete the record"),
    (RefusedError, ErrorCode.REFUSED, "correct what the message names"),
)


def failure_of(error: Exception) -> CniFailure:
    """Return what the runtime is told about an error; INTERNAL for one that nobody foresaw."""
    if isinstance(error, CniFailure):
        return error
    for kind, code, details in _CODES:
        if isinstance(error, kind):
            return CniFailure(code, str(error), details)
    text = f"{type(error).__name__}: {error}"
    return CniFailure(ErrorCode.INTERNAL, f"defect in the tortie agent: {text}", "the agent's log has the traceback")

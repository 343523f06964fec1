"""From a received request to the answer: parse, ask the backend, and tell the runtime the outcome in its own terms."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from controller.cni.failures import CniFailure, ErrorCode, failure_of
from controller.cni.network_configuration import decode_object
from controller.cni.protocol import MAX_OUTPUT_BYTES
from controller.cni.request import CniRequest, Command, parse_environment, parse_request
from controller.cni.result import CniResult, encode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.cni.receiving import ReceivedRequest

log = logging.getLogger(__name__)

#: How many times longer JSON may be when it is written again: two bytes of UTF-8 become six, and 9e15 takes 18.
_MOST_GROWTH = 8
#: What an answer has of ours at most.
_OWN_BYTES = 1 << 16

#: Is told of each call what CNI_COMMAND it had, whatever that says; why it failed, None for a success; and how many
#: seconds it took.
Witness: TypeAlias = "Callable[[str | None, ErrorCode | None, float], None]"


class Backend(Protocol):
    """What does the work of a call. It may raise anything; known errors get codes of their own."""

    async def add(self, request: CniRequest, namespace_descriptor: int) -> CniResult:
        """Attach the container. The same call again gives the same result; a call that raises leaves nothing behind.

        The descriptor stays open until this returns, and is the caller's.
        """
        ...

    async def delete(self, request: CniRequest, namespace_descriptor: int | None) -> None:
        """Detach the container; what is gone already is success.

        The descriptor, None if the namespace is not there, may be of anything. It is the caller's.
        """
        ...

    async def check(self, request: CniRequest, namespace_descriptor: int) -> None:
        """Return if the attachment is as ADD left it; raise what is not. The descriptor is the caller's."""
        ...

    async def collect(self, request: CniRequest) -> None:
        """Detach everything of the network that the request does not name as valid."""
        ...

    async def status(self, request: CniRequest) -> None:
        """Return if an ADD to the network could succeed now; raise the reason otherwise."""
        ...


class Answer(NamedTuple):
    """What the plugin's program prints, and its exit status."""

    exit_status: int
    output: bytes


async def answer(received: ReceivedRequest, backend: Backend, witness: Witness = lambda *_: None) -> Answer:
    """Return the answer to a request; whatever goes wrong is a CNI error and logged here."""
    started = time.monotonic()
    cni_version = None
    command: str | None = None
    fields: dict[str, object] = {}
    try:
        variables = parse_environment(received.environment)
        command = variables.get("CNI_COMMAND")
        fields = {"command": command, "container": variables.get("CNI_CONTAINERID")}
        configuration = decode_object(received.standard_input)
        cni_version = configuration.get("cniVersion")
        request = parse_request(variables, configuration)
        output = await _carry_out(request, received, backend)
    except Exception as error:  # noqa: BLE001  the outermost guard of a call: every caller gets an answer
        failure = failure_of(error)
        witness(command, failure.code, time.monotonic() - started)
        return _failed(error, failure, cni_version if isinstance(cni_version, str) else None, fields)
    witness(command, None, time.monotonic() - started)
    log.debug("cni call answered", extra=fields)
    return Answer(0, output)


async def _carry_out(request: CniRequest, received: ReceivedRequest, backend: Backend) -> bytes:
    match request.command:
        case Command.ADD:
            _check_room(request, received)
            result = await backend.add(request, _namespace(request, received))
            return encode_result(result, request.config.cni_version, request.previous)
        case Command.DEL:
            await backend.delete(request, received.namespace_descriptor)
        case Command.CHECK:
            await backend.check(request, _namespace(request, received))
        case Command.GC:
            await backend.collect(request)
        case Command.STATUS:
            await _status(request, backend)
    return b""


def _check_room(request: CniRequest, received: ReceivedRequest) -> None:
    """Refuse an ADD whose answer would be too large, with what other plugins have answered before."""
    if request.previous is None or len(received.standard_input) * _MOST_GROWTH <= MAX_OUTPUT_BYTES:
        return
    size = len(json.dumps(request.previous.fields))
    if size > MAX_OUTPUT_BYTES - _OWN_BYTES:
        raise CniFailure(
            ErrorCode.INVALID_CONFIG,
            f"prevResult has {size} bytes, and an answer at most {MAX_OUTPUT_BYTES}",
            "the plugins of the list before tortie-cni made it",
        )


async def _status(request: CniRequest, backend: Backend) -> None:
    try:
        await backend.status(request)
    except Exception as error:
        failure = failure_of(error)
        if failure.code in {ErrorCode.INTERNAL, ErrorCode.LIMITED_CONNECTIVITY}:
            raise
        raise CniFailure(ErrorCode.PLUGIN_NOT_AVAILABLE, failure.message, failure.details) from error


def _namespace(request: CniRequest, received: ReceivedRequest) -> int:
    """Return the namespace's descriptor, which ADD and CHECK cannot do without."""
    if not request.namespace_path:
        raise CniFailure(
            ErrorCode.INVALID_ENVIRONMENT,
            "CNI_NETNS is not set",
            f"{request.command.value} needs the path of a network namespace",
        )
    if received.namespace_descriptor is None:
        raise CniFailure(
            ErrorCode.UNKNOWN_CONTAINER,
            f"network namespace {request.namespace_path} cannot be opened: {os.strerror(received.namespace_errno)}",
            "CNI_NETNS must be the path of the container's network namespace, as the plugin's program sees it",
        )
    return received.namespace_descriptor


def _failed(error: Exception, failure: CniFailure, cni_version: str | None, fields: dict[str, object]) -> Answer:
    fields = {**fields, "code": int(failure.code), "reason": failure.message}
    if failure.code is ErrorCode.INTERNAL:
        log.error("cni call met a defect", extra=fields, exc_info=error)
    else:
        log.warning("cni call failed", extra=fields)
    return Answer(1, failure.as_json(cni_version))

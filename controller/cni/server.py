"""The agent's side of the plugin's socket: one task a connection, each with an answer and a deadline.

Work that has begun is never cancelled half-way: a caller whose deadline passes is told to try again, the work runs
on to its end, and a repeated call waits for it in the backend. Descriptors live as long as the work that uses them.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.cni.answering import Answer, Witness, answer
from controller.cni.failures import CniFailure, ErrorCode
from controller.cni.protocol import ProtocolError, encode_reply
from controller.cni.receiving import Descriptors, ReceivedRequest, receive_request
from controller.private_socket import retire

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from controller.cni.answering import Backend

log = logging.getLogger(__name__)

#: Connections served at once; more wait in the backlog.
_MAX_CONNECTIONS = 256
_ACCEPT_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: until a request has arrived, until it is answered (the plugin's program waits 60), until stopped."""

    receive_seconds: float = 10
    answer_seconds: float = 50
    send_seconds: float = 5
    stop_seconds: float = 10
    #: For a request that is on its way when the agent stops; nothing has begun for it yet.
    last_request_seconds: float = 1


async def serve(
    listener: socket.socket,
    path: Path,
    backend: Backend,
    deadlines: Deadlines | None = None,
    witness: Witness = lambda *_: None,
) -> None:
    """Answer callers until cancelled; then let work under way end (within the deadline) and remove the socket."""
    server = _Server(backend, deadlines or Deadlines(), witness)
    try:
        await server.accept(listener)
    finally:
        retire(listener, path)
        await server.drain()


class _Server:
    """The connections under way."""

    def __init__(self, backend: Backend, deadlines: Deadlines, witness: Witness) -> None:
        self._backend = backend
        self._witness = witness
        self._deadlines = deadlines
        self._tasks: set[asyncio.Task[None]] = set()
        self._receiving: set[asyncio.Timeout] = set()
        self._stopping = False
        self._room = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def accept(self, listener: socket.socket) -> None:
        """Begin to serve each caller, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the caller is gone already
                self._room.release()
                log.warning("cni caller could not be accepted", extra={"reason": str(error)})
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            except asyncio.CancelledError:
                self._room.release()
                raise
            task = asyncio.create_task(self._attend(connection), name="cni call")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def drain(self) -> None:
        """Wait for the work under way, less long for requests on their way, then cancel what has not ended."""
        self._stopping = True
        soon = asyncio.get_running_loop().time() + self._deadlines.last_request_seconds
        for deadline in (each for each in self._receiving if not each.expired()):
            deadline.reschedule(min(soon, deadline.when() or soon))
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._deadlines.stop_seconds)
            for task in late:
                log.warning("cni call is abandoned, the agent stops")
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("cni connection met a defect", exc_info=task.exception())

    async def _attend(self, connection: socket.socket) -> None:
        """Serve one caller. The descriptors outlive the answer if the work does."""
        with connection, Descriptors() as descriptors:
            connection.setblocking(False)
            try:
                received = await self._receive(connection, descriptors)
            except (EOFError, OSError) as error:
                if isinstance(error, TimeoutError):
                    late = _stopped() if self._stopping else _late_request(self._deadlines.receive_seconds)
                    await self._send(connection, late)
                log.info("cni request did not arrive", extra={"reason": str(error) or "too slow"})
            except ProtocolError as error:
                log.warning("cni request is malformed", extra={"reason": str(error)})
                await self._send(connection, _refusal(error))
            else:
                await self._work(connection, received)

    async def _receive(self, connection: socket.socket, descriptors: Descriptors) -> ReceivedRequest:
        seconds = self._deadlines.last_request_seconds if self._stopping else self._deadlines.receive_seconds
        async with asyncio.timeout(seconds) as deadline:
            self._receiving.add(deadline)
            try:
                return await receive_request(connection, descriptors)
            finally:
                self._receiving.discard(deadline)

    async def _work(self, connection: socket.socket, received: ReceivedRequest) -> None:
        work = asyncio.create_task(answer(received, self._backend, self._witness), name="cni work")
        try:
            await asyncio.wait({work}, timeout=self._deadlines.answer_seconds)
            if not work.done():
                reply = _late_answer(self._deadlines.answer_seconds)
            elif work.cancelled():
                reply = _stopped()
            else:
                reply = work.result()
            await self._send(connection, reply)
            connection.close()
            await asyncio.wait({work})
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    async def _send(self, connection: socket.socket, reply: Answer) -> None:
        try:
            async with asyncio.timeout(self._deadlines.send_seconds):
                await asyncio.get_running_loop().sock_sendall(connection, encode_reply(*reply))
        except OSError as error:  # TimeoutError is one
            log.warning("cni answer reached nobody", extra={"reason": str(error) or "the caller does not read"})


def _late_request(seconds: float) -> Answer:
    failure = CniFailure(ErrorCode.IO_FAILURE, f"the request did not arrive within {seconds:g} seconds", "try again")
    return Answer(1, failure.as_json(None))


def _late_answer(seconds: float) -> Answer:
    log.warning("cni call is late, it runs on", extra={"seconds": seconds})
    failure = CniFailure(
        ErrorCode.TRY_AGAIN_LATER,
        f"the agent is not done after {seconds:g} seconds and goes on",
        "try again; the agent's log says what is slow",
    )
    return Answer(1, failure.as_json(None))


def _stopped() -> Answer:
    """Answer for work that a part of the agent, stopping, has cancelled from within, or that did not begin."""
    log.warning("cni call is cut short, the agent stops")
    failure = CniFailure(
        ErrorCode.TRY_AGAIN_LATER, "the agent stopped before the call was done", "try again when it runs"
    )
    return Answer(1, failure.as_json(None))


def _refusal(error: ProtocolError) -> Answer:
    return Answer(
        1, CniFailure(ErrorCode.IO_FAILURE, str(error), "install the plugin of the agent's release").as_json(None)
    )

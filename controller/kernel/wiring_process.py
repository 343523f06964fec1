"""Wiring in a process of its own while many containers come, beside the interpreter and its lock.

Wiring is some forty system calls, and at each another thread may have the interpreter: what takes a millisecond alone
takes five beside a busy event loop, which it holds up in turn. A process has its own, and needs no thread to wait for
it. Nothing rests on it: what it did not wire, for whatever reason, is the caller's to wire in another way.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.kernel.wiring_worker import ANSWER, NOT_WIRED, encode_link

if TYPE_CHECKING:
    from controller.ports import WorkloadLink

log = logging.getLogger(__name__)

#: Without the packages of others, which starting would be slower and larger with.
_OPTIONS: Final = ("-I", "-S", "-c")
_PROGRAM: Final = """\
import sys
sys.path.append(sys.argv[1])
from controller.kernel.wiring_worker import main
main(int(sys.argv[2]))
"""
_PACKAGES: Final = Path(__file__).parents[2]
#: How long the process may take for a link, each exchange with the kernel 5 s, before it is taken for stuck.
_SILENCE_SECONDS: Final = 20.0
#: How long it stays with nothing to do, and how long none is started once one was lost.
_REST_SECONDS: Final = 60.0
_END_SECONDS: Final = 1.0


class WiringProcess:
    """The port `Wiring`, for one event loop, in the namespace of the thread that calls `start`.

    The process ends after a while without work, and when the agent ends, however that happens: by its socket's end. It
    is killed when it gives no answer for too long.
    """

    def __init__(self, *, silence_seconds: float = _SILENCE_SECONDS, rest_seconds: float = _REST_SECONDS) -> None:
        self._silence_seconds = silence_seconds
        self._rest_seconds = rest_seconds
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._ready = False
        self._start_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # In the order of the messages, which is that of the answers.
        self._waiting: deque[asyncio.Future[int | None]] = deque()

    @property
    def pid(self) -> int | None:
        """The process's number; None while there is none."""
        return None if self._running is None else self._running[0].pid

    def start(self) -> None:
        """See to it that links are wired here soon, unless a process was lost shortly before."""
        loop = asyncio.get_running_loop()
        if self._running is not None or loop.time() < self._start_at:
            return
        try:
            self._running = _, ours = _started()
        except OSError as error:
            self._lost(str(error))
            return
        loop.add_reader(ours, self._read, ours)
        self._watch()

    def wire(self, namespace_descriptor: int, link: WorkloadLink) -> asyncio.Future[int | None] | None:
        """Begin to wire the link; the outcome is its index, None if it was not wired here."""
        if self._running is None or not self._ready:
            return None
        try:
            socket.send_fds(self._running[1], [encode_link(link)], [namespace_descriptor])
        except OSError as error:  # the process has just ended, or has too much to do
            log.debug("link cannot be wired beside", extra={"link": link.host_name, "reason": str(error)})
            return None
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._watch()
        return answer

    def close(self) -> None:
        """End the process, once it is done with the link it is at; those that wait for it are not wired."""
        if self._running is None:
            return
        process, ours = self._running
        self._running = None
        self._ready = False
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(ours)
        ours.close()
        if not self._waiting:  # it is at nothing, and ends at once
            process.kill()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        while self._waiting:
            self._settle(NOT_WIRED)

    def _read(self, ours: socket.socket) -> None:
        """Take in the answers that are there, or the end of the process."""
        while (answer := _received(ours)) is not None:
            if not answer:
                self.close()
                self._lost("it ended")
                return
            if self._ready:
                self._settle(*ANSWER.unpack(answer))
            self._ready = True
        self._watch()

    def _settle(self, index: int) -> None:
        self._waiting.popleft().set_result(None if index == NOT_WIRED else index)

    def _watch(self) -> None:
        """Begin to wait for the next answer, or for there to be no work for long enough."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        if self._waiting or not self._ready:
            self._timer = loop.call_later(self._silence_seconds, self._kill)
        else:
            self._timer = loop.call_later(self._rest_seconds, self.close)

    def _kill(self) -> None:
        """End a process that is stuck; `_read` hears of its end, and not before can it have touched a link again."""
        if self._running is not None:
            self._running[0].kill()

    def _lost(self, reason: str) -> None:
        self._start_at = asyncio.get_running_loop().time() + self._rest_seconds
        log.warning("wiring process is lost, links are wired without it", extra={"reason": reason})


def _started() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process and return it with our end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, *_OPTIONS, _PROGRAM, str(_PACKAGES), str(theirs.fileno())]
    try:
        with theirs:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    except OSError:
        ours.close()
        raise
    ours.setblocking(False)
    return process, ours


def _received(ours: socket.socket) -> bytes | None:
    """Return the next answer; empty when the process is gone, None when there is no answer yet."""
    try:
        return ours.recv(ANSWER.size)
    except BlockingIOError:
        return None
    except ConnectionError:  # it left messages unread
        return b""

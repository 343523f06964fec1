"""Processes of the lab, found by the network namespace they are in: no record of them can be lost or outdated.

Everything the lab starts runs in one of its namespaces, also what its programs start in turn.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection

_DEADLINE_SECONDS: Final = 15.0
_REAPING_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.02


def processes_in(namespaces: Collection[tuple[int, int]]) -> list[int]:
    """Return the processes, this one excepted, that are in one of the namespaces, given by device and inode number."""
    wanted = frozenset(namespaces)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            status = (entry / "ns" / "net").stat()
        except OSError:
            continue  # it has ended
        if (status.st_dev, status.st_ino) in wanted:
            found.append(int(entry.name))
    return found


def kill_processes_in(namespaces: Collection[tuple[int, int]]) -> None:
    """Kill every process in the namespaces, and what they start meanwhile, until none is left.

    Raises `RefusedError` naming those that do not end.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while found := processes_in(namespaces):
        if time.monotonic() > deadline:
            raise RefusedError(
                f"processes {found} do not end although killed; see what they wait for in /proc/PID/stack"
            )
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(process)
        time.sleep(_PAUSE_SECONDS)
    _wait_until_reaped(killed)


def _wait_until_reaped(killed: Collection[int]) -> None:
    """Give the parents, of orphans the first process of the machine, a moment to collect what has ended."""
    deadline = time.monotonic() + _REAPING_SECONDS
    while any(Path(f"/proc/{process}").exists() for process in killed) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)

"""Steady flows of pings, and which of them were never answered."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bgp.address import IPAddress


class Pings:
    """A flow of a hundred pings a second from one workload to an address of another."""

    def __init__(self, namespace: str, target: IPAddress, path: Path) -> None:
        self._path = path
        command = ["ip", "netns", "exec", namespace, "nice", "-n", "15", "ping", "-n", "-i", "0.009", str(target)]
        with path.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def replies(self) -> list[int]:
        """Return the sequence numbers answered so far."""
        return [int(number) for number in re.findall(r"bytes from \S+ icmp_seq=(\d+)", self._path.read_text())]

    def finish(self) -> set[int]:
        """End it and return the sequence numbers that were never answered."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=10)
        replies = self.replies()
        # The last one may have been on its way.
        return set(range(1, max(replies) + 1)) - set(replies)

    def remove(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

"""Calls of CNI plugins, made as a container runtime makes them: one short-lived process each, in a host's namespace."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.bgp_places import inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Container:
    """A container by its name, which its network namespace has too."""

    name: str

    @property
    def namespace_path(self) -> str:
        """Where its network namespace is."""
        return f"/run/netns/{self.name}"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin's program, the file that it reads, and the namespace of the host it works on."""

    program: Path
    configuration: Path
    host: str

    def call(self, command: str, containers: Sequence[Container], *, in_flight: int = 1) -> list[float]:
        """Make one call for each container, so many at a time; return when each ended, in seconds from the first start.

        Raises `RuntimeError` with what was said if one failed.
        """
        with inside(self.host), tempfile.TemporaryFile() as output:
            calls = _Calls(self, output.fileno())
            ended = calls.make(command, containers, in_flight)
            if calls.failure_count:
                output.seek(0)
                said = output.read(2000).decode(errors="replace")
                raise RuntimeError(f"{calls.failure_count} calls of {self.program.name} {command} failed: {said}")
        return ended


class _Calls:
    """The processes under way. They are a process group, so that no other child is taken for one of them."""

    def __init__(self, plugin: Plugin, output: int) -> None:
        self._program = str(plugin.program)
        self._file_actions = [
            (os.POSIX_SPAWN_OPEN, 0, str(plugin.configuration), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        self._group = 0
        self._running = 0
        self.failure_count = 0

    def make(self, command: str, containers: Sequence[Container], in_flight: int) -> list[float]:
        ended: list[float] = []
        start = time.perf_counter()
        for container in containers:
            if self._running == in_flight:
                self._reap()
                ended.append(time.perf_counter() - start)
            self._spawn(command, container)
        while self._running:
            self._reap()
            ended.append(time.perf_counter() - start)
        return ended

    def _spawn(self, command: str, container: Container) -> None:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container.name,
            "CNI_NETNS": container.namespace_path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": os.path.dirname(self._program),  # noqa: PTH120  on the measured way
        }
        group = self._group if self._running else 0
        child = os.posix_spawn(
            self._program, [self._program], environment, file_actions=self._file_actions, setpgroup=group
        )
        self._group = group or child
        self._running += 1

    def _reap(self) -> None:
        _, status = os.waitpid(-self._group, 0)
        self._running -= 1
        self.failure_count += status != 0


@contextmanager
def containers(prefix: str, count: int) -> Iterator[list[Container]]:
    """Make as many containers, and take them away again with whatever was attached to them."""
    made = [Container(f"{prefix}{number}") for number in range(count)]
    try:
        _batch(f"netns add {container.name}" for container in made)
        yield made
    finally:
        _batch((f"netns delete {container.name}" for container in made), check=False)


def _batch(lines: Iterable[str], *, check: bool = True) -> None:
    subprocess.run(["ip", "-force", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=check)

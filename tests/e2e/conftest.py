"""Labs for the tests of whole clusters: real programs in namespaces of their own, removed whatever happens."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from controller.lab.lab import Lab
from controller.ports import Delete, Put
from controller.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from controller.ports import Operation


@pytest.fixture
def new_lab() -> Iterator[Callable[[], Lab]]:
    """Return a function that gives labs of names nobody else has, not yet up; all of them are removed afterwards."""
    made: list[Lab] = []
    numbers = itertools.count()

    def make() -> Lab:
        made.append(Lab(f"t{os.getpid()}-{next(numbers)}"))
        return made[-1]

    yield make
    for lab in made:
        lab.down()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return a function that returns when a condition holds, and fails when it does not in time."""

    def wait(condition: Callable[[], object], what: str, *, seconds: float = 30.0, every: float = 0.05) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {what}")
            time.sleep(every)

    return wait


@pytest.fixture(scope="session")
def write_records() -> Callable[[Lab, Mapping[str, bytes | None]], None]:
    """Return a function that writes records into a lab's SQLite store, or deletes those that are None."""

    def write(lab: Lab, records: Mapping[str, bytes | None]) -> None:
        operations: list[Operation] = [
            Delete(key, None) if value is None else Put(key, value, None) for key, value in records.items()
        ]

        async def commit() -> None:
            store = open_store(f"sqlite:{lab.layout().state / 'store.db'}")
            try:
                await store.commit(operations)
            finally:
                await store.close()

        asyncio.run(commit())

    return write


@dataclass
class Flow:
    """A ping of a little more than a hundred packets a second that runs until it is ended."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def answers(self) -> list[tuple[float, int]]:
        """Return the time, in seconds since the epoch, and the sequence number of each answer so far."""
        found = re.findall(r"\[(\d+\.\d+)\] \d+ bytes from \S+: icmp_seq=(\d+)", self.output.read_text())
        return [(float(at), int(number)) for at, number in found]

    def seconds_until_answered(self, moment: float) -> float | None:
        """Return how long after a moment the flow had its first answer, 0 if it was answered already; None if never."""
        answers = [at for at, _ in self.answers()]
        later = [at for at in answers if at >= moment]
        if not later:
            return None
        before = [at for at in answers if at < moment]
        return 0.0 if before and moment - before[-1] < 2 * _INTERVAL_SECONDS else later[0] - moment

    def longest_pause_seconds(self, moment: float) -> float:
        """Return the longest time without an answer since a moment (seconds since the epoch)."""
        later = [moment, *(at for at, _ in self.answers() if at >= moment)]
        return max((after - before for before, after in pairwise(later)), default=0.0)

    def lost(self) -> list[int]:
        """End the flow and return the packets that had no answer; one that was on its way at the end is not lost."""
        self.end()
        counts = re.search(r"(\d+) packets transmitted", self.output.read_text())
        assert counts is not None, self.output.read_text()[-500:]
        return sorted(set(range(1, int(counts[1]))) - {number for _, number in self.answers()})

    def end(self) -> None:
        """End the flow."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=10)


#: At less than ten milliseconds `ping` looks for answers without resting: hence it is to be nice to what is tested.
_INTERVAL_SECONDS = 0.009


@pytest.fixture
def start_flow(tmp_path: Path) -> Iterator[Callable[[Lab, str, str], Flow]]:
    """Return a function that starts a flow from a place to an address; all are ended afterwards."""
    flows: list[Flow] = []

    def start(lab: Lab, source: str, address: str) -> Flow:
        output = tmp_path / f"flow-{len(flows)}-{source}"
        command, environment = lab.command(
            source, ["nice", "-n", "15", "ping", "-n", "-D", "-i", str(_INTERVAL_SECONDS), "-W", "2", address]
        )
        with output.open("wb") as sink:
            process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
        flows.append(Flow(f"{source} to {address}", process, output))
        return flows[-1]

    yield start
    for flow in flows:
        flow.end()

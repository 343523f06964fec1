"""Three hosts: two on which runtimes work, and a third that is nothing but a host of the network."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.lab.lab import Lab
from controller.store.opening import open_store
from tests.e2e.runtimes.hosts import RuntimeHost, fetch, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.block import Block


@dataclass(frozen=True)
class Hosts:
    """The lab and its two hosts with runtimes; the third one is `h3`."""

    lab: Lab
    first: RuntimeHost
    second: RuntimeHost

    @property
    def both(self) -> tuple[RuntimeHost, RuntimeHost]:
        """The hosts with runtimes."""
        return self.first, self.second

    def reached(self, url: str, text: str) -> None:
        """Wait until the third host gets this line of text from an address."""
        wait_until(lambda: fetch(self.lab, "h3", url) == f"{text}\n", f"h3 gets {text} from {url}")

    def set_grace(self, seconds: int) -> None:
        """Set how long what seems lost is left alone."""
        done = self.lab.run("h3", ["tortiectl", "ipam", "configure", f"--grace-seconds={seconds}"])
        assert done.returncode == 0, done.stderr

    def held(self) -> list[str]:
        """Return a line for each address that is held in the whole cluster, with node and workload."""
        blocks = asyncio.run(self._blocks())
        return sorted(
            f"{address} {each.node} {each.workload}" for block in blocks for address, each in block.assignments()
        )

    async def _blocks(self) -> list[Block]:
        store = open_store(f"sqlite:{self.lab.layout().state / 'store.db'}")
        try:
            found = await store.list(keys.BLOCKS)
        finally:
            await store.close()
        return [decode_block(key, entry.value) for key, entry in found.items()]

    def check(self) -> str:
        """Return what the check of the address management says last."""
        return self.lab.run("h3", ["tortiectl", "ipam", "check"]).stdout.strip().rpartition("\n")[2]


@pytest.fixture(scope="session")
def started_hosts() -> Iterator[Hosts]:
    """Make the hosts, once for all tests here; after the last one the check must find what is held to be wired."""
    lab = Lab(f"rt{os.getpid()}")
    made: list[RuntimeHost] = []
    try:
        lab.up(nodes=3, workloads=1, dual_stack=True)
        for name in ("h1", "h2"):
            made.append(RuntimeHost(lab, name))
            made[-1].start()
            made[-1].load_into_podman()
        hosts = Hosts(lab, *made)
        yield hosts
        wait_until(lambda: hosts.check() == "Check complete; found 0 problems.", "no problem is found")
    finally:
        for host in made:
            host.remove()
        lab.down()


@pytest.fixture
def hosts(started_hosts: Hosts) -> Iterator[Hosts]:
    """Give the hosts; afterwards podman's containers are removed, and nothing of any container may be left."""
    before = _everything(started_hosts)
    yield started_hosts
    for host in started_hosts.both:
        host.podman("rm", "--all", "--force", "--time", "0")
    # A namespace that nobody was asked to unwire takes its link with it when the kernel comes to it.
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: _everything(started_hosts) == before, "everything is as before")
    assert _everything(started_hosts) == before


def _everything(hosts: Hosts) -> tuple[object, ...]:
    return hosts.first.traces(), hosts.second.traces(), hosts.held()


@pytest.fixture
def no_grace(started_hosts: Hosts) -> Iterator[None]:
    """Let what lost its workload come back after a second; after the test as late as usual."""
    started_hosts.set_grace(1)
    yield
    started_hosts.set_grace(900)

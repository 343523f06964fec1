"""Three hosts, two of them with a dockerd that has its own bridge, once for all tests here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from controller.lab.lab import Lab
from tests.e2e.docker.containers import CREATE, POOL, traces
from tests.e2e.docker.hosts import DockerHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def hosts() -> Iterator[tuple[Lab, DockerHost, DockerHost]]:
    """Three hosts with a workload each; two of them with Docker, which has dropped what it forwards since its start."""
    lab = Lab(f"d{os.getpid()}")
    made: list[DockerHost] = []
    try:
        lab.up(nodes=3, workloads=1, dual_stack=True)
        for name in ("h1", "h2"):
            made.append(DockerHost(lab, name))
            made[-1].start_dockerd()
            made[-1].start_agent()
        yield lab, made[0], made[1]
    finally:
        for host in made:
            host.remove()
        lab.down()


@pytest.fixture
def docker(
    hosts: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> Iterator[tuple[Lab, DockerHost, DockerHost]]:
    """Give the hosts with a network `routed` on both; afterwards everything is removed, and nothing must be left."""
    lab, *both = hosts
    before = {host.name: traces(lab, host) for host in both}
    for host in both:
        host.docker(*CREATE, "--subnet", POOL, "routed")
    yield hosts
    for host in both:
        host.docker("rm", "-f", *ids) if (ids := host.docker("ps", "-aq").split()) else None
        host.docker("network", "prune", "-f")
    for host in both:
        wait_until(lambda host=host: traces(lab, host) == before[host.name], f"{host.name} is as before")
    checked = lab.run("h3", ["tortiectl", "ipam", "check"])
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "Check complete; found 0 problems.")

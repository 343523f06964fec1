"""Three Consul servers that a test kills and cuts off, in a network namespace that the test runs in."""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.cluster.servers import ADDRESSES, Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CLONE_NEWNET: Final = 0x40000000


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def namespace() -> Iterator[str]:
    """Run the test, and every process it starts, inside a namespace of its own that has loopback alone."""
    name = f"tt-{os.getpid()}-cluster"
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        _enter(inside)
        os.close(inside)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        _enter(own)
        os.close(own)
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def cluster(namespace: str, consul_program: str, tmp_path: Path) -> Iterator[Cluster]:
    """Start three servers and wait for their leader."""
    assert namespace
    servers = Cluster(consul_program, tmp_path)
    try:
        for address in ADDRESSES:
            servers.start(address)
        servers.wait_for_leader()
        yield servers
    finally:
        servers.stop()

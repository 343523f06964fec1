"""Network namespaces of a test's own: the test runs inside one, others stand for its containers and neighbours."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.kernel.routes import KernelFib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLONE_NEWNET = 0x40000000


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace and an open descriptor of it."""

    name: str
    descriptor: int

    def run(self, *command: str) -> str:
        """Run a command inside, which must succeed, and return its output."""
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.name}", *command], check=True, capture_output=True, text=True
        ).stdout


@pytest.fixture
def make_namespace() -> Iterator[Callable[[], Namespace]]:
    """Return a maker of empty namespaces; all of them are gone after the test."""
    made: list[Namespace] = []
    numbers = itertools.count()

    def make() -> Namespace:
        name = f"tt-{os.getpid()}-k{next(numbers)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        made.append(Namespace(name, os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)))
        return made[-1]

    try:
        yield make
    finally:
        for namespace in made:
            os.close(namespace.descriptor)
            subprocess.run(["ip", "netns", "delete", namespace.name], check=True)


@pytest.fixture
def host(make_namespace: Callable[[], Namespace]) -> Iterator[Namespace]:
    """Run the test, and every thread and process it starts, inside a namespace of its own.

    It has loopback and a link `up0` with 192.0.2.1/24 and 2001:db8::1/64, whose other end leads nowhere.
    """
    namespace = make_namespace()
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _enter(namespace.descriptor)
    try:
        for command in (
            "link set lo up",
            "link add up0 type veth peer name far0",
            "link set up0 up",
            "link set far0 up",
            "address add 192.0.2.1/24 dev up0",
            "address add 2001:db8::1/64 dev up0 nodad",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        yield namespace
    finally:
        _enter(own)
        os.close(own)


@pytest.fixture
def ip() -> Callable[[str], str]:
    """Return a function that runs `ip` where the test runs, and returns what it prints, blanks squeezed."""

    def run(arguments: str) -> str:
        done = subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)
        return "\n".join(" ".join(line.split()) for line in done.stdout.splitlines())

    return run


@pytest.fixture
def sysctl() -> Callable[[str], str]:
    """Return a function that reads a network sysctl of the namespace the test runs in."""

    def read(name: str) -> str:
        return (Path("/proc/sys/net") / name).read_text().strip()

    return read


@pytest.fixture
def set_sysctl() -> Callable[[str, str], None]:
    """Return a function that sets a network sysctl of the namespace the test runs in."""

    def write(name: str, value: str) -> None:
        (Path("/proc/sys/net") / name).write_text(value)

    return write


@pytest.fixture
def fib(host: object) -> Iterator[KernelFib]:
    """Open the table of the test's namespace."""
    assert host
    opened = KernelFib()
    try:
        yield opened
    finally:
        opened.close()

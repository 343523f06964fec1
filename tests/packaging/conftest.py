"""The image, made as its Dockerfile says, and hosts for it: network namespaces with files of their own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.packaging.dockerfile import ImageBuilder, Instruction, Stage, parse
from tests.packaging.pod import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_REPOSITORY: Final = Path(__file__).parents[2]
_TOOLS: Final = _REPOSITORY / ".tools"
_CLONE_NEWNET: Final = 0x40000000
_DEADLINE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Image:
    """The image's tree and settings, and every instruction that made it."""

    stage: Stage
    followed: tuple[Instruction, ...]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Find the checkout."""
    return _REPOSITORY


@pytest.fixture(scope="session")
def build() -> Callable[[Sequence[Instruction], str], contextlib.AbstractContextManager[Image]]:
    """Return a context that has what instructions make; what follows from Debian alone is kept for the next run."""

    @contextlib.contextmanager
    def built(instructions: Sequence[Instruction], what: str) -> Iterator[Image]:
        base, cache = _TOOLS / "bookworm", _TOOLS / "trees"
        assert base.is_dir(), f"no {base}; ./bootstrap test makes it"
        cache.mkdir(parents=True, exist_ok=True)
        trees = Path(tempfile.mkdtemp(prefix=f"tt-{what}-"))
        try:
            with cache.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                builder = ImageBuilder(_REPOSITORY, base, cache, trees)
                stage = builder.build(instructions)
            yield Image(stage, tuple(builder.followed))
        finally:
            shutil.rmtree(trees)

    return built


@pytest.fixture(scope="session")
def image(build: Callable[..., contextlib.AbstractContextManager[Image]]) -> Iterator[Image]:
    """Make the image, once for the whole run."""
    with build(parse((_REPOSITORY / "Dockerfile").read_text()), "image") as made:
        yield made


@pytest.fixture
def namespaces() -> Iterator[Callable[[str], str]]:
    """Return a maker of network namespaces with a loopback, from a short name; all are gone after the test."""
    made: list[str] = []

    def make(short: str) -> str:
        name = f"tt-{os.getpid()}-{short}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        made.append(name)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        return name

    try:
        yield make
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def two_hosts(namespaces: Callable[[str], str]) -> Iterator[tuple[Host, Host]]:
    """Return hosts a (192.0.2.1) and b (192.0.2.2), whose links `up0` are joined."""
    names = namespaces("a"), namespaces("b")
    # Short, for the sockets below it.
    directory = Path(tempfile.mkdtemp(prefix="tt-pod-"))
    try:
        command = f"ip -n {names[0]} link add up0 type veth peer name up0 netns {names[1]}"
        subprocess.run(command.split(), check=True)
        for number, name in enumerate(names, 1):
            subprocess.run(["ip", "-n", name, "address", "add", f"192.0.2.{number}/24", "dev", "up0"], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "up0", "up"], check=True)
        yield (
            Host(directory / "a", "a", names[0], "192.0.2.1"),
            Host(directory / "b", "b", names[1], "192.0.2.2"),
        )
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def inside() -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Return a context in which the test's thread, and what it starts, is in a network namespace."""

    @contextlib.contextmanager
    def entered(name: str) -> Iterator[None]:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        other = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(other)
            try:
                yield
            finally:
                _enter(own)
        finally:
            os.close(own)
            os.close(other)

    return entered


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object], str], None]:
    """Return a function that waits for a state, with a deadline; an error of the question means not yet."""

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while True:
            try:
                if condition():
                    return
                reason = "it is not so"
            except (RuntimeError, OSError) as error:
                reason = str(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {_DEADLINE_SECONDS:g} s still not so: {what}; {reason}")
            time.sleep(0.1)

    return wait


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")

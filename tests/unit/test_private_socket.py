"""Unix sockets that belong to one agent."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.errors import RefusedError
from controller.private_socket import bind, listening, retire

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path() -> Iterator[Path]:
    """Return a path short enough for a socket, in a directory that is not there yet."""
    with tempfile.TemporaryDirectory(prefix="socket-") as directory:
        yield Path(directory) / "run" / "agent.sock"


def test_only_the_same_user_may_connect(path: Path) -> None:
    """The socket's mode is 0600 from the first moment anybody could connect."""
    with listening(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_dead_agents_socket_is_replaced(path: Path) -> None:
    """A crash leaves it behind."""
    bind(path).close()
    with listening(path), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_a_living_agents_socket_is_left_alone(path: Path) -> None:
    """Two agents on one path would take each other's callers."""
    with listening(path), socket.socket(socket.AF_UNIX) as caller:
        with pytest.raises(RefusedError, match=f"{path} is served by another agent"):
            bind(path)
        caller.connect(str(path))


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    """A file of somebody's is not deleted."""
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(RefusedError, match="no socket"):
        bind(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_refused(path: Path) -> None:
    """The message names the path and the way out."""
    with pytest.raises(RefusedError, match=r"x{120}.*run_dir"):
        bind(path.with_name("x" * 120))


def test_a_retired_socket_is_gone(path: Path) -> None:
    """Nobody finds a socket that nobody serves."""
    with listening(path):
        pass
    assert not path.exists()


def test_a_socket_retired_twice_spares_its_successor(path: Path) -> None:
    """Whoever listens there by then keeps its socket."""
    former = bind(path)
    retire(former, path)
    with listening(path):
        retire(former, path)
        assert path.exists()

"""Unix sockets that only the user who listens may connect to, and that never take the place of one in use."""

from __future__ import annotations

import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BACKLOG = 128


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Hold a socket of `bind` and `retire` it at the end."""
    listener = bind(path)
    try:
        yield listener
    finally:
        retire(listener, path)


def bind(path: Path) -> socket.socket:
    """Return a listening socket, mode 0600; callers queue until it is served.

    A socket left by a dead agent is replaced. Raises `RefusedError` when another agent listens there, or the path
    cannot be a socket.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        listener.bind(str(path))
        path.chmod(0o600)  # nobody can connect before listen(2)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise RefusedError(f"socket {path}: {error}; choose another run_dir or correct the directory") from error
    except RefusedError:
        listener.close()
        raise
    return listener


def retire(listener: socket.socket, path: Path) -> None:
    """Remove the socket's file and close it; one that is closed already is left to whoever listens there now."""
    if listener.fileno() == -1:
        return
    path.unlink(missing_ok=True)  # before close: while we listen nobody replaces it
    listener.close()


def _clear(path: Path) -> None:
    """Remove the socket of an agent that is gone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise RefusedError(f"socket {path} exists and is no socket; remove it or choose another run_dir")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # its backlog is full: somebody listens
            pass
    raise RefusedError(f"socket {path} is served by another agent; stop it or choose another run_dir")

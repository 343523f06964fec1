"""The lab's state directory: its lock, and the manifest, which is written before anything of the lab is made."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from controller.errors import RefusedError
from controller.lab.layout import Host, Layout, Router, Workload, state_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK_SECONDS: Final = 15.0


@contextmanager
def locked(name: str) -> Iterator[int]:
    """Hold the lab alone, and yield the lock's descriptor: whoever inherits it holds the lab too.

    Raises `RefusedError` when another process holds it for too long.
    """
    path = state_directory(name)
    deadline = time.monotonic() + _LOCK_SECONDS
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise RefusedError(f"another tortiectl is changing lab {name}; wait until it is done, or stop it")
        time.sleep(0.05)
    try:
        yield descriptor
    finally:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # removed in between
    except PermissionError as error:
        raise RefusedError(f"{path} cannot be used ({error.strerror}); run the lab as root") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held the lock before may have removed the directory.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def write_manifest(layout: Layout) -> None:
    """Make the manifest say this; a reader sees the old one or the new one, never a part."""
    path = manifest_path(layout.name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(layout), indent=2))
    temporary.replace(path)


def read_manifest(name: str) -> Layout | None:
    """Return the lab of this name, None if there is none; raises `RefusedError` if it cannot be read."""
    path = manifest_path(name)
    try:
        fields = json.loads(path.read_text())
        hosts = tuple(_host(host) for host in fields.pop("hosts"))
        routers = tuple(Router(**router) for router in fields.pop("routers", []))
        return Layout(hosts=hosts, routers=routers, **fields)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise RefusedError(f"{path} cannot be read ({error.strerror}); run the lab as root") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(
            f"{path} is no lab's manifest ({error}); `tortiectl lab down --name {name}` removes what there is"
        ) from error


def _host(fields: dict[str, Any]) -> Host:
    workloads = (Workload(each["name"], tuple(each["addresses"])) for each in fields["workloads"])
    return Host(fields["index"], tuple(workloads))


def manifest_path(name: str) -> Path:
    """Return where the manifest of the lab of this name is."""
    return state_directory(name) / "lab.json"

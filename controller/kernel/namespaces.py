"""Entering another network namespace with the calling thread, and coming back."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLONE_NEWNET: Final = 0x40000000
_NS_GET_NSTYPE: Final = 0xB703  # include/uapi/linux/nsfs.h
_OWN: Final = "/proc/thread-self/ns/net"


def check_namespace(descriptor: int) -> None:
    """Raise `RefusedError` unless the descriptor is another network namespace than the calling thread's."""
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno not in {errno.ENOTTY, errno.EBADF, errno.EINVAL}:
            raise
        kind = 0
    if kind != _CLONE_NEWNET:
        raise RefusedError(f"descriptor {descriptor} is no network namespace; open one such as /proc/PID/ns/net")
    if os.path.samestat(os.fstat(descriptor), os.stat(_OWN)):  # noqa: PTH116  compared by device and inode
        raise RefusedError("the namespace is the host's own; a workload there uses the host's addresses")


@contextmanager
def entered(descriptor: int) -> Iterator[None]:
    """Be in that network namespace with the calling thread, and back in the present one afterwards.

    What is opened inside (sockets) stays of that namespace. If there is no way back the thread is lost for any other
    work, and `KernelRefused` says so.
    """
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _switch(descriptor, "entering the workload's network namespace")
        try:
            yield
        finally:
            _switch(own, "returning from a workload's network namespace (this thread must end now)")
    finally:
        os.close(own)


def _switch(descriptor: int, what: str) -> None:
    if _libc().setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise KernelRefused(what, number, os.strerror(number))


@functools.cache
def _libc() -> ctypes.PyDLL:
    """Return the C library, which is looked up once; os.setns came with Python 3.12.

    A `PyDLL` keeps the interpreter's lock: the switch takes some microseconds, and to get the lock back takes longer.
    """
    return ctypes.PyDLL(None, use_errno=True)

"""The store in one SQLite file: for one machine, shared by all of its processes.

One thread owns the connection, so the event loop never waits for the disk. A watch is woken at once by a write of its
own store object, and looks every 50 ms whether another process has written.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from controller.errors import StoreDenied, StoreUnavailable
from controller.store.backoff import Backoff
from controller.store.difference import Delivered
from controller.store.sqlite_file import SqliteFile
from controller.store.transaction import check_keys, check_operations, check_prefix
from controller.store.wakes import Wakes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Sequence
    from pathlib import Path

    from controller.ports import Entry, Operation, Version, WatchEvent

_Result = TypeVar("_Result")

_POLL_SECONDS: Final = 0.05
#: SQLite gives up waiting for another process a little before the caller does, because it can say why.
_BUSY_FRACTION: Final = 0.9


class SqliteStore:
    """A `Store` in the file at `path`, which is made where its directory exists. One event loop uses it.

    `heard` is called whenever a watch could look at the file, also when there was nothing new.
    """

    def __init__(self, path: Path, *, timeout_seconds: float = 5.0, heard: Callable[[], None] = lambda: None) -> None:
        self._heard = heard
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store")
        self._file: SqliteFile | None = None
        self._wakes = Wakes()
        self._closed = False

    async def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries of those keys that exist, as of one instant."""
        check_keys(keys)
        return await self._ask(lambda file: file.get(keys))

    async def list(self, prefix: str) -> dict[str, Entry]:
        """Return every entry whose key starts with the prefix, sorted by key, as of one instant."""
        check_prefix(prefix)
        return await self._ask(lambda file: file.list(prefix))

    async def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Apply all operations or none, on the disk when this returns; the version of every key written."""
        check_operations(operations)
        versions = await self._ask(lambda file: file.commit(operations))
        self._wakes.written([operation.key for operation in operations])
        return versions

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Deliver a `Snapshot` of the prefix, then `Changes`; ends when the store is closed."""
        check_prefix(prefix)
        delivered = Delivered()
        backoff = Backoff()
        mark: object = None
        event: WatchEvent | None
        with self._wakes.following(prefix) as wake:
            while not self._closed:
                wake.clear()
                pause_seconds = _POLL_SECONDS
                try:
                    event = None
                    found = self._mark()
                    if found is None or found != mark:
                        mark = found
                        event = delivered.advance(await self._ask(lambda file: file.list(prefix)))
                    backoff.reset()
                    self._heard()
                except (StoreUnavailable, StoreDenied) as error:
                    mark = None
                    pause_seconds = backoff.next_seconds()
                    event = delivered.interrupt(str(error))
                if event is not None and not self._closed:
                    yield event
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_seconds):
                        await wake.wait()

    async def close(self) -> None:
        """Close the file and end the watches; what is being written is finished first."""
        if self._closed:
            return
        self._closed = True
        self._wakes.all()
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close_file)
        with suppress(TimeoutError):
            await asyncio.wait_for(closing, self._timeout_seconds)
        self._thread.shutdown(wait=False)

    async def _ask(self, question: Callable[[SqliteFile], _Result]) -> _Result:
        if self._closed:
            raise StoreUnavailable("the store was closed; open another one")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"{self._path} gave no answer within {self._timeout_seconds} s: see whether its disk hangs"
            ) from error

    def _mark(self) -> object:
        """Return what stays equal while there is nothing new to read; None when that cannot be told."""
        file = self._file
        try:
            return None if file is None else (file, file.mark())
        except (sqlite3.Error, OSError):
            return None

    def _answer(self, question: Callable[[SqliteFile], _Result]) -> _Result:
        # From here on everything runs in the one thread.
        try:
            return question(self._current_file())
        except sqlite3.Error as error:
            self._close_file()
            raise self._explained(error) from error
        except PermissionError as error:
            raise StoreDenied(f"{self._path}: {error.strerror}; give this user the right to write there") from error
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}; its directory must exist") from error

    def _current_file(self) -> SqliteFile:
        if self._file is not None and not self._file.is_current():
            self._close_file()
        if self._file is None:
            self._file = SqliteFile(self._path, busy_seconds=self._timeout_seconds * _BUSY_FRACTION)
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _explained(self, error: sqlite3.Error) -> StoreUnavailable | StoreDenied:
        # The low byte is the primary result code (https://www.sqlite.org/rescode.html).
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StoreDenied(f"{self._path}: {error}; give this user the right to write the file and its directory")
        advice = {
            sqlite3.SQLITE_BUSY: "another process holds it for longer than the deadline",
            sqlite3.SQLITE_FULL: "free space on its disk",
            sqlite3.SQLITE_IOERR: "look for errors of its disk in the kernel's log",
            sqlite3.SQLITE_CORRUPT: "restore it from a copy",
            sqlite3.SQLITE_NOTADB: "move that file away or name another one",
            sqlite3.SQLITE_CANTOPEN: "its directory must exist and be writable",
        }.get(code, "see https://www.sqlite.org/rescode.html")
        return StoreUnavailable(f"{self._path}: {error}; {advice}")

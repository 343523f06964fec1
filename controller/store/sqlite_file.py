"""One connection to the file of the SQLite store, and what is asked of it; everything here blocks.

Tables: `entries`, a row for each key, and `revision`, one row with a number that every writing transaction increments
and gives to what it writes as its version. The number never goes back, so a key that was deleted and made again never
has a version it had before.

A second connection only looks: `PRAGMA data_version` (https://www.sqlite.org/pragma.html#pragma_data_version) says in
two microseconds whether any other connection, of this process or another, has committed since.

The journal is a write-ahead log with synchronous=FULL (https://www.sqlite.org/pragma.html#pragma_synchronous): a
commit that returned survives a loss of power, and readers of other processes never wait for a writer.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from controller.errors import StoreUnavailable
from controller.ports import ABSENT, Check, Entry, Put, Version
from controller.store.transaction import check_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from controller.ports import Operation

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = (
    "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE revision (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER NOT NULL)",
    "INSERT INTO revision VALUES (1, 0)",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
#: Sorts after every character that a key may hold, and so after every key that starts with what it is appended to.
_LAST_CHARACTER: Final = "\U0010ffff"


class SqliteFile:
    """An open store file. Raises `sqlite3.Error` and OSError as they come; after either it must be closed."""

    def __init__(self, path: Path, *, busy_seconds: float) -> None:
        """Open the file, made readable to its owner alone where it is missing; its directory must exist."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path = path
        address = f"{path.absolute().as_uri()}?mode=rw"
        self._connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=busy_seconds)
        self._lookout = sqlite3.connect(address, uri=True, isolation_level=None, timeout=0, check_same_thread=False)
        try:
            self._identity = _identity(path)
            self._prepare(time.monotonic() + busy_seconds)
        except BaseException:
            self.close()
            raise

    def is_current(self) -> bool:
        """Return whether the path still names the file that is open; writes to another one would be lost."""
        try:
            return _identity(self._path) == self._identity
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the connections, undoing a transaction that was not committed."""
        self._connection.close()
        self._lookout.close()

    def get(self, keys: Collection[str]) -> dict[str, Entry]:
        """Return the entries of those keys that exist, as of one instant."""
        with self._transaction("DEFERRED"):
            entries = {key: self._entry(key) for key in keys}
        return {key: entry for key, entry in entries.items() if entry is not None}

    def list(self, prefix: str) -> dict[str, Entry]:
        """Return the entries whose keys start with the prefix, sorted by key, as of one instant."""
        query = "SELECT key, value, version FROM entries WHERE key >= ? AND key < ? ORDER BY key"
        rows = self._connection.execute(query, (prefix, prefix + _LAST_CHARACTER)).fetchall()
        return {key: Entry(value, Version(version)) for key, value, version in rows}

    def mark(self) -> tuple[int, int, int]:
        """Return what stays equal, for this object, while nothing is written and the path names the same file.

        Alone among the methods it may be called from any thread, and waits for nothing.
        """
        version: int = self._lookout.execute("PRAGMA data_version").fetchone()[0]
        return (*_identity(self._path), version)

    def commit(self, operations: Sequence[Operation]) -> dict[str, Version]:
        """Apply all operations or none; raises `ConflictError`."""
        with self._transaction("IMMEDIATE"):
            present = {operation.key: self._entry(operation.key) for operation in operations}
            check_versions(operations, lambda key: ABSENT if (entry := present[key]) is None else entry.version)
            version = Version(self._revision() + 1)
            versions: dict[str, Version] = {}
            for operation in operations:
                entry = present[operation.key]
                if isinstance(operation, Check):
                    continue
                if not isinstance(operation, Put):
                    self._connection.execute("DELETE FROM entries WHERE key = ?", (operation.key,))
                elif entry is not None and entry.value == operation.value:
                    versions[operation.key] = entry.version
                else:
                    row = (operation.key, operation.value, version)
                    self._connection.execute("REPLACE INTO entries VALUES (?, ?, ?)", row)
                    versions[operation.key] = version
            self._connection.execute("UPDATE revision SET number = ?", (version,))
        return versions

    def _revision(self) -> int:
        number: int = self._connection.execute("SELECT number FROM revision").fetchone()[0]
        return number

    def _entry(self, key: str) -> Entry | None:
        row = self._connection.execute("SELECT value, version FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else Entry(*row)

    def _prepare(self, deadline: float) -> None:
        self._switch_to_write_ahead_log(deadline)
        self._connection.execute("PRAGMA synchronous = FULL")
        if self._schema_version() == 0:
            with self._transaction("IMMEDIATE"):
                # Another process may have been faster while this one waited for the lock.
                if self._schema_version() == 0:
                    for statement in _SCHEMA:
                        self._connection.execute(statement)
        found = self._schema_version()
        if found != _SCHEMA_VERSION:
            raise StoreUnavailable(
                f"{self._path} has schema version {found}, this program reads {_SCHEMA_VERSION}: "
                f"use the release that wrote it, or another file"
            )

    def _switch_to_write_ahead_log(self, deadline: float) -> None:
        # SQLite does not wait for other connections here, whatever its timeout: it gives up at once.
        while True:
            try:
                mode = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
                continue
            if mode != "wal":
                raise StoreUnavailable(
                    f"{self._path} lies on a file system without shared memory, where several processes cannot share "
                    f"it: put it on a local disk"
                )
            return

    def _schema_version(self) -> int:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        return version

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            # SQLite has ended the transaction itself after some errors, such as a full disk.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino

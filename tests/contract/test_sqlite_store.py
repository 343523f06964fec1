"""What only the SQLite store has to promise: several processes, the file itself, and a disk that fails."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from controller.errors import ConflictError, StoreUnavailable
from controller.ports import ABSENT, Changes, Entry, Interrupted, Put, Snapshot, Store, Version
from controller.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Watching = Callable[[Store, str], AbstractAsyncContextManager[Any]]
    Opening = Callable[..., SqliteStore]

#: Adds one to the key `counter` as often as its second argument says, and retries whenever another was faster.
_INCREMENT = """
import asyncio, sys
from pathlib import Path
from controller.errors import ConflictError
from controller.ports import ABSENT, Put
from controller.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), timeout_seconds=60)
    for _ in range(int(sys.argv[2])):
        while True:
            entry = (await store.get(["counter"])).get("counter")
            value, version = (b"0", ABSENT) if entry is None else (entry.value, entry.version)
            try:
                await store.commit([Put("counter", b"%d" % (int(value) + 1), version)])
            except ConflictError:
                continue
            break
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
async def opening() -> AsyncIterator[Opening]:
    """Open stores that are closed when the test ends."""
    opened: list[SqliteStore] = []

    def open_one(path: Path, *, timeout_seconds: float = 5.0) -> SqliteStore:
        opened.append(SqliteStore(path, timeout_seconds=timeout_seconds))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True, timeout=30)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=30)


async def test_several_processes_lose_no_write(tmp_path: Path, opening: Opening) -> None:
    """Processes that start together on a file that is not there yet share it, and every increment counts."""
    path = tmp_path / "store.db"
    command = [sys.executable, "-c", _INCREMENT, str(path), "50"]
    processes = [await asyncio.create_subprocess_exec(*command) for _ in range(4)]
    assert [await asyncio.wait_for(process.wait(), 60) for process in processes] == [0] * 4
    assert (await opening(path).get(["counter"]))["counter"].value == b"200"


async def test_the_file_is_its_owners_alone(tmp_path: Path, opening: Opening) -> None:
    """The store and the files beside it can be read by nobody else, whatever the umask."""
    path = tmp_path / "store.db"
    await opening(path).commit([Put("a", b"1", ABSENT)])
    assert _modes(tmp_path) == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm"), 0o600)


async def test_what_was_committed_is_there_after_reopening(tmp_path: Path, opening: Opening) -> None:
    """Closing loses nothing, and versions go on where they were."""
    path = tmp_path / "store.db"
    first = opening(path)
    version = (await first.commit([Put("a", b"1", ABSENT)]))["a"]
    await first.close()
    second = opening(path)
    assert await second.get(["a"]) == {"a": Entry(b"1", version)}
    assert (await second.commit([Put("a", b"2", version)]))["a"] != version


async def test_a_watch_waits_for_the_directory(tmp_path: Path, opening: Opening, watching: Watching) -> None:
    """Without its directory the store is unavailable; once that is made, the watch starts by itself."""
    directory = tmp_path / "later"
    store = opening(directory / "store.db")
    with pytest.raises(StoreUnavailable, match="directory must exist"):
        await store.get(["a"])
    async with watching(store, "") as watched:
        assert isinstance(await watched.next(), Interrupted)
        directory.mkdir()
        assert await watched.next() == Snapshot({})


async def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path, opening: Opening, watching: Watching) -> None:
    """When another file takes the path, reads and watches follow; nothing is written into the one nobody sees."""
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    store, replacement = opening(path), opening(other)
    await store.commit([Put("a", b"1", ABSENT)])
    version = (await replacement.commit([Put("b", b"1", ABSENT)]))["b"]
    await replacement.close()
    async with watching(store, "") as watched:
        assert set((await watched.next()).entries) == {"a"}
        for name in ("store.db-wal", "store.db-shm"):
            (tmp_path / name).unlink()
        other.replace(path)
        event = await watched.next()
        if isinstance(event, Interrupted):
            event = await watched.next()
        assert event == Changes({"b": Entry(b"1", version)}, frozenset({"a"}))
    with pytest.raises(ConflictError):
        await store.commit([Put("a", b"2", Version(1))])


async def test_a_write_of_ones_own_wakes_a_watch_at_once(
    tmp_path: Path, opening: Opening, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch does not wait until it looks the next time."""
    monkeypatch.setattr("controller.store.sqlite._POLL_SECONDS", 3600.0)
    store = opening(tmp_path / "store.db")
    async with watching(store, "") as watched:
        assert await watched.next() == Snapshot({})
        version = (await store.commit([Put("a", b"1", ABSENT)]))["a"]
        assert await watched.next() == Changes({"a": Entry(b"1", version)}, frozenset())


async def test_a_lock_that_is_held_too_long_is_unavailable(tmp_path: Path, opening: Opening) -> None:
    """A writer waits for another up to its deadline and then says what it waited for; readers do not wait."""
    path = tmp_path / "store.db"
    store = opening(path, timeout_seconds=0.5)
    await store.commit([Put("a", b"1", ABSENT)])
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process holds it"):
            await store.commit([Put("a", b"2", None)])
        assert (await store.get(["a"]))["a"].value == b"1"
        other.execute("ROLLBACK")
        assert set(await store.commit([Put("a", b"2", None)])) == {"a"}
    finally:
        other.close()


async def test_opening_waits_for_whoever_holds_the_file(tmp_path: Path, opening: Opening) -> None:
    """Several processes may set up a new file at the same time; SQLite does not wait by itself there."""
    path = tmp_path / "store.db"
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("CREATE TABLE theirs (id)")
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(opening(path, timeout_seconds=30).get(["a"]))
        for _ in range(1000):
            await asyncio.sleep(0)
        other.execute("ROLLBACK")
        assert await first == {}
    finally:
        other.close()


async def test_waiting_for_a_lock_does_not_stop_the_event_loop(tmp_path: Path, opening: Opening) -> None:
    """While a commit waits for another process, other tasks run; it goes through when the lock is free."""
    path = tmp_path / "store.db"
    store = opening(path, timeout_seconds=30)
    await store.commit([Put("a", b"1", ABSENT)])
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        commit = asyncio.create_task(store.commit([Put("a", b"2", None)]))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not commit.done()
        other.execute("ROLLBACK")
        assert set(await commit) == {"a"}
    finally:
        other.close()


async def test_a_write_survives_the_cancellation_of_its_writer(
    tmp_path: Path, opening: Opening, watching: Watching
) -> None:
    """A commit whose caller was cancelled is either not there or there whole, and then watches tell of it."""
    store = opening(tmp_path / "store.db")
    async with watching(store, "") as watched:
        assert await watched.next() == Snapshot({})
        commit = asyncio.create_task(store.commit([Put("a", b"1", ABSENT)]))
        await asyncio.sleep(0)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        await store.commit([Put("b", b"1", ABSENT)])
        known: dict[str, Entry] = {}
        while "b" not in known:
            known |= (await watched.next()).written
        assert known == await store.list("")


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
async def test_a_file_that_is_no_store_is_left_alone(
    tmp_path: Path, opening: Opening, watching: Watching, content: bytes
) -> None:
    """What is not ours to read is reported and not overwritten."""
    path = tmp_path / "store.db"
    path.write_bytes(content)
    store = opening(path)
    for question in (store.get(["a"]), store.commit([Put("a", b"1", None)])):
        with pytest.raises(StoreUnavailable, match=r"store\.db"):
            await question
    async with watching(store, "") as watched:
        assert isinstance(await watched.next(), Interrupted)
    assert path.read_bytes() == content


async def test_a_store_of_a_later_release_is_left_alone(tmp_path: Path, opening: Opening) -> None:
    """A schema this program does not know is not touched."""
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreUnavailable, match="schema version 7"):
        await opening(path).get(["a"])


async def test_a_full_disk_refuses_writes_and_keeps_what_is_there(small_disk: Path, opening: Opening) -> None:
    """A commit that does not fit is not applied, says why, and the store goes on once there is space."""
    store = opening(small_disk / "store.db")
    await store.commit([Put("a", b"1", ABSENT)])
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * 512 * 1024)
    with pytest.raises(StoreUnavailable, match=r"free space|disk"):
        await store.commit([Put("a", b"x" * 100_000, None)])
    ballast.unlink()
    assert (await store.get(["a"]))["a"].value == b"1"
    assert set(await store.commit([Put("a", b"2", None)])) == {"a"}


def _modes(directory: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in directory.iterdir()}

"""What every store promises; run on all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from controller.errors import ConflictError, RefusedError, StoreUnavailable, TooManyOperations
from controller.ports import (
    ABSENT,
    MAX_OPERATIONS,
    MAX_VALUE_BYTES,
    Changes,
    Check,
    Delete,
    Entry,
    Operation,
    Put,
    Snapshot,
    Store,
    Version,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    Watching = Callable[[Store, str], AbstractAsyncContextManager[Any]]

_NEVER = Version(2**40)


async def _put(store: Store, key: str, value: bytes) -> Version:
    return (await store.commit([Put(key, value, None)]))[key]


async def test_get_returns_what_was_committed_with_its_version(store: Store, root: str) -> None:
    """A value comes back byte for byte, under the version that commit returned."""
    value = bytes(range(256))
    version = await _put(store, root + "a", value)
    assert await store.get([root + "a"]) == {root + "a": Entry(value, version)}
    assert version != ABSENT


async def test_get_leaves_out_what_does_not_exist(store: Store, root: str) -> None:
    """Absent keys are absent from the answer, whether one or several are asked for."""
    version = await _put(store, root + "ab", b"1")
    assert await store.get([root + "a"]) == {}
    assert await store.get([root + "a", root + "b"]) == {}
    assert await store.get([root + "a", root + "ab", root + "abc"]) == {root + "ab": Entry(b"1", version)}
    assert await store.get([]) == {}


async def test_get_takes_more_keys_than_a_transaction(store: Store, root: str) -> None:
    """Any number of keys may be read."""
    keys = [f"{root}{number}" for number in range(150)]
    for start in range(0, 150, 50):
        await store.commit([Put(key, key.encode(), ABSENT) for key in keys[start : start + 50]])
    entries = await store.get(keys)
    assert {key: entry.value for key, entry in entries.items()} == {key: key.encode() for key in keys}


async def test_an_empty_value_is_a_value(store: Store, root: str) -> None:
    """A key with no bytes exists."""
    version = await _put(store, root + "a", b"")
    assert await store.get([root + "a"]) == {root + "a": Entry(b"", version)}


@pytest.mark.parametrize("name", ["a b", "ü", "%2F", "a?b#c&d", "a+b", "日本", "-", "'; --", "x_%"])
async def test_a_key_may_hold_any_printable_character(store: Store, root: str, name: str) -> None:
    """Characters that mean something in a URL or in SQL mean nothing in a key."""
    version = await _put(store, root + name, b"1")
    assert await store.get([root + name]) == {root + name: Entry(b"1", version)}
    assert await store.list(root + name) == {root + name: Entry(b"1", version)}


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/", "a/../b", "./a", "a\nb", "a\0b"])
async def test_a_key_that_could_not_be_found_again_is_refused(store: Store, key: str) -> None:
    """What cannot stand in a URL path as it is, is no key."""
    with pytest.raises(RefusedError, match="is no key"):
        await store.commit([Put(key, b"1", None)])
    with pytest.raises(RefusedError, match="is no key"):
        await store.get([key])


async def test_list_returns_the_prefix_and_nothing_beside_it(store: Store, root: str) -> None:
    """A prefix is a prefix of the text, sorted by key; upper and lower case differ."""
    names = ["p/b", "p/a", "p/ab", "p", "pa", "q/a", "P/a", "p/\U0001f600"]
    versions = await store.commit([Put(root + name, b"1", ABSENT) for name in names])
    expected = [root + name for name in ("p/a", "p/ab", "p/b", "p/\U0001f600")]
    entries = await store.list(root + "p/")
    assert entries == {key: Entry(b"1", versions[key]) for key in expected}
    assert list(entries) == expected
    assert set(await store.list(root + "p/a")) == {root + "p/a", root + "p/ab"}
    assert await store.list(root + "none/") == {}


async def test_creating_succeeds_once(store: Store, root: str) -> None:
    """Of two that create one key, the second conflicts."""
    await store.commit([Put(root + "a", b"1", ABSENT)])
    with pytest.raises(ConflictError) as caught:
        await store.commit([Put(root + "a", b"1", ABSENT)])
    assert caught.value.keys == {root + "a"}


async def test_a_put_that_expects_a_version_needs_it(store: Store, root: str) -> None:
    """A key that moved on, or is gone, is not written."""
    first = await _put(store, root + "a", b"1")
    second = (await store.commit([Put(root + "a", b"2", first)]))[root + "a"]
    assert second != first
    with pytest.raises(ConflictError):
        await store.commit([Put(root + "a", b"3", first)])
    with pytest.raises(ConflictError):
        await store.commit([Put(root + "b", b"3", second)])
    assert await store.list(root) == {root + "a": Entry(b"2", second)}


async def test_a_delete_that_expects_a_version_needs_it(store: Store, root: str) -> None:
    """A key that moved on, or is gone, conflicts; with the right version it is deleted."""
    first = await _put(store, root + "a", b"1")
    second = await _put(store, root + "a", b"2")
    with pytest.raises(ConflictError) as caught:
        await store.commit([Delete(root + "a", first), Put(root + "b", b"1", None)])
    assert caught.value.keys == {root + "a"}
    assert await store.commit([Delete(root + "a", second)]) == {}
    with pytest.raises(ConflictError) as caught:
        await store.commit([Delete(root + "a", second), Put(root + "b", b"1", None)])
    assert caught.value.keys == {root + "a"}
    assert await store.list(root) == {}


async def test_a_delete_that_expects_nothing_forgives(store: Store, root: str) -> None:
    """Deleting an absent key is success, unless a version was named; ABSENT is one."""
    assert await store.commit([Delete(root + "a", None), Delete(root + "b", ABSENT)]) == {}
    await _put(store, root + "a", b"1")
    with pytest.raises(ConflictError):
        await store.commit([Delete(root + "a", ABSENT)])
    await store.commit([Delete(root + "a", None)])
    assert await store.list(root) == {}


async def test_a_check_guards_the_rest(store: Store, root: str) -> None:
    """A check that fails stops everything, and changes nothing itself."""
    version = await _put(store, root + "a", b"1")
    wrong = [Check(root + "a", ABSENT), Check(root + "a", _NEVER), Check(root + "b", _NEVER)]
    for check in wrong:
        with pytest.raises(ConflictError) as caught:
            await store.commit([Put(root + "c", b"1", None), check])
        assert caught.value.keys == {check.key}
    assert await store.commit([Check(root + "a", version), Check(root + "b", ABSENT)]) == {}
    right: list[Operation] = [Check(root + "a", version), Check(root + "b", ABSENT), Put(root + "c", b"1", ABSENT)]
    assert set(await store.commit(right)) == {root + "c"}


async def test_a_conflict_names_every_key_that_moved(store: Store, root: str) -> None:
    """Several failures are all reported, and nothing is applied."""
    await store.commit([Put(root + name, b"1", None) for name in "abc"])
    operations: list[Operation] = [
        Put(root + "a", b"2", ABSENT),
        Put(root + "b", b"2", None),
        Delete(root + "c", _NEVER),
        Check(root + "d", _NEVER),
    ]
    with pytest.raises(ConflictError) as caught:
        await store.commit(operations)
    assert caught.value.keys == {root + "a", root + "c", root + "d"}
    assert {entry.value for entry in (await store.list(root)).values()} == {b"1"}


async def test_an_equal_value_keeps_its_version(store: Store, root: str) -> None:
    """Writing what is there changes nothing, with or without an expected version."""
    version = await _put(store, root + "a", b"1")
    assert await store.commit([Put(root + "a", b"1", None)]) == {root + "a": version}
    assert await store.commit([Put(root + "a", b"1", version)]) == {root + "a": version}
    assert await store.get([root + "a"]) == {root + "a": Entry(b"1", version)}


async def test_a_key_made_again_has_a_new_version(store: Store, root: str) -> None:
    """What was planned against the deleted key does not fit the new one."""
    first = await _put(store, root + "a", b"1")
    await store.commit([Delete(root + "a", first)])
    second = (await store.commit([Put(root + "a", b"1", ABSENT)]))[root + "a"]
    assert second != first
    with pytest.raises(ConflictError):
        await store.commit([Put(root + "a", b"2", first)])


async def test_a_transaction_of_nothing_is_nothing(store: Store) -> None:
    """No operations, no error."""
    assert await store.commit([]) == {}


async def test_a_key_is_named_once(store: Store, root: str) -> None:
    """Two operations on one key are refused, because stores would order them differently."""
    with pytest.raises(RefusedError, match="two operations"):
        await store.commit([Put(root + "a", b"1", None), Delete(root + "a", None)])


async def test_a_full_transaction_is_taken_and_one_more_is_not(store: Store, root: str) -> None:
    """MAX_OPERATIONS fit; a guarded deletion counts as two of them."""
    puts = [Put(f"{root}{number}", b"1", ABSENT) for number in range(MAX_OPERATIONS)]
    versions = await store.commit(puts)
    assert len(versions) == MAX_OPERATIONS
    with pytest.raises(TooManyOperations):
        await store.commit([*puts, Put(root + "more", b"1", ABSENT)])
    deletes = [Delete(key, version) for key, version in versions.items()]
    with pytest.raises(TooManyOperations):
        await store.commit(deletes[: MAX_OPERATIONS // 2 + 1])
    for start in (0, MAX_OPERATIONS // 2):
        await store.commit(deletes[start : start + MAX_OPERATIONS // 2])
    assert await store.list(root) == {}


async def test_the_largest_value_is_taken_and_larger_is_not(store: Store, root: str) -> None:
    """MAX_VALUE_BYTES fit into one key; two such values do not fit into one transaction."""
    largest = b"x" * MAX_VALUE_BYTES
    await _put(store, root + "a", largest)
    assert (await store.get([root + "a"]))[root + "a"].value == largest
    with pytest.raises(RefusedError):
        await _put(store, root + "a", largest + b"x")
    with pytest.raises(TooManyOperations):
        await store.commit([Put(root + "b", largest, None), Put(root + "c", largest, None)])


async def test_a_transaction_just_below_the_limit_is_taken(store: Store, root: str) -> None:
    """What passes our own check of the size passes the store."""
    puts = [Put(f"{root}{number}", b"x" * 5900, ABSENT) for number in range(MAX_OPERATIONS)]
    assert len(await store.commit(puts)) == MAX_OPERATIONS


async def test_racing_increments_are_all_counted(stores: tuple[Store, Store], root: str) -> None:
    """Of many that read, add one and write at once, none is lost."""
    key = root + "counter"
    await stores[0].commit([Put(key, b"0", ABSENT)])

    async def increment(store: Store) -> None:
        while True:
            entry = (await store.get([key]))[key]
            try:
                await store.commit([Put(key, b"%d" % (int(entry.value) + 1), entry.version)])
            except ConflictError:
                continue
            return

    await asyncio.gather(*(increment(stores[number % 2]) for number in range(30)))
    assert (await stores[1].get([key]))[key].value == b"30"


async def test_a_watch_starts_with_a_snapshot(store: Store, root: str, watching: Watching) -> None:
    """The first event holds everything under the prefix, also when that is nothing."""
    async with watching(store, root + "w/") as watched:
        assert await watched.next() == Snapshot({})
    versions = await store.commit([Put(root + "w/a", b"1", None), Put(root + "x", b"1", None)])
    async with watching(store, root + "w/") as watched:
        assert await watched.next() == Snapshot({root + "w/a": Entry(b"1", versions[root + "w/a"])})


async def test_a_watch_sees_writes_and_deletions(stores: tuple[Store, Store], root: str, watching: Watching) -> None:
    """What another process creates, changes and deletes under the prefix arrives, and only that."""
    await stores[1].commit([Put(root + "w/anchor", b"", None)])
    async with watching(stores[0], root + "w/") as watched:
        await watched.next()
        first = (await stores[1].commit([Put(root + "x", b"1", None), Put(root + "w/a", b"1", ABSENT)]))[root + "w/a"]
        assert await watched.next() == Changes({root + "w/a": Entry(b"1", first)}, frozenset())
        second = (await stores[1].commit([Put(root + "w/a", b"2", first)]))[root + "w/a"]
        assert await watched.next() == Changes({root + "w/a": Entry(b"2", second)}, frozenset())
        await stores[1].commit([Delete(root + "w/a", None), Delete(root + "w/anchor", None)])
        assert await watched.next() == Changes({}, frozenset({root + "w/a", root + "w/anchor"}))


async def test_a_watch_sees_the_writes_of_its_own_store(store: Store, root: str, watching: Watching) -> None:
    """The writer hears of its own writes too."""
    async with watching(store, root) as watched:
        assert await watched.next() == Snapshot({})
        version = await _put(store, root + "a", b"1")
        assert await watched.next() == Changes({root + "a": Entry(b"1", version)}, frozenset())


async def test_a_watch_misses_nothing_while_its_consumer_is_busy(
    stores: tuple[Store, Store], root: str, watching: Watching
) -> None:
    """Writes between two deliveries are delivered together, in their last state."""
    async with watching(stores[0], root) as watched:
        await watched.next()
        for value in (b"1", b"2", b"3"):
            await _put(stores[1], root + "a", value)
        version = await _put(stores[1], root + "b", b"1")
        written: dict[str, Entry] = {}
        while root + "b" not in written:
            event = await watched.next()
            assert isinstance(event, Changes)
            written |= event.written
        assert written[root + "a"].value == b"3"
        assert written[root + "b"] == Entry(b"1", version)


async def test_watches_of_many_writers_agree_with_the_store(
    stores: tuple[Store, Store], root: str, watching: Watching
) -> None:
    """However writes interleave, the events add up to what the store holds."""

    async def write(store: Store, name: str) -> None:
        for number in range(20):
            await store.commit([Put(f"{root}{name}/{number}", b"1", None), Delete(f"{root}{name}/{number - 3}", None)])

    async with watching(stores[0], root) as watched:
        snapshot = await watched.next()
        known = dict(snapshot.entries)
        writers = asyncio.gather(*(write(stores[number % 2], f"w{number}") for number in range(4)))
        await asyncio.wait_for(writers, 30)
        await _put(stores[1], root + "last", b"1")
        while root + "last" not in known:
            event = await watched.next()
            known |= event.written
            known = {key: entry for key, entry in known.items() if key not in event.deleted}
    assert known == await stores[1].list(root)


async def test_what_was_delivered_belongs_to_the_consumer(store: Store, root: str, watching: Watching) -> None:
    """Changing a delivered snapshot does not change what the watch knows."""
    version = await _put(store, root + "a", b"1")
    async with watching(store, root) as watched:
        snapshot = await watched.next()
        snapshot.entries.clear()
        await _put(store, root + "b", b"1")
        event = await watched.next()
        assert set(event.written) == {root + "b"}
    assert (await store.get([root + "a"]))[root + "a"].version == version


async def test_closing_ends_a_watch_that_waits(store: Store, root: str, watching: Watching) -> None:
    """A consumer that waits for the next event is let go, and nothing can be asked any more."""
    async with watching(store, root) as watched:
        await watched.next()
        end = asyncio.create_task(watched.ends())
        await asyncio.sleep(0)
        await store.close()
        assert await end
    for question in (store.get([root + "a"]), store.list(root), store.commit([Put(root + "a", b"1", None)])):
        with pytest.raises(StoreUnavailable, match="closed"):
            await question
    await store.close()


async def test_a_watch_can_be_cancelled_while_it_waits(store: Store, root: str, watching: Watching) -> None:
    """Cancelling the consumer ends the watch and leaves the store as usable as before."""
    async with watching(store, root) as watched:
        await watched.next()
        waiting = asyncio.create_task(watched.next())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await _put(store, root + "a", b"1") != ABSENT

"""How values lie in Consul: small ones as they are, large ones compressed, and whatever a person made of them."""

from __future__ import annotations

import base64
import http.client
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from controller.ports import ABSENT, Entry, Put
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LARGE = json.dumps([{"handle": f"workload-{number}", "interface": "eth0"} for number in range(200)]).encode()


@pytest.fixture
async def store(consul_server: Any) -> AsyncIterator[ConsulStore]:  # noqa: ANN401  its class lives in a conftest
    """Give a store on the server that the whole run shares."""
    store = ConsulStore(ConsulAccess(consul_server.address))
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("value", "largest"), [(_LARGE, len(_LARGE) // 4), (b"x" * 200, 200), (b"", 0), (os.urandom(100_000), 101_000)]
)
async def test_a_large_value_takes_little_room(
    store: ConsulStore,
    consul_server: Any,  # noqa: ANN401  as above
    value: bytes,
    largest: int,
) -> None:
    """What is written is what is read, by any way of reading; a large text lies in Consul in a quarter of its size."""
    key = f"compression/{len(value)}"
    version = (await store.commit([Put(key, value, None)]))[key]
    entry = Entry(value, version)
    assert await store.get([key]) == {key: entry}
    assert await store.get([key, "compression/none"]) == {key: entry}
    assert await store.list(key) == {key: entry}
    assert len(_raw(consul_server.port, key)) <= largest


async def test_a_small_value_can_be_read_by_a_person(store: ConsulStore, consul_server: Any) -> None:  # noqa: ANN401  as above
    """`consul kv get` shows a record of usual size as it is."""
    await store.commit([Put("compression/small", b'{"name":"pool"}', None)])
    assert _raw(consul_server.port, "compression/small") == b'{"name":"pool"}'


async def test_the_same_large_value_again_changes_nothing(store: ConsulStore) -> None:
    """Its version stays, as the port says; a write that expects the version still finds it."""
    key = "compression/again"
    version = (await store.commit([Put(key, _LARGE, None)]))[key]
    assert await store.commit([Put(key, _LARGE, version)]) == {key: version}


async def test_what_a_person_wrote_over_a_large_value_is_read(store: ConsulStore, consul_server: Any) -> None:  # noqa: ANN401  as above
    """Consul's own pages keep the mark of the former value; the new one is read as it is."""
    key = "compression/overwritten"
    await store.commit([Put(key, _LARGE, None)])
    (row,) = json.loads(_request(consul_server.port, "GET", f"/v1/kv/{key}"))
    assert row["Flags"] != 0
    _request(consul_server.port, "PUT", f"/v1/kv/{key}?flags={row['Flags']}", b"by hand")
    assert (await store.get([key]))[key].value == b"by hand"
    await store.commit([Put(key, b"ours again", None)])
    assert (await store.get([key]))[key].value == b"ours again"


async def test_a_large_value_is_created_once(store: ConsulStore) -> None:
    """The expected version guards a compressed value as any other."""
    key = "compression/created"
    version = (await store.commit([Put(key, _LARGE, ABSENT)]))[key]
    newer = (await store.commit([Put(key, _LARGE + b"x", version)]))[key]
    assert newer != version
    assert (await store.get([key]))[key] == Entry(_LARGE + b"x", newer)


def _raw(port: int, key: str) -> bytes:
    (row,) = json.loads(_request(port, "GET", f"/v1/kv/{key}"))
    return base64.b64decode(row["Value"] or "")


def _request(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body)
        return connection.getresponse().read()
    finally:
        connection.close()

"""What only the Consul store has to promise: outages, permissions, encryption and strangers."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from controller.errors import ConflictError, StoreDenied, StoreUnavailable
from controller.ports import ABSENT, Changes, Check, Delete, Entry, Interrupted, Put, Snapshot, Store, Version
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Watching = Callable[[Store, str], AbstractAsyncContextManager[Any]]
    Opening = Callable[..., ConsulStore]

_MASTER = "6b1c2f0e-5a53-4b60-9b54-7f1d1c1f9a01"


@pytest.fixture
async def opening() -> AsyncIterator[Opening]:
    """Open stores that are closed when the test ends."""
    opened: list[ConsulStore] = []

    def open_one(address: str, *, timeout_seconds: float = 5.0, **access: Any) -> ConsulStore:  # noqa: ANN401  fields of ConsulAccess
        opened.append(ConsulStore(ConsulAccess(address=address, **access), timeout_seconds=timeout_seconds))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


async def test_a_watch_survives_a_killed_server(own_consul: Any, opening: Opening, watching: Watching) -> None:  # noqa: ANN401  its class lives in a conftest
    """One `Interrupted` for the whole outage, then the changes since, with nothing repeated and nothing lost."""
    store = opening(own_consul.address)
    await store.commit([Put("a/kept", b"1", ABSENT), Put("a/gone", b"1", ABSENT)])
    async with watching(store, "a/") as watched:
        assert isinstance(await watched.next(), Snapshot)
        own_consul.kill()
        assert isinstance(await watched.next(), Interrupted)
        with pytest.raises(StoreUnavailable):
            await store.get(["a/kept"])
        with pytest.raises(StoreUnavailable):
            await store.commit([Put("a/kept", b"2", None)])
        resumed = asyncio.create_task(watched.next())
        await asyncio.to_thread(own_consul.start)
        assert await resumed == Changes({}, frozenset())
        version = (await store.commit([Put("a/new", b"1", ABSENT), Delete("a/gone", None)]))["a/new"]
        assert await watched.next() == Changes({"a/new": Entry(b"1", version)}, frozenset({"a/gone"}))


async def test_a_watch_sees_that_a_server_came_back_empty(
    own_consul: Any,  # noqa: ANN401  its class lives in a conftest
    opening: Opening,
    watching: Watching,
) -> None:
    """A server that lost its data has deleted every key, and what is written then arrives in spite of its low index."""
    store = opening(own_consul.address)
    for number in range(20):
        await store.commit([Put("a/counted", b"%d" % number, None)])
    async with watching(store, "a/") as watched:
        assert isinstance(await watched.next(), Snapshot)
        own_consul.kill()
        assert isinstance(await watched.next(), Interrupted)
        own_consul.wipe()
        resumed = asyncio.create_task(watched.next())
        await asyncio.to_thread(own_consul.start)
        assert await resumed == Changes({}, frozenset({"a/counted"}))
        version = (await store.commit([Put("a/counted", b"again", ABSENT)]))["a/counted"]
        assert await watched.next() == Changes({"a/counted": Entry(b"again", version)}, frozenset())


async def test_a_watch_waits_for_a_server_that_is_not_there_yet(
    make_consul: Callable[[dict[str, Any]], Any], opening: Opening, watching: Watching
) -> None:
    """Started before the server, a watch says so once and delivers the snapshot when it can."""
    server = make_consul({})
    store = opening(server.address)
    async with watching(store, "a/") as watched:
        assert isinstance(await watched.next(), Interrupted)
        snapshot = asyncio.create_task(watched.next())
        await asyncio.to_thread(server.start)
        assert await snapshot == Snapshot({})


async def test_a_server_that_hangs_is_unavailable(own_consul: Any, opening: Opening) -> None:  # noqa: ANN401  its class lives in a conftest
    """A request that is not answered ends at its deadline; the next one finds the server again."""
    await opening(own_consul.address).commit([Put("a", b"1", None)])
    store = opening(own_consul.address, timeout_seconds=0.5)
    own_consul.freeze()
    with pytest.raises(StoreUnavailable, match="no answer within"):
        await store.commit([Put("a", b"2", None)])
    own_consul.thaw()
    async with asyncio.timeout(30):
        while True:
            try:
                assert set(await store.get(["a"])) == {"a"}
            except StoreUnavailable:
                continue
            break


async def test_closing_ends_a_watch_between_two_attempts(opening: Opening, watching: Watching) -> None:
    """A watch that waits to try again is let go at once."""
    store = opening("http://127.0.0.1:1")
    async with watching(store, "a/") as watched:
        assert isinstance(await watched.next(), Interrupted)
        end = asyncio.create_task(watched.ends())
        await asyncio.sleep(0)
        await store.close()
        assert await end


async def test_a_transaction_is_never_sent_twice(opening: Opening) -> None:
    """A kept connection that breaks under a transaction is `StoreUnavailable`, not a second try behind our back."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            requests.append(await reader.readexactly(length))
            if len(requests) > 1:
                break
            body = b'{"Results": [], "Errors": null}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        store = opening(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await store.commit([Delete("a", None)])
        with pytest.raises(StoreUnavailable):
            await store.commit([Delete("a", None)])
    assert len(requests) == 2


async def test_an_index_that_goes_back_is_not_believed(opening: Opening, watching: Watching) -> None:
    """What a server that lags behind says is dropped, and the truth is read consistently."""
    row = b'{"Key": "a/b", "Value": "MQ==", "ModifyIndex": 7}'
    later = b'{"Key": "a/c", "Value": "MQ==", "ModifyIndex": 8}'
    script = [(10, b"[%s]" % row), (5, b"[]"), (6, b"[%s]" % row), (8, b"[%s,%s]" % (row, later))]
    queries: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for index, body in script:
            queries.append((await reader.readuntil(b"\r\n\r\n")).split()[1].partition(b"?")[2])
            head = b"HTTP/1.1 200 OK\r\nX-Consul-Index: %d\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % (index, len(body)) + body)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        store = opening(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with watching(store, "a/") as watched:
            assert await watched.next() == Snapshot({"a/b": Entry(b"1", Version(7))})
            assert await watched.next() == Changes({"a/c": Entry(b"1", Version(8))}, frozenset())
    consistent, blocking = b"recurse=1&consistent=1", b"recurse=1&index=%d&wait=30s"
    assert queries == [consistent, blocking % 10, consistent, blocking % 6]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Consul-Index: 1\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Consul-Index: 1\r\n\r\n[1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Consul-Index: 1\r\n\r\n[{}]",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        b"",
    ],
)
async def test_a_stranger_is_no_empty_store(opening: Opening, watching: Watching, answer: bytes) -> None:
    """Whatever else answers at the address, nothing is concluded from it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        store = opening(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        questions = store.get(["a"]), store.get(["a", "b"]), store.list("a/"), store.commit([Put("a", b"", None)])
        for question in questions:
            with pytest.raises(StoreUnavailable):
                await question
        async with watching(store, "a/") as watched:
            assert isinstance(await watched.next(), Interrupted)


async def test_a_token_decides_what_may_be_done(
    make_consul: Callable[[dict[str, Any]], Any],
    opening: Opening,
    watching: Watching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No permission is `StoreDenied` wherever it is missing, never an empty store; the token set is the token used."""
    settings = {"acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": _MASTER}}}
    server = make_consul(settings)
    await asyncio.to_thread(server.start)
    reader_token = await asyncio.to_thread(_make_token, server.address, 'key_prefix "a/" { policy = "read" }')
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "00000000-0000-0000-0000-000000000000")
    master = opening(server.address, token=_MASTER)
    versions = await master.commit([Put("a/b", b"1", ABSENT), Put("c/d", b"1", ABSENT)])

    reader = opening(server.address, token=reader_token)
    assert set(await reader.get(["a/b", "a/none"])) == {"a/b"}
    assert set(await reader.list("a/")) == {"a/b"}
    assert await reader.list("a/none/") == {}
    assert await reader.commit([Check("a/b", versions["a/b"])]) == {}
    with pytest.raises(ConflictError):
        await reader.commit([Check("a/none", versions["a/b"])])
    for store in (reader, opening(server.address), opening(server.address, token="unknown")):
        questions = (
            store.get(["c/d"]),
            store.get(["c/d", "c/none"]),
            store.list("c/"),
            store.commit([Put("a/b", b"2", None)]),
            store.commit([Delete("a/b", None)]),
            store.commit([Check("c/d", versions["c/d"])]),
        )
        for question in questions:
            with pytest.raises(StoreDenied):
                await question
        async with watching(store, "c/") as watched:
            assert isinstance(await watched.next(), Interrupted)


async def test_a_watch_outlives_its_permission(
    make_consul: Callable[[dict[str, Any]], Any], opening: Opening, watching: Watching
) -> None:
    """A token that is revoked interrupts the watch; the keys it may no longer see are not reported as deleted."""
    settings = {"acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": _MASTER}, "token_ttl": "0s"}}
    server = make_consul(settings)
    await asyncio.to_thread(server.start)
    token = await asyncio.to_thread(_make_token, server.address, 'key_prefix "" { policy = "read" }')
    master = opening(server.address, token=_MASTER)
    await master.commit([Put("a/b", b"1", ABSENT)])
    async with watching(opening(server.address, token=token), "a/") as watched:
        assert isinstance(await watched.next(), Snapshot)
        await asyncio.to_thread(_revoke, server.address)
        await master.commit([Put("a/c", b"1", ABSENT)])
        assert isinstance(await watched.next(), Interrupted)


async def test_a_connection_is_encrypted_and_both_ends_are_known(
    make_consul: Callable[[dict[str, Any]], Any],
    opening: Opening,
    tmp_path: Path,
) -> None:
    """The server's certificate must be signed by the given authority, and the client shows its own."""
    await asyncio.to_thread(_make_certificates, tmp_path)
    settings = {
        "ca_file": str(tmp_path / "ca.pem"),
        "cert_file": str(tmp_path / "server.pem"),
        "key_file": str(tmp_path / "server.key"),
        "verify_incoming_https": True,
    }
    server = make_consul(settings)
    await asyncio.to_thread(server.start)
    ours = {"cert_file": tmp_path / "client.pem", "key_file": tmp_path / "client.key"}
    store = opening(server.https_address, ca_file=tmp_path / "ca.pem", **ours)
    version = (await store.commit([Put("a", b"1", ABSENT)]))["a"]
    assert await store.get(["a"]) == {"a": Entry(b"1", version)}

    strangers = {
        "an unknown authority": opening(server.https_address, **ours),
        "another name": opening(server.https_address.replace("127.0.0.1", "127.0.0.2"), ca_file=tmp_path / "ca.pem"),
        "no client certificate": opening(server.https_address, ca_file=tmp_path / "ca.pem"),
        "no authority file": opening(server.https_address, ca_file=tmp_path / "none.pem"),
        "no encryption": opening(server.https_address.replace("https", "http")),
    }
    for stranger in strangers.values():
        with pytest.raises(StoreUnavailable):
            await stranger.get(["a"])


def _ask(address: str, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401  JSON
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    try:
        connection.request(method, path, json.dumps(body), {"X-Consul-Token": _MASTER})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)
    finally:
        connection.close()


def _make_token(address: str, rules: str) -> str:
    _ask(address, "PUT", "/v1/acl/policy", {"Name": "keys", "Rules": rules})
    token = _ask(address, "PUT", "/v1/acl/token", {"Policies": [{"Name": "keys"}]})
    return str(token["SecretID"])


def _revoke(address: str) -> None:
    (policy,) = [policy for policy in _ask(address, "GET", "/v1/acl/policies") if policy["Name"] == "keys"]
    body = {"ID": policy["ID"], "Name": "keys", "Rules": 'key_prefix "other/" { policy = "read" }'}
    _ask(address, "PUT", "/v1/acl/policy/" + policy["ID"], body)


def _make_certificates(directory: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-x509")
    openssl("req", *key, "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        names = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key")
        openssl("req", *key, *signed, *names, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")

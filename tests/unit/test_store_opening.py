"""Opening the store that settings name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from controller.errors import RefusedError
from controller.settings import Settings
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess
from controller.store.memory import MemoryStore
from controller.store.opening import StoreKind, StoreSettings, open_store
from controller.store.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory:", StoreSettings(StoreKind.MEMORY)),
        ("sqlite:/a/b.db", StoreSettings(StoreKind.SQLITE, sqlite_path=Path("/a/b.db"))),
        ("sqlite:///a/b.db", StoreSettings(StoreKind.SQLITE, sqlite_path=Path("/a/b.db"))),
        ("http://h:1", StoreSettings(StoreKind.CONSUL, consul=ConsulAccess(address="http://h:1"))),
        ("https://h", StoreSettings(StoreKind.CONSUL, consul=ConsulAccess(address="https://h"))),
    ],
)
def test_a_url_names_a_store(url: str, expected: StoreSettings) -> None:
    """Each scheme stands for one kind of store."""
    assert StoreSettings.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "sqlite:", "etcd://h", "memory", "http://", "http://h:99999", "http://h/path", "http://u:p@h", "http://h?q"],
)
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    """The message shows what was written and what may be written."""
    with pytest.raises(RefusedError, match="write"):
        StoreSettings.parse(url)


def test_an_address_is_taken_apart() -> None:
    """Host and port stand as they do in a URL, with Consul's port by default."""
    address = ConsulAccess(address="https://[fd00::1]")
    assert (address.scheme, address.host, address.port) == ("https", "[fd00::1]", 8500)
    assert ConsulAccess(address="http://h:85/").port == 85


def test_access_that_cannot_work_is_refused() -> None:
    """A certificate without its key and a broken token show before the first request, the token not in the message."""
    with pytest.raises(RefusedError, match="come together"):
        ConsulAccess(cert_file=Path("a"))
    with pytest.raises(RefusedError) as caught:
        ConsulAccess(token="secret\n")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(ConsulAccess(token="secret"))


def test_settings_of_a_host_are_carried_over(tmp_path: Path) -> None:
    """Every setting that concerns the store arrives, the token out of its file."""
    token_file = tmp_path / "token"
    token_file.write_text("t\n")
    settings = Settings(
        store="consul",
        sqlite_path=Path("/s"),
        consul_address="https://h:1",
        consul_token_file=token_file,
        consul_ca_file=Path("ca"),
        consul_cert_file=Path("cert"),
        consul_key_file=Path("key"),
        consul_datacenter="dc2",
        store_timeout_seconds=7,
    )
    access = ConsulAccess("https://h:1", "t", Path("ca"), Path("cert"), Path("key"), "dc2")
    assert StoreSettings.of(settings) == StoreSettings(StoreKind.CONSUL, Path("/s"), access, 7)


async def test_each_kind_opens_its_store(tmp_path: Path) -> None:
    """Opening contacts nothing: neither a server nor a file is there."""
    kinds = {"memory:": MemoryStore, f"sqlite:{tmp_path}/no/store.db": SqliteStore, "http://127.0.0.1:1": ConsulStore}
    for url, kind in kinds.items():
        store = open_store(url)
        assert isinstance(store, kind)
        await store.close()


def test_only_the_store_in_use_is_imported() -> None:
    """A host without Consul does not pay for its client."""
    program = "import sys; from controller.store.opening import open_store; open_store('memory:'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"consul", "aiohttp", "sqlite3", "pydantic"} & set(done.stdout.split())

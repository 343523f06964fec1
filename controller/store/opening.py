"""Open the store that the settings name; only that one's libraries are imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.errors import RefusedError
from controller.store.consul_access import ConsulAccess

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.ports import Store
    from controller.settings import Settings

DEFAULT_PATH: Final = Path("/var/lib/tortie/store.db")


class StoreKind(Enum):
    """Where keys and values are kept."""

    SQLITE = "sqlite"
    CONSUL = "consul"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Which store, where it is, and how long one request to it may take, in seconds."""

    kind: StoreKind = StoreKind.SQLITE
    sqlite_path: Path = DEFAULT_PATH
    consul: ConsulAccess = field(default_factory=ConsulAccess)
    timeout_seconds: float = 5.0

    @classmethod
    def of(cls, settings: Settings) -> StoreSettings:
        """Return the part of a host's settings that concerns the store; raises `RefusedError`."""
        return cls(
            StoreKind(settings.store), settings.sqlite_path, consul_access(settings), settings.store_timeout_seconds
        )

    @classmethod
    def parse(cls, url: str) -> StoreSettings:
        """Return what `memory:`, `sqlite:PATH`, `http://HOST:PORT` or `https://HOST:PORT` stands for.

        The last two are Consul's. Raises `RefusedError` for anything else.
        """
        scheme, _, rest = url.partition(":")
        if scheme in ("http", "https"):
            return cls(StoreKind.CONSUL, consul=ConsulAccess(address=url))
        if scheme == "sqlite" and rest:
            return cls(StoreKind.SQLITE, sqlite_path=Path(rest.removeprefix("//")))
        if url == "memory:":
            return cls(StoreKind.MEMORY)
        raise RefusedError(f"{url!r} names no store: write sqlite:PATH, http://HOST:PORT, https://HOST:PORT or memory:")


def consul_access(settings: Settings) -> ConsulAccess:
    """Return how a host's settings reach Consul, with the token as its file holds it now; raises `RefusedError`."""
    return ConsulAccess(
        address=settings.consul_address,
        token=settings.token(),
        ca_file=settings.consul_ca_file,
        cert_file=settings.consul_cert_file,
        key_file=settings.consul_key_file,
        datacenter=settings.consul_datacenter,
    )


def open_store(settings: StoreSettings | str, heard: Callable[[], None] = lambda: None) -> Store:
    """Return the store that settings, or a URL as `StoreSettings.parse` takes it, name; nothing is contacted yet.

    `heard` is called whenever one of its watches has heard from it, if only that there is nothing new.
    """
    if isinstance(settings, str):
        settings = StoreSettings.parse(settings)
    match settings.kind:
        case StoreKind.SQLITE:
            from controller.store.sqlite import SqliteStore  # noqa: PLC0415  only what is used is imported

            return SqliteStore(settings.sqlite_path, timeout_seconds=settings.timeout_seconds, heard=heard)
        case StoreKind.CONSUL:
            from controller.store.consul import ConsulStore  # noqa: PLC0415  as above

            return ConsulStore(settings.consul, timeout_seconds=settings.timeout_seconds, heard=heard)
        case StoreKind.MEMORY:
            from controller.store.memory import MemoryStore  # noqa: PLC0415  as above

            return MemoryStore()

"""What the commands talk to: the store that the settings name, and this host's agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from controller.ports import Store
    from controller.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Connection:
    """The command line's own settings; what they leave open comes from the environment and the file."""

    flags: Mapping[str, str]
    socket: str | None

    def settings(self) -> Settings:
        """Return the settings in force; raises `RefusedError`."""
        # Validation costs a quarter of a second of imports, which `--help` need not pay.
        from controller.settings import load  # noqa: PLC0415  as above

        return load(self.flags)

    @property
    def agent_socket(self) -> Path:
        """Where the agent of this host listens."""
        return Path(self.socket) if self.socket else self.settings().agent_socket

    def with_store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Open the store, return what the work returns, and close it; raises what either raises."""
        import asyncio  # noqa: PLC0415  as above

        from controller.store.opening import StoreSettings, open_store  # noqa: PLC0415  as above

        settings = StoreSettings.of(self.settings())

        async def opened() -> T:
            store = open_store(settings)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(opened())


pass_connection = click.make_pass_decorator(Connection)

"""What `tortiectl node delete` tells Consul's catalog."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from controller.errors import StoreDenied, StoreUnavailable

if TYPE_CHECKING:
    from controller.settings import Settings


def forget_in_catalog(settings: Settings, node: str) -> None:
    """Take a deleted node out of Consul's catalog; where that fails, say so and how it ends by itself."""
    from controller.store.consul_catalog import NO_SERVICE, ConsulCatalog  # noqa: PLC0415  only a deletion needs it
    from controller.store.opening import consul_access  # noqa: PLC0415  as above

    service = settings.consul_service
    if settings.store != "consul" or service == NO_SERVICE:
        return
    access = consul_access(settings)

    async def forget() -> None:
        catalog = ConsulCatalog(access, timeout_seconds=settings.store_timeout_seconds)
        try:
            await catalog.remove(service, node)
        finally:
            await catalog.close()

    try:
        asyncio.run(forget())
    except (StoreUnavailable, StoreDenied) as error:
        click.echo(
            f"tortiectl: warning: Consul's service {service} still lists the node, until its check has been critical "
            f"for a day: {error}",
            err=True,
        )

"""The options of the commands that ask every node's agent."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from controller.cli.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C", bound="Callable[..., Any]")
_DEFAULT_PORT: Final = 9091


def asking_options(function: C) -> C:
    """Return the command with the options and their values as its argument `asking`; the port is http_listen's."""

    @click.option("--port", type=click.IntRange(1, 65535), help="Port of the agents [that of http_listen].")
    @click.option(
        "--timeout-seconds",
        type=click.FloatRange(0.1, 300),
        default=5.0,
        show_default=True,
        help="How long a node may take to answer.",
    )
    @click.option(
        "--settle-seconds",
        type=click.FloatRange(0, 60),
        default=2.0,
        show_default=True,
        help="How long a fault must last to be told.",
    )
    @functools.wraps(function)
    def command(*arguments: Any, port: int | None, timeout_seconds: float, settle_seconds: float, **others: Any) -> Any:  # noqa: ANN401  click passes what the options say
        from controller.cli.doctor_settling import Asking  # noqa: PLC0415  imports aiohttp, which `--help` need not

        asking = Asking(port or _configured_port(), timeout_seconds, settle_seconds)
        return function(*arguments, asking=asking, **others)

    return cast("C", command)


def _configured_port() -> int:
    connection = click.get_current_context().find_object(Connection)
    listen = None if connection is None else connection.settings().http_listen
    return _DEFAULT_PORT if listen is None else listen.port

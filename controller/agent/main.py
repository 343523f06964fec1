"""The command `tortie-agent`: settings, logging, and a clean start and stop around the agent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from controller import logs
from controller.agent.notify import notify
from controller.agent.running import Agent
from controller.errors import TortieError
from controller.settings import DEFAULT_FILE, FILE_VARIABLE, Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

#: New objects before a look at them, such looks before one at what survived some, and those before one at everything.
_ALLOCATIONS_BEFORE_COLLECTION: Final = (250_000, 50, 1_000)
#: How long a thread may keep the interpreter from one that waits for it. Writing 10,000 routes takes it sixty times
#: while the event loop may be deciding: with Python's own 5 ms that added 300 ms.
_THREAD_SWITCH_SECONDS: Final = 0.0005


def _with_setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command one flag for each setting; a flag that is not given leaves the file and environment to speak."""
    for name, field in reversed(Settings.model_fields.items()):
        default = "" if field.default_factory else f"  [default: {'none' if field.default is None else field.default}]"
        flag = "--" + name.replace("_", "-")
        command = click.option(flag, name, default=None, help=f"{field.description}{default}")(command)
    return command


@click.command(context_settings={"max_content_width": 120})
@_with_setting_flags
def main(**flags: Any) -> None:  # noqa: ANN401  what click parsed; the settings check each
    """Make this host a router: wire its containers, program its kernel routes, keep its BGP peers.

    Settings come from the file, then the environment, then these flags; the later wins.
    """
    try:
        settings = load({name: value for name, value in flags.items() if value is not None})
        logs.configure(settings.log_level, settings.log_format)
        collect_garbage_rarely()
        sys.setswitchinterval(_THREAD_SWITCH_SECONDS)
        asyncio.run(_run(settings))
    except TortieError as error:
        click.echo(f"tortie-agent: error: {error}", err=True)
        sys.exit(1)


main.epilog = (
    f"The file is {DEFAULT_FILE} or the one {FILE_VARIABLE} names, in TOML; environment variables are TORTIE_ and the "
    f"setting in capitals, for example TORTIE_NODE_NAME."
)


def collect_garbage_rarely() -> None:
    """Let the garbage collector look at what is new, and hardly ever at everything.

    A look at everything stops the agent for 40 ms with 10,000 routes and for longer with more, and finds next to
    nothing: routes, which are most of it, are freed by their reference counts.
    """
    gc.freeze()
    gc.set_threshold(*_ALLOCATIONS_BEFORE_COLLECTION)


async def _run(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT, then stop it; routes and sessions stay as they are.

    What ends the agent otherwise is raised, so that the process ends with it and its supervisor starts it anew.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = asyncio.create_task(_serve(settings), name="agent")
    stopping = asyncio.create_task(stop.wait(), name="signals")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        log.info("stopping; routes, sessions and containers stay as they are")
        notify("STOPPING=1")
        running.cancel()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _serve(settings: Settings) -> None:
    """Run the agent until cancelled, also while it still waits for its address."""
    agent = await Agent.create(settings)
    await agent.run()

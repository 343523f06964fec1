"""Programs that configure the kernel, run with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from controller.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEADLINE_SECONDS: Final = 10.0


async def run_program(command: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """Give a program this text and return its exit status, output and errors.

    Raises `FileNotFoundError` when it is not installed, and `TransientError` when it cannot be started or does not end
    in time; it is killed then, as it is when the caller is cancelled.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TransientError(f"{command[0]} cannot be started: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            output, errors = await process.communicate(text.encode())
    except TimeoutError as error:
        raise TransientError(f"{command[0]} did not end within {_DEADLINE_SECONDS:g} seconds") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")

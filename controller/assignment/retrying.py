"""Do it again when somebody else wrote first, a bounded number of times."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, TypeVar

from controller.errors import ConflictError, TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
#: How many transactions in a row may meet a conflict.
MAX_CONFLICTS: Final = 20
_LONGEST_PAUSE_SECONDS: Final = 0.1


async def until_committed(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what the first attempt without a conflict returns; each must read anew.

    Raises `TransientError` that names `what` after MAX_CONFLICTS, and what an attempt raises otherwise.
    """
    for count in range(1, MAX_CONFLICTS + 1):
        try:
            return await attempt()
        except ConflictError as error:
            conflict = error
        if count < MAX_CONFLICTS:
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311  spreads retries, protects nothing
    raise TransientError(
        f"{what}: {MAX_CONFLICTS} transactions were overtaken by other writers, the last because: {conflict}; try again"
    ) from conflict

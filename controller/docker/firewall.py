"""The host's packet filter: our own table replaced as a whole, and dockerd's filter asked to let our links through.

A dockerd that turns on forwarding sets the policy of the chain FORWARD to drop, and what one table drops no other can
save. Docker keeps the chain DOCKER-USER for the rules of others and never changes what is in it, so there, and only
there, two rules per IP version accept what comes from our links and what goes to them. They are written with the
`iptables` that dockerd itself uses, whichever of the kernel's two filters that is. Changing the policy instead would
open the host for everybody.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from controller.errors import PermanentError, TransientError
from controller.kernel.link_names import HOST_LINK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

_DEADLINE_SECONDS: Final = 10.0
_CHAIN: Final = "DOCKER-USER"
_PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}
_PASSES: Final = tuple((flag, f"{HOST_LINK_PREFIX}+") for flag in ("-i", "-o"))


class Firewall:
    """Runs `nft` and `iptables` in the namespace of this process, one after the other."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def apply(self, ruleset: str) -> None:
        """Make our table be as the text says, all at once; raises `PermanentError` and `TransientError`."""
        async with self._turn:
            try:
                status, _, errors = await _run(["nft", "-f", "-"], ruleset)
            except FileNotFoundError as error:
                raise PermanentError("ports cannot be published without the program nft; install nftables") from error
        if status:
            raise PermanentError(f"nft refuses the published ports: {errors.strip()[:300]}")

    async def let_through(self, version: int) -> None:
        """Have dockerd's filter of this IP version let our links through; without that filter there is nothing to do.

        Raises `PermanentError` and `TransientError`.
        """
        program = [_PROGRAMS[version], "-w", "5"]
        async with self._turn:
            try:
                status, present, _ = await _run([*program, "-S", _CHAIN])
            except FileNotFoundError:
                return
            if status:
                return  # no dockerd has filtered here yet
            for direction, links in _PASSES:
                if f"-A {_CHAIN} {direction} {links} -j ACCEPT" in present.splitlines():
                    continue
                status, _, errors = await _run([*program, "-I", _CHAIN, direction, links, "-j", "ACCEPT"])
                if status:
                    raise PermanentError(
                        f"{program[0]} refuses to let {links} through {_CHAIN}: {errors.strip()[:300]}"
                    )
                log.info("links let through dockerd's filter", extra={"program": program[0], "links": links})


async def _run(command: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """Return exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(text.encode()), _DEADLINE_SECONDS)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise TransientError(f"{command[0]} did not end within {_DEADLINE_SECONDS:g} seconds; try again") from error
        raise
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")

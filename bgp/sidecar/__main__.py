"""`python -m bgp.sidecar`: ExaBGP's API process, with ExaBGP's pipes as standard input and output."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path

from bgp.sidecar.channel import ChannelStuck
from bgp.sidecar.logs import form_of_settings, log_to_stderr
from bgp.sidecar.process import Sidecar
from bgp.sidecar.settings import DEFAULT_SOCKET, DEFAULT_STATE, SOCKET_VARIABLE, STATE_VARIABLE

log = logging.getLogger(__name__)


def main() -> int:
    """Run until ExaBGP goes away; 0 then, 1 if ExaBGP stopped answering (it starts this process again)."""
    log_to_stderr(form_of_settings())
    state_directory = Path(os.environ.get(STATE_VARIABLE, DEFAULT_STATE))
    socket_path = Path(os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET))
    # Only commands may reach ExaBGP: whatever else is printed goes to standard error.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # With many routes a look at everything stops the sidecar for as long as it takes, and finds next to nothing.
    gc.freeze()
    gc.set_threshold(50_000, 100, 1_000)
    status = 0
    try:
        asyncio.run(Sidecar(state_directory, socket_path).run(sys.stdin.buffer, sink))
    except* ChannelStuck as group:
        log.error("ExaBGP is stuck", extra={"reason": str(group.exceptions[0])})  # noqa: TRY400 - the reason is enough
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

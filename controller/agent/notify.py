"""Telling systemd how the agent is (sd_notify(3)); without systemd nobody is told anything."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state such as `READY=1` or `STOPPING=1` to the service manager that started this process, if one did.

    An unreachable manager is not an error: what is told is a courtesy.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(1)
            manager.sendto(state.encode(), address)
    except OSError as error:
        log.warning("service manager was not told", extra={"state": state, "reason": str(error)})

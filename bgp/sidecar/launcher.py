"""`tortie-bgp`: prepares the files, then becomes ExaBGP, which runs the sidecar as its API process."""

from __future__ import annotations

import argparse
import logging
import os
import pwd
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from bgp import wire
from bgp.sidecar import speaker
from bgp.sidecar.files import ConfigurationRefused, configuration_path, desired_path, write_initial_configuration
from bgp.sidecar.logs import FORM_VARIABLE, FORMS, form_of_settings, log_to_stderr
from bgp.sidecar.settings import DEFAULT_SOCKET, DEFAULT_STATE, SOCKET_VARIABLE, STATE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("bgp.sidecar.launcher")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the BGP speaker until SIGTERM; the exit status is ExaBGP's (0 after SIGTERM)."""
    options = _parser().parse_args(arguments)
    # Not all loggers: ExaBGP's, in this process later on, have a stream of their own.
    log_to_stderr(options.log_format, "bgp")
    # ExaBGP changes its directory to /.
    state_directory, socket_path = options.state_dir.absolute(), options.socket.absolute()
    state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_initial_configuration(state_directory)
    except (wire.MalformedMessage, ConfigurationRefused) as error:
        log.warning("starting without peers until an agent comes", extra={"reason": str(error)})
    if options.user is not None:
        _give(options.user, state_directory, socket_path.parent)
    os.environ[SOCKET_VARIABLE] = str(socket_path)
    os.environ[STATE_VARIABLE] = str(state_directory)
    os.environ[FORM_VARIABLE] = options.log_format
    speaker.run(
        configuration_path(state_directory),
        listen=options.listen or _every_address(),
        port=options.port,
        user=options.user or pwd.getpwuid(os.getuid()).pw_name,
        log_format=options.log_format,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tortie-bgp", description="Run the BGP speaker and its socket.")
    parser.add_argument(
        "--socket",
        type=Path,
        default=Path(os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET)),
        help=f"where the agent connects (${SOCKET_VARIABLE}, default {DEFAULT_SOCKET})",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(os.environ.get(STATE_VARIABLE, DEFAULT_STATE)),
        help=f"where configuration and desired state are kept (${STATE_VARIABLE}, default {DEFAULT_STATE})",
    )
    parser.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS",
        help="an address to accept sessions on; may be repeated (default: every address)",
    )
    parser.add_argument("--port", type=int, default=179, help="the TCP port to accept sessions on (default 179)")
    parser.add_argument("--user", help="the user to run as once the port is open (default: the current one)")
    parser.add_argument(
        "--log-format",
        choices=FORMS,
        default=form_of_settings(),
        help=f"how a line of the log is written (${FORM_VARIABLE}, default the agent's setting log_format)",
    )
    return parser


def _every_address() -> list[str]:
    """Return the wildcard of IPv4, and of IPv6 where the host has IPv6: ExaBGP ends if it cannot open one."""
    addresses = ["0.0.0.0"]
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return addresses
    return [*addresses, "::"]


def _give(user: str, state_directory: Path, socket_directory: Path) -> None:
    """Make the user the owner of what the sidecar writes."""
    kept = (configuration_path(state_directory), desired_path(state_directory))
    for path in (state_directory, socket_directory, *(path for path in kept if path.exists())):
        shutil.chown(path, user=user)


if __name__ == "__main__":
    main()

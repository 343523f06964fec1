"""ExaBGP in this process, with its settings, and with what `bgp.sidecar` repairs, bounds and hastens in it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Changes taken from a command in one round of ExaBGP's loop. With its own 50, 10,000 routes take 2.9 s, so 0.9 s.
_CHANGES_A_ROUND: Final = 2000
#: ExaBGP waits up to this many hundredths of a second for input. Fifty idle peers: 2.0 takes 4.8 % of a core,
#: 5.0 2.0 %, 10.0 0.9 %; only the end of a pause, and that a peer has taken our call, is noticed after the wait.
_REACTOR_SPEED: Final = "10.0"
#: Routes of one peer are shown in one go, so that no event comes between them.
_ROUTES_AT_ONCE: Final = "10000000"


def run(configuration: Path, *, listen: Iterable[str], port: int, user: str, log_format: str) -> None:
    """Become ExaBGP with this configuration; ends with SystemExit."""
    settings_file = configuration.with_name("exabgp.env")
    settings_file.touch()
    os.environ.update(
        {
            # An empty file, so that no settings of another ExaBGP on this host are read.
            "EXABGP_ENVFILE": str(settings_file),
            "exabgp_api_ack": "true",
            "exabgp_api_chunk": _ROUTES_AT_ONCE,
            "exabgp_api_cli": "false",
            "exabgp_api_encoder": "json",
            "exabgp_api_respawn": "true",
            "exabgp_api_show-routes-format": "v2",
            "exabgp_daemon_daemonize": "false",
            "exabgp_daemon_drop": "true",
            "exabgp_daemon_user": user,
            "exabgp_log_destination": "stderr",
            "exabgp_reactor_speed": _REACTOR_SPEED,
            "exabgp_tcp_bind": " ".join(listen),
            "exabgp_tcp_port": str(port),
        }
    )
    os.environ.setdefault("exabgp_log_level", "WARNING")
    sys.argv = ["exabgp", "server", str(configuration)]
    _start(log_format)


def _start(log_format: str) -> None:
    # ExaBGP reads its settings from the environment when it is imported.
    from exabgp.application.main import main  # noqa: PLC0415 - see above
    from exabgp.reactor.asynchronous import ASYNC  # noqa: PLC0415 - see above

    from bgp.sidecar import bounds, haste, logs, repairs, rows  # noqa: PLC0415 - they import ExaBGP

    ASYNC.LIMIT = _CHANGES_A_ROUND
    repairs.apply()
    bounds.apply()
    haste.apply()
    rows.apply()
    logs.let_exabgp_write(log_format)
    sys.exit(main())

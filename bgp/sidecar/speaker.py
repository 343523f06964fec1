"""ExaBGP in this process, with its settings and a few repairs.

ExaBGP 5.0.15 is measured; the repairs name what they repair, so that they can go when a later release needs them no
more. They replace attributes of ExaBGP's classes, which is the only way in: it has no setting for any of them.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Changes taken from a command in one round of ExaBGP's loop. With its own 50, 10,000 routes take 2.9 s, so 0.9 s.
_CHANGES_A_ROUND: Final = 2000
#: ExaBGP waits up to this many hundredths of a second for input. One peer idle: 1.0 takes 2.1 % of a core, 2.0 1.5 %,
#: 5.0 0.7 %; a new connection is accepted only after the wait, everything else wakes it.
_REACTOR_SPEED: Final = "2.0"
#: Routes of one peer are shown in one go, so that no event comes between them.
_ROUTES_AT_ONCE: Final = "10000000"
#: The third and fourth octet of MP_REACH_NLRI: SAFI 1, and a next hop of two IPv6 addresses (RFC 4760, section 3).
_UNICAST_WITH_TWO_ADDRESSES: Final = bytes([1, 32])
#: The pause before a session is tried again doubles from the first to the longest, in seconds.
_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 2.0


def run(configuration: Path, *, listen: Iterable[str], port: int, user: str) -> None:
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
    _start()


def _start() -> None:
    # ExaBGP reads its settings from the environment when it is imported.
    from exabgp.application.main import main  # noqa: PLC0415 - see above
    from exabgp.reactor.asynchronous import ASYNC  # noqa: PLC0415 - see above

    ASYNC.LIMIT = _CHANGES_A_ROUND
    _forget_routes_of_ended_sessions()
    _keep_global_next_hops()
    _end_only_what_was_begun()
    _survive_a_dead_api_process()
    _try_again_soon()
    sys.exit(main())


def _forget_routes_of_ended_sessions() -> None:
    """Empty a peer's Adj-RIB-In when its session ends.

    ExaBGP keeps it, so that after the next session `show adj-rib in` lists routes the peer never announced on it.
    """
    from exabgp.rib.incoming import IncomingRIB  # noqa: PLC0415 - imported after the settings are made

    IncomingRIB.reset = IncomingRIB.clear


def _keep_global_next_hops() -> None:
    """Pass over the link-local address that a router on the same link adds to its global one (RFC 2545, section 3).

    ExaBGP makes a route of each of the two, and keeps the last one, whose next hop tells nothing without its link.
    """
    from exabgp.bgp.message.update.attribute.mprnlri import MPRNLRI  # noqa: PLC0415 - as above

    unpack = MPRNLRI.unpack.__func__

    def unpack_global(cls: Any, data: Any, direction: Any, negotiated: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        if data[2:4] == _UNICAST_WITH_TWO_ADDRESSES:
            data = bytes(data[:3]) + bytes([16]) + bytes(data[4:20]) + bytes(data[36:])
        return unpack(cls, data, direction, negotiated)

    MPRNLRI.unpack = classmethod(unpack_global)


def _end_only_what_was_begun() -> None:
    """Send no End-of-RIB of a family that the peer does not speak; GoBGP ends the session over it.

    ExaBGP sends what it is told to send of every family (RFC 4760, section 8: only what both sides offered is used).
    """
    from exabgp.reactor.protocol import Protocol  # noqa: PLC0415 - as above

    new_eors = Protocol.new_eors

    def new_negotiated_eors(self: Any, *family: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        if family and family not in self.negotiated.families:
            return iter(())
        return new_eors(self, *family)

    Protocol.new_eors = new_negotiated_eors


def _survive_a_dead_api_process() -> None:
    """Drop what is written to an API process that has died and is about to be started again.

    ExaBGP resets the session whose update it could not hand over, and then stops every peer for good, because it
    remembers the process as broken. The new process asks for everything anyway.
    """
    from exabgp.reactor.api.processes import ProcessError, Processes  # noqa: PLC0415 - as above

    write = Processes.write

    def write_or_drop(self: Any, process: str, text: str, neighbor: Any = None) -> bool:  # noqa: ANN401 - ExaBGP's
        try:
            return bool(write(self, process, text, neighbor))
        except (ProcessError, KeyError):
            self._broken.clear()
            return False

    Processes.write = write_or_drop


def _try_again_soon() -> None:
    """Keep the pauses between tries to connect short.

    ExaBGP waits 1, 2, 3 and up to 60 seconds, so a host that was down for an hour would be reached up to a minute after
    it is back (RFC 4271, section 8.2.1.3, leaves the time to the implementation).
    """
    from exabgp.reactor.delay import Delay  # noqa: PLC0415 - as above

    def increase(self: Any) -> None:  # noqa: ANN401 - ExaBGP's
        self._time = time.time() + self._next
        self._next = min(max(2 * self._next, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)

    def backoff(self: Any) -> bool:  # noqa: ANN401 - ExaBGP's
        return bool(0 <= self._time - time.time() <= _LONGEST_PAUSE_SECONDS)

    Delay.increase = increase
    Delay.backoff = backoff

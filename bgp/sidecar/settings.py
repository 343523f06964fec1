"""What the launcher and the sidecar share: the paths, handed on through the environment, and the form of the log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

SOCKET_VARIABLE: Final = "TORTIE_BGP_SOCKET"
STATE_VARIABLE: Final = "TORTIE_BGP_STATE"
DEFAULT_SOCKET: Final = Path("/run/tortie/bgp.sock")
DEFAULT_STATE: Final = Path("/run/tortie/bgp")

#: What every log record has; whatever else is in it was given as `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """A record's constant message, followed by its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line for the record, and the lines of its traceback if it has one."""
        fields = [f"{key}={value!r}" for key, value in record.__dict__.items() if key not in _STANDARD]
        return " ".join([super().format(record), *fields])


def log_to_stderr() -> None:
    """Send the log to standard error, which ExaBGP leaves to its children."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])

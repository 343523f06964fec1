"""The log of `tortie-bgp`, the sidecar's lines and ExaBGP's, in the form that the host's setting `log_format` names.

The setting is the agent's. The speaker knows as much of it as its user may read, and a mistake in it never keeps it
from starting: then the lines are text.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

FORM_VARIABLE: Final = "TORTIE_LOG_FORMAT"
_FILE_VARIABLE: Final = "TORTIE_CONFIG"
_DEFAULT_FILE: Final = Path("/etc/tortie/tortie.toml")
_JSON: Final = "json"
FORMS: Final = ("text", _JSON)

#: What every log record has; whatever else is in it was given as `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """A record's constant message, followed by its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line for the record, and the lines of its traceback if it has one."""
        fields = [f"{key}={value!r}" for key, value in _fields(record).items()]
        return " ".join([super().format(record), *fields])


class JsonFormatter(logging.Formatter):
    """A record as one JSON object, as the agent writes it: what every line has counts more than a field of its name."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line for the record, a traceback included."""
        failure = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        line = _line(record.created, record.levelname, record.name, record.getMessage())
        return json.dumps({**_fields(record), **line, **failure}, default=str)


def form_of_settings() -> str:
    """Return the host's `log_format` from the environment, else from the settings file, else `text`."""
    form = os.environ.get(FORM_VARIABLE)
    if form is None:
        try:
            form = tomllib.loads(Path(os.environ.get(_FILE_VARIABLE) or _DEFAULT_FILE).read_text()).get("log_format")
        except (OSError, ValueError):  # it is not there, not for this user, or no TOML: the agent tells
            form = None
    return form if form in FORMS else FORMS[0]


def log_to_stderr(form: str, logger: str | None = None) -> None:
    """Send what a logger is told (None: all of them) to standard error, which ExaBGP leaves to its children."""
    handler = logging.StreamHandler(sys.stderr)
    text = FieldFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if form == _JSON else text)
    named = logging.getLogger(logger)
    named.addHandler(handler)
    named.setLevel(logging.INFO)


def let_exabgp_write(form: str) -> None:
    """Have ExaBGP, in this process, write its log in the same form; before it starts, and once."""
    if form != _JSON:
        return
    from exabgp.logger.option import option  # noqa: PLC0415  importing it settles what ExaBGP's settings are

    set_up = option.setup

    def set_up_and_replace(env: Any) -> None:  # noqa: ANN401  ExaBGP's
        set_up(env)
        option.formater = _line_of_exabgp

    option.setup = set_up_and_replace


def _line_of_exabgp(message: str, source: str, level: str, timestamp: time.struct_time) -> str:
    return json.dumps(_line(time.mktime(timestamp), level, f"exabgp.{source}", message))


def _line(moment: float, severity: str, logger: str, message: str) -> dict[str, object]:
    return {
        "time": datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds"),
        "severity": severity.lower(),
        "logger": logger,
        "message": message,
    }


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}

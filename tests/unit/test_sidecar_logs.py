"""The speaker's log has the form that the host's settings name, and no mistake in them keeps it from starting."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from bgp.sidecar.logs import FieldFormatter, JsonFormatter, form_of_settings
from controller import logs

if TYPE_CHECKING:
    from pathlib import Path


def record(**fields: object) -> logging.LogRecord:
    """Return the record of an event with these fields."""
    made = logging.LogRecord("bgp.sidecar", logging.WARNING, __file__, 1, "client %s", ("cut off",), None)
    vars(made).update(fields)
    return made


@pytest.mark.parametrize(
    ("environment", "file", "form"),
    [
        (None, None, "text"),
        (None, 'node_name = "n1"', "text"),
        (None, 'log_format = "json"', "json"),
        ("text", 'log_format = "json"', "text"),
        ("json", None, "json"),
        ("xml", None, "text"),
        (None, "log_format = 7", "text"),
        (None, "no TOML", "text"),
        (None, "\udcff", "text"),
    ],
)
def test_the_form_is_that_of_the_settings(
    environment: str | None, file: str | None, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment before the file, as for the agent; what cannot be read or is none is text."""
    path = tmp_path / "tortie.toml"
    monkeypatch.setenv("TORTIE_CONFIG", str(path))
    monkeypatch.delenv("TORTIE_LOG_FORMAT", raising=False)
    if environment is not None:
        monkeypatch.setenv("TORTIE_LOG_FORMAT", environment)
    if file is not None:
        path.write_bytes(file.encode(errors="surrogateescape"))
    assert form_of_settings() == form


def test_json_reads_as_the_agents_does() -> None:
    """Who collects the logs of both needs to know one form."""
    fields = {"reason": 'two\n"lines"', "peers": 7}
    line = JsonFormatter().format(record(**fields))
    assert "\n" not in line
    assert json.loads(line) == json.loads(logs.JsonFormatter().format(record(**fields))) | {
        "time": json.loads(line)["time"]
    }


def test_json_keeps_tracebacks_and_odd_values_in_the_line() -> None:
    """A field cannot pass for what every line has, and none breaks it."""
    made = record(time="noon", path=object)
    made.exc_info = (ValueError, ValueError("no"), None)
    entry = json.loads(JsonFormatter().format(made))
    assert (entry["traceback"], entry["message"], entry["path"]) == ("ValueError: no", "client cut off", str(object))
    assert entry["time"] != "noon"


def test_text_is_the_message_and_its_fields() -> None:
    """As it was."""
    assert FieldFormatter("%(levelname)s %(message)s").format(record(peers=7)) == "WARNING client cut off peers=7"

"""The lines of the log: one each, with fields a program can take apart."""

from __future__ import annotations

import json
import logging
import re
from ipaddress import IPv4Address

import pytest

from controller.logs import FieldFormatter, JsonFormatter


def line(message: str = "block claimed", **fields: object) -> str:
    """Return the line of an event with these fields, without its time."""
    record = logging.LogRecord("controller.agent", logging.INFO, __file__, 1, message, None, None)
    vars(record).update(fields)
    return re.sub(r"^\S+ \S+ ", "", FieldFormatter().format(record))


def test_a_line_is_severity_logger_and_message() -> None:
    """Nothing of what Python's records are made of leaks into the fields."""
    assert line() == "INFO controller.agent: block claimed"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("10.0.0.0/26", "10.0.0.0/26"),
        (7, "7"),
        (None, "None"),
        ("", '""'),
        ("no such file", '"no such file"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash here", r'"back\\slash here"'),
        ("two\nlines", r'"two\nlines"'),
        ("a\rb\x1b[0m", r'"a\rb\u001b[0m"'),
        ("line\u2028separator", r'"line\u2028separator"'),
        ("größe", "größe"),
        ((IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")), "192.0.2.1,192.0.2.2"),
        (["a", "b c"], '"a,b c"'),
    ],
)
def test_a_value_cannot_be_taken_for_another_field_or_line(value: object, written: str) -> None:
    """Whatever would, is quoted; sequences read as people write them."""
    assert line(reason=value, block="b") == f"INFO controller.agent: block claimed reason={written} block=b"


def test_a_traceback_follows_its_line() -> None:
    """The fields belong to the event, not to the traceback."""
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", None, (ValueError, ValueError("no"), None))
    vars(record).update(node="n1")
    first, *rest = FieldFormatter().format(record).splitlines()
    assert first.endswith("ERROR x: failed node=n1")
    assert rest == ["ValueError: no"]


def test_json_is_one_object_a_line_with_its_fields_typed() -> None:
    """A program reads it without knowing our fields: numbers stay numbers, and nothing breaks the line."""
    record = logging.LogRecord("controller.agent", logging.WARNING, __file__, 1, "block %s", ("claimed",), None)
    record.created = 1_700_000_000.25
    vars(record).update(
        block=IPv4Address("192.0.2.1"),
        count=7,
        late=None,
        addresses=[IPv4Address("192.0.2.2"), 3],
        reason='two\n"lines"\u2028\udc80',
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "severity": "warning",
        "logger": "controller.agent",
        "message": "block claimed",
        "block": "192.0.2.1",
        "count": 7,
        "late": None,
        "addresses": ["192.0.2.2", 3],
        "reason": 'two\n"lines"\u2028\udc80',
    }


def test_json_keeps_tracebacks_and_fields_apart() -> None:
    """A field cannot pass for what every line has."""
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", None, (ValueError, ValueError("no"), None))
    vars(record).update(time="noon", traceback="mine")
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["traceback"], entry["traceback_"], entry["time_"]) == ("ValueError: no", "mine", "noon")
    assert entry["time"] != "noon"

"""What stands in Consul and was not written by us is taken as it is, whatever its flags say."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from controller.ports import MAX_VALUE_BYTES
from controller.store.consul_format import entries

_COMPRESSED = 0x7A6C6962
_LARGEST = zlib.compress(bytes(MAX_VALUE_BYTES))


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (_LARGEST, bytes(MAX_VALUE_BYTES)),
        (zlib.compress(b""), b""),
        (zlib.compress(bytes(MAX_VALUE_BYTES + 1)), None),
        (zlib.compress(bytes(200_000_000)), None),
        (_LARGEST[:-1], None),
        (b'{"name":"by hand"}', None),
        (b"", None),
    ],
    ids=["largest", "empty", "too-large", "bomb", "cut-off", "plain", "nothing"],
)
def test_what_no_writer_of_ours_made_is_left_as_it_is(stored: bytes, read: bytes | None) -> None:
    """A value that would expand beyond what a key may hold takes no memory; None stands for the value as it is."""
    row = {"Key": "k", "Value": base64.b64encode(stored).decode(), "Flags": _COMPRESSED, "ModifyIndex": 7}
    assert entries(json.dumps([row]))["k"].value == (stored if read is None else read)

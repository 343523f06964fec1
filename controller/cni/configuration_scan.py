"""Finds one top-level string in a network configuration, without a JSON parser's start-up time.

It agrees with a JSON parser on every valid object and finds nothing where a string, key or separator is broken; the
agent, which gets the whole input, judges validity. `tortie-cni.c` holds the same scanner, step for step.
"""

from __future__ import annotations

_SPACE = b" \t\n\r"
_ESCAPES = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))
_QUOTE, _BACKSLASH, _COMMA, _OPEN, _CLOSE = b'"\\,{}'
_HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF")
_HIGH_SURROGATES = range(0xD800, 0xDC00)
_LOW_SURROGATES = range(0xDC00, 0xE000)


class _Broken(Exception):
    """The input is no JSON object."""


def find_member(text: bytes, name: bytes) -> bytes | None:
    """Return the decoded top-level string `name`, the last one if it comes twice; None if there is none."""
    try:
        return _find_member(text, name)
    except (_Broken, IndexError):  # an index beyond the end is the end of the input
        return None


def _find_member(text: bytes, name: bytes) -> bytes | None:
    found = None
    at = _skip_space(text, 0)
    if text[at] != _OPEN:
        raise _Broken
    while True:
        key, at = _scan_string(text, _skip_space(text, at + 1))
        at = _skip_space(text, at)
        if text[at] != ord(":"):
            raise _Broken
        at = _skip_space(text, at + 1)
        value = None
        if text[at] == _QUOTE:
            value, at = _scan_string(text, at)
        else:
            at = _skip_value(text, at)
        if key == name:
            found = value
        at = _skip_space(text, at)
        if text[at] == _CLOSE:
            return found
        if text[at] != _COMMA:
            raise _Broken


def _skip_space(text: bytes, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _skip_value(text: bytes, at: int) -> int:
    """Return where the comma or brace that ends the value stands; brackets are counted, not matched."""
    depth = 0
    while True:
        byte = text[at]
        if depth == 0 and byte in b",}":
            return at
        if byte == _QUOTE:
            at = _scan_string(text, at)[1]
            continue
        if byte in b"{[":
            depth += 1
        elif byte in b"}]":
            if depth == 0:
                raise _Broken
            depth -= 1
        at += 1


def _scan_string(text: bytes, at: int) -> tuple[bytes, int]:
    """Return the decoded string whose quote stands here, and where it ended."""
    if text[at] != _QUOTE:
        raise _Broken
    decoded = bytearray()
    at += 1
    while (byte := text[at]) != _QUOTE:
        at += 1
        if byte != _BACKSLASH:
            decoded.append(byte)
        elif text[at] == ord("u"):
            character, at = _scan_code_point(text, at + 1)
            decoded += character
        elif text[at] in _ESCAPES:
            decoded.append(_ESCAPES[text[at]])
            at += 1
        else:
            raise _Broken
    return bytes(decoded), at + 1


def _scan_code_point(text: bytes, at: int) -> tuple[bytes, int]:
    r"""Return the character (in UTF-8) whose digits follow `\u` here, a surrogate pair's second half included."""
    code_point = _hexadecimal(text[at : at + 4])
    if code_point is None:
        raise _Broken
    at += 4
    if code_point in _HIGH_SURROGATES and text[at : at + 2] == b"\\u":
        second = _hexadecimal(text[at + 2 : at + 6])
        if second is not None and second in _LOW_SURROGATES:
            code_point = 0x10000 + ((code_point - _HIGH_SURROGATES.start) << 10) + second - _LOW_SURROGATES.start
            at += 6
    return chr(code_point).encode("utf-8", "surrogatepass"), at


def _hexadecimal(digits: bytes) -> int | None:
    return int(digits, 16) if len(digits) == 4 and _HEXADECIMAL.issuperset(digits) else None  # noqa: PLR2004  \uXXXX

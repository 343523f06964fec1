"""Selectors: which nodes a pool serves, by their labels, in the language of Calico's selectors.

    all()   has(LABEL)   LABEL == 'V'   LABEL != 'V'   LABEL in {'V', 'W'}   LABEL not in {'V'}
    LABEL contains 'V'   LABEL starts with 'V'   LABEL ends with 'V'   !X   X && Y   X || Y   (X)

A label that a node does not have equals nothing and is in nothing, so `!=` and `not in` hold for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from ipam.errors import InvalidSelector

Labels: TypeAlias = Mapping[str, str]
_Matches: TypeAlias = Callable[[Labels], bool]

#: The selector of every node.
EVERY_NODE: Final = "all()"
_WORD: Final = re.compile(r"[A-Za-z0-9_][\w./-]*", re.ASCII)
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<symbol>&&|\|\||==|!=|!|\(|\)|\{|\}|,)|(?P<text>'[^']*'|"[^"]*")|(?P<word>[A-Za-z0-9_][\w./-]*))""",
    re.ASCII,
)
#: What follows a label, word by word, and how its value is then compared.
_COMPARISONS: Final[Mapping[tuple[str, ...], Callable[[str, str], bool]]] = {
    ("contains",): lambda value, text: text in value,
    ("starts", "with"): str.startswith,
    ("ends", "with"): str.endswith,
}
#: How deep parentheses may be nested: far deeper than anybody writes, far from what the interpreter bears.
_MAX_DEPTH: Final = 32
_EXPECTED: Final = "all(), has(LABEL), or a LABEL compared by ==, !=, in, not in, contains, starts with or ends with"


def check_selector(text: str) -> None:
    """Raise `InvalidSelector`, saying where, for what is no selector."""
    _parsed(text)


def selects(text: str, labels: Labels) -> bool:
    """Tell whether a selector matches these labels; raises `InvalidSelector`."""
    return _parsed(text)(labels)


@lru_cache(maxsize=256)
def _parsed(text: str) -> _Matches:
    parser = _Parser(text)
    matches = parser.either()
    if parser.token is not None:
        raise parser.error("&&, || or the end")
    return matches


class _Parser:
    """Reads a selector from left to right; `token` is what comes next, None at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._start = 0
        self._depth = 0
        self.token: str | None = None
        self._advance()

    def error(self, expected: str) -> InvalidSelector:
        """Return what to raise when something else was expected here."""
        found = "its end" if self.token is None else repr(self.token)
        return InvalidSelector(
            f"selector {self._text!r}: at character {self._start + 1} stands {found}; expected is {expected}"
        )

    def either(self) -> _Matches:
        """Read what `||` joins."""
        parts = [self._both()]
        while self._take("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda labels: any(part(labels) for part in parts)

    def _both(self) -> _Matches:
        parts = [self._one()]
        while self._take("&&"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda labels: all(part(labels) for part in parts)

    def _one(self) -> _Matches:
        negated = False
        while self._take("!"):
            negated = not negated
        inner = self._positive()
        return (lambda labels: not inner(labels)) if negated else inner

    def _positive(self) -> _Matches:
        if self._take("("):
            return self._nested()
        label = self._word()
        if label in ("all", "has") and self._take("("):
            if label == "all":
                self._need(")")
                return lambda _labels: True
            wanted = self._word()
            self._need(")")
            return lambda labels: wanted in labels
        return self._compared(label)

    def _nested(self) -> _Matches:
        if self._depth == _MAX_DEPTH:
            raise self.error(f"not more than {_MAX_DEPTH} parentheses in each other")
        self._depth += 1
        inner = self.either()
        self._need(")")
        self._depth -= 1
        return inner

    def _compared(self, label: str) -> _Matches:
        if self._take("=="):
            text = self._string()
            return lambda labels: labels.get(label) == text
        if self._take("!="):
            text = self._string()
            return lambda labels: labels.get(label) != text
        if self._take("in"):
            values = self._set()
            return lambda labels: labels.get(label) in values
        if self._take("not"):
            self._need("in")
            values = self._set()
            return lambda labels: labels.get(label) not in values
        for words, compare in _COMPARISONS.items():
            if self._take(words[0]):
                for word in words[1:]:
                    self._need(word)
                return self._comparison(label, compare)
        raise self.error(f"a comparison of the label {label}")

    def _comparison(self, label: str, compare: Callable[[str, str], bool]) -> _Matches:
        text = self._string()
        return lambda labels: label in labels and compare(labels[label], text)

    def _set(self) -> frozenset[str]:
        self._need("{")
        values: set[str] = set()
        while not self._take("}"):
            if values:
                self._need(",")
            values.add(self._string())
        return frozenset(values)

    def _word(self) -> str:
        token = self.token
        if token is None or not _WORD.fullmatch(token):
            raise self.error(_EXPECTED)
        self._advance()
        return token

    def _string(self) -> str:
        token = self.token
        if token is None or token[0] not in "'\"":
            raise self.error("a value in quotes")
        if len(token) == 1:
            raise self.error(f"a value that ends with {token} too")
        self._advance()
        return token[1:-1]

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise self.error(repr(token))

    def _take(self, token: str) -> bool:
        if self.token != token:
            return False
        self._advance()
        return True

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._position)
        rest = self._text[self._position :]
        self._start = self._position + len(rest) - len(rest.lstrip())
        if found is None:
            self.token = rest.strip()[:1] or None
            self._position = len(self._text) if self.token is None else self._position
        else:
            self.token = found.group().strip()
            self._position = found.end()

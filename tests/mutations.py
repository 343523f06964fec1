"""Requests that are nearly right, for tests in which whatever comes is answered.

TORTIE_FUZZ_EXAMPLES says how many requests each such test makes up; without it they are few, and always the same.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = os.environ.get("TORTIE_FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(EXAMPLES or 300),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: What a value may become, among it what parsers stumble over.
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "0.4.0", "1.1.0", "eth0", "10.66.0.1/33", "fd66::1", "\0", "\ud800", "../x", "a" * 300])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated_json(draw: st.DrawFn, value: Any) -> Any:  # noqa: ANN401  any JSON
    """Return the value with something replaced, added or left out somewhere in it."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        changed = {**value, key: draw(mutated_json(value[key]))}
        return changed if draw(st.integers(0, 7)) else {name: changed[name] for name in value if name != key}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(mutated_json(value[place])), *value[place + 1 :]]
    return draw(VALUES)


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Return the bytes with a piece of them replaced by another one, most often by none at all."""
    if draw(st.booleans()):
        return content
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 20)))
    return content[:start] + draw(st.binary(max_size=20)) + content[end:]

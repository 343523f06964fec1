"""The language of node selectors: what binds first, what an absent label means, and where a mistake stands."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipam.errors import InvalidSelector
from ipam.selector import check_selector, selects

LABELS = {"rack": "a1", "zone.io/name": "north", "all": "yes", "in": "x", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("all()", True),
        ("!all()", False),
        ("!!all()", True),
        ("has(rack)", True),
        ("has(row)", False),
        ("has(empty)", True),
        ("rack == 'a1'", True),
        ('rack == "a1"', True),
        ("rack=='a1'&&has(rack)", True),
        ("rack == 'A1'", False),
        ("zone.io/name == 'north'", True),
        ("rack != 'a1'", False),
        ("row != 'a1'", True),
        ("row == ''", False),
        ("empty == ''", True),
        ("rack in {'a1', 'b1'}", True),
        ("rack in {}", False),
        ("row in {'a1'}", False),
        ("row not in {'a1'}", True),
        ("rack not in {'a1'}", False),
        ("rack contains '1'", True),
        ("row contains ''", False),
        ("rack starts with 'a'", True),
        ("rack ends with 'a'", False),
        ("all == 'yes'", True),
        ("in in {'x'}", True),
        ("has(row) && has(row) || all()", True),
        ("all() || has(row) && has(row)", True),
        ("(all() || has(row)) && has(row)", False),
        ("!has(rack) || all()", True),
        ("!(has(rack) || all())", False),
        ("""rack != "it's" && rack != 'say "so"'""", True),
    ],
)
def test_a_selector_means_what_it_says(text: str, matches: bool) -> None:  # noqa: FBT001  a table's column
    """`!` binds before `&&`, `&&` before `||`; an absent label equals nothing, not even the empty value."""
    assert selects(text, LABELS) is matches


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "character 1 stands its end; expected is all"),
        ("rack", "character 5 stands its end; expected is a comparison of the label rack"),
        ("rack = 'a'", "character 6 stands '='"),
        ("rack == a", "character 9 stands 'a'; expected is a value in quotes"),
        ("rack == 'a", "character 9 stands \"'\"; expected is a value that ends with ' too"),
        ("rack in {'a' 'b'}", "character 14 stands \"'b'\"; expected is ','"),
        ("rack in {'a',", "character 14 stands its end; expected is a value in quotes"),
        ("rack not 'a'", "character 10 stands \"'a'\"; expected is 'in'"),
        ("rack starts 'a'", "expected is 'with'"),
        ("(all()", "character 7 stands its end; expected is '\\)'"),
        ("all())", "character 6 stands '\\)'; expected is &&"),
        ("all() & all()", "character 7 stands '&'"),
        ("has(rack) has(row)", "character 11 stands 'has'"),
        ("é == 'a'", "character 1 stands 'é'"),
        ("(" * 40 + "all()" + ")" * 40, "character 34 .*not more than 32"),
    ],
)
def test_a_mistake_is_shown_where_it_stands(text: str, words: str) -> None:
    """The message repeats the selector and names the character and what may stand there."""
    with pytest.raises(InvalidSelector, match=words) as caught:
        check_selector(text)
    assert repr(text) in str(caught.value)


_PIECES = ["all", "has", "in", "not", "starts", "with", "a", "'v'", '"', "'", "(", ")", "{", "}", ",", "==", "!=", "!"]


@given(
    st.one_of(st.text(), st.lists(st.sampled_from([*_PIECES, "&&", "||", "&", "é", "\n"]), max_size=20).map(" ".join))
)
@example("(" * 5000)
@example("!" * 5000 + "all()")
@example("!(" * 32 + "all()" + ")" * 32)
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    """Whatever is written, it is evaluated or refused with a position; nothing else is raised."""
    refusal = None
    try:
        check_selector(text)
    except InvalidSelector as error:
        refusal = str(error)
    if refusal is None:
        assert selects(text, {}) in (True, False)
    else:
        assert re.search(r"at character \d+ stands", refusal)


_TERMS = st.sampled_from(["has(rack)", "has(row)", "rack == 'a1'", "row != 'x'"])
_EXPRESSIONS = st.recursive(
    _TERMS,
    lambda inner: st.one_of(
        inner.map(lambda each: f"!({each})"),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(" ".join),
    ),
    max_leaves=8,
)


@given(_EXPRESSIONS)
def test_a_selector_binds_like_and_and_or(text: str) -> None:
    """Every combination evaluates as the same words do in Python."""
    python = text.replace("!(", " not (").replace("&&", "and").replace("||", "or")
    for term, value in (("has(rack)", "True"), ("has(row)", "False"), ("rack == 'a1'", "True"), ("row != 'x'", "True")):
        python = python.replace(term, value)
    assert selects(text, LABELS) is eval(python)  # noqa: S307  words from the lists above

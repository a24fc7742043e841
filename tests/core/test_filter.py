"""The filter language: what each expression says of one message, and what no text and no message may do to it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import conditions, filter
from broker.core.destination import queue, topic
from broker.core.filter import BadFilter, Subject, compile_filter
from broker.core.message import Message
from broker.errors import BadValue

DATA = {
    "state": "late",
    "count": 3,
    "price": 2.5,
    "big": 2**53 + 1,
    "yes": True,
    "no": False,
    "nothing": None,
    "tags": ["a", "b", {"c": 7}],
    "deep": {"er": {"est": "x"}, "odd key": 1, "2020": 2, 'q"q': 3},
    "text": "100%_sure",
    "five": "5",
    "lines": "one\ntwo",
}
SUBJECT = Subject(
    Message(
        stamp=1_700_000_000_000_000,
        body=json.dumps(DATA).encode(),
        headers={"region": "eu", "count": "12", "Count": "012", "x y": "z", "half": "0.5", "exp": "1e3", "empty": ""},
        content_type="application/json; charset=utf-8",
        flags=4,
        priority=-2,
        ttl=500,
    ),
    topic("orders/new"),
)

TRUE = (
    """
priority = -2
priority<0 and flags=4
priority != 2
priority <= -2
priority >= -2.0
stamp > 1699999999999999
size > 100
content-type like 'application/json%'
destination = "orders/new"
destination like "orders/%"
kind = 'topic'
ttl < 1000
not lease < 1000
exists ttl
not exists expires
not exists max-attempts
header.region = "eu"
header.region in ("us", 'eu')
header."x y" = "z"
header.'region' = "eu"
header.count = 12
header.count > 9
9 < header.count
header.half < 1 and header.exp = 1000
header.count = "12"
header.Count != 12
header.count < "9"
header.empty = ''
exists header.empty
not exists header.Region
not header.nowhere = 1
not header.nowhere != 1
header.nowhere not in ("eu")
header.region != 5
not header.region < 5
data.state = "late"
data.count = 3 and data.count = 3.0
data.price > 2 and data.price < 3
data.big = 9007199254740993
data.big != 9007199254740992
data.yes
data.yes = true
not data.no
data.no = false
data.count != true
not data.count
data.nothing = null
exists data.nothing
data.nothing != 0
not data.nothing < 1
not data.yes > false
data.tags[0] = "a"
data.tags[2].c = 7
not exists data.tags[3]
exists data.tags
not data.tags = "a"
not data.tags != "a"
not data.deep = data.deep
exists data.deep.er
exists data
data.deep.er.est = "x"
data.deep."odd key" = 1
data.deep.2020 = 2
data.deep.'q"q' = 3
data.deep."q""q" = 3
not exists data.deep.er.est.beyond
not exists data.tags.length
not exists data[0]
data.five = "5"
data.five != 5
not data.five < 6
data.five < "6"
data.text like "100\\%\\_%" escape "\\"
data.text like "1__!%_s%" escape '!'
data.text not like "%x%"
data.text like "100%"
data.text like "%sure"
data.text like "%0%_%e"
data.text like "_________"
not data.text like "________"
data.lines like "one%two"
data.lines like "one_two"
not data.count like "3"
"late" = data.state
data.count = data.tags[2].c or data.state in (1, null, "late")
priority in (-2)
true
not false
true or false and false
not (true and false)
(true or false) and true
not not true
not true or true
NOT FALSE AND Exists data
body like '{"state"%'
1 = 1.0
"""
    + """\
'it''s' = "it's"
-0 = 0
1.5e3 = 1500
"é" = 'é'
"""
)

FALSE = """
false
priority = 2
priority = "-2"
header.nowhere = 1
header.nowhere != 1
header.nowhere < 1
header.nowhere >= 1
header.nowhere in (1, "")
header.nowhere like "%"
header.count = 13
header.Count = 12
header.empty = 0
data.nowhere
data.nowhere = null
data.nowhere != null
data.nowhere = data.nowhere
not exists data.nothing
data.tags
data.deep
data.state
data.count
data.tags != null
data.yes = 1
data.no = 0
data.nothing = false
data.state < 5
data.state >= 5
data.no < data.yes
null <= null
data.state = "Late"
data.state like "LATE"
data.text like "%%sure%x"
data.text like "100%100%_sure"
data.state like ""
data.tags[1] = "a"
data.tags[999999999] = "a"
true and false or false
not (true or false)
not true and false
lease > 0
exists expires
kind = "queue"
"""


@pytest.mark.parametrize("text", TRUE.strip().split("\n"))
def test_true(text: str) -> None:
    assert compile_filter(text).matches(SUBJECT) is True


@pytest.mark.parametrize("text", FALSE.strip().split("\n"))
def test_false(text: str) -> None:
    assert compile_filter(text).matches(SUBJECT) is False


@pytest.mark.parametrize(
    ("body", "text", "expected"),
    [
        (b"5", "data = 5", True),
        (b' [1, [2, "x"]] ', "data[1][1] = 'x'", True),
        (b"not json", "exists data", False),
        (b"", "exists data", False),
        (b"\xff", "exists data or exists body", False),
        (b'"\xff"', "exists data", False),
        (b"[" * 100_000, "exists data", False),
        (b"1e999", "exists data", False),
        (b"9" * 10_000, "exists data", False),
        (b"NaN", "exists data", False),
        (b'{"a": 1, "a": 2}', "data.a = 2", True),
        (b"hello", "body = 'hello' and not exists data", True),
        (b'"' + b"x" * (conditions.MAX_JSON - 2) + b'"', "exists data", True),
        (b'"' + b"x" * (conditions.MAX_JSON - 1) + b'"', "exists data", False),
    ],
)
def test_bodies_that_are_something_else(body: bytes, text: str, expected: bool) -> None:
    assert compile_filter(text).matches(Subject(Message(body=body), queue("q"))) is expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 1, "expected a string, a number, true, false or null"),
        ("   ", 4, "expected"),
        ("priority", 9, "expected a comparison"),
        ("header.a", 9, "expected a comparison"),
        ("'a'", 4, "expected a comparison"),
        ("priority =", 11, "expected"),
        ("priority == 1", 10, "== is written = here"),
        ("priority <> 1", 10, "<> is written != here"),
        ("priority = 1 2", 14, "expected the end, 'and' or 'or'"),
        ("priority = 1)", 13, "expected the end"),
        ("(priority = 1", 14, "expected ')'"),
        ("prioritty = 1", 1, "no attribute is called 'prioritty'; there are priority, stamp"),
        ("priority = 1 and", 17, "expected"),
        ("priority not = 1", 14, "expected 'in' or 'like'"),
        ("priority in 1", 13, "expected '('"),
        ("priority in ()", 14, "expected a string, a number"),
        ("priority in (flags)", 14, "expected a string, a number"),
        ("body like 1", 11, "expected a string in quotes"),
        ("body like 'a", 11, "the string has no end"),
        ("body like 'a!b' escape '!'", 11, "after the escape character"),
        ("body like 'a!' escape '!'", 11, "after the escape character"),
        ("body like 'a' escape 'ab'", 22, "one character"),
        ("body like 'a' escape ''", 22, "one character"),
        ("body like '%" + "_" * 65 + "%'", 11, "64 characters"),
        ("header = 1", 7, "expected a dot"),
        ("header. a = 1", 8, "expected a name"),
        ("data.a[-1] = 1", 7, "expected [ and a number and ]"),
        ("data.a[] = 1", 7, "expected [ and a number and ]"),
        ("data. = 1", 6, "expected a name"),
        ("priority = 1x", 12, "this is no number"),
        ("priority = 01", 12, "this is no number"),
        ("priority = 1e999", 12, "too large"),
        ("priority = " + "1" * 65, 12, "too large"),
        ("and = 1", 1, "expected an operand, not 'and'"),
        ("priority = not", 12, "expected an operand, not 'not'"),
        ("priority = 1; drop", 13, "expected the end"),
        ("\u0661 = 1", 1, "expected"),
        ("priority = \ud800", 12, "UTF-8"),
        ("x" * 4097, 1, "4097 bytes long, at most 4096"),
        ("é" * 2049, 1, "4098 bytes long"),
        ("(" * 33 + "true" + ")" * 33, 34, "nested deeper than 32"),
        ("not " * 33 + "true", 133, "nested deeper than 32"),
    ],
)
def test_a_bad_text_is_refused_with_its_position(text: str, position: int, words: str) -> None:
    with pytest.raises(BadFilter) as caught:
        compile_filter(text)
    assert words in caught.value.reason
    assert caught.value.position == position
    assert f"at character {position}:" in caught.value.reason
    assert isinstance(caught.value, BadValue)
    assert len(caught.value.reason) < 300


def test_as_deep_and_as_long_as_allowed() -> None:
    assert compile_filter("(" * 32 + "true" + ")" * 32).matches(SUBJECT)
    assert compile_filter("not " * 32 + "true").matches(SUBJECT)
    text = " or ".join(["false"] * 450)
    assert not compile_filter(text + " " * (4096 - len(text))).matches(SUBJECT)
    assert compile_filter("data" + ".a" * 2000 + " = 1 or true").matches(SUBJECT)


def test_a_body_is_parsed_once_and_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def parse(body: bytes) -> object:
        parsed.append(body)
        return msgspec.json.decode(body)

    monkeypatch.setattr(conditions, "_parse_json", parse)
    subject = Subject(Message(body=b'{"a": 1}'), queue("q"))
    assert compile_filter("priority = 0 and size = 8 or data.a = 2").matches(subject)
    assert parsed == []
    for text in ("data.a = 1 and exists data.a", "data.a < 2 or data.b"):
        assert compile_filter(text).matches(subject)
    assert parsed == [b'{"a": 1}']
    broken = Subject(Message(body=b"no"), queue("q"))
    assert not compile_filter("data.a = 1 or data.b = 1").matches(broken)
    assert parsed[1:] == [b"no"]


@pytest.mark.parametrize(
    "text",
    [
        "body like '%" + "a" * 60 + "b%'",
        "body like '%" + "_" * 63 + "b%'",
        "body like '%" + "a_" * 31 + "b%'",
        "body like '" + "%a" * 500 + "%b%'",
        "body like '" + "a" * 3000 + "_%b'",
    ],
)
def test_a_like_costs_no_more_than_the_text_is_long(text: str) -> None:
    """A regular expression with a star for each % would take years."""
    compiled = compile_filter(text)

    def cost(size: int) -> float:
        best = 1e9
        for _ in range(3):
            subject = Subject(Message(body=b"a" * size), queue("q"))
            start = time.process_time()
            assert not compiled.matches(subject)
            best = min(best, time.process_time() - start)
        return best

    # 16 times as much if it is the text's length, 256 if it is the square: between them is room for a busy machine.
    assert cost(1_600_000) < 64 * cost(100_000) + 0.02


# -- whatever the text and the message

_names = st.sampled_from(
    [*conditions.ATTRIBUTES, "header.a", 'header."x y"', "data", "data.a", "data.a[0].b", "data[1]"]
)
_literals = st.one_of(
    st.sampled_from(["true", "false", "null", "''", '"a"', "'%'", "-1", "0", "2.5", "1e3"]),
    st.integers(-(2**63), 2**63).map(str),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5).map(lambda text: "'" + text.replace("'", "''") + "'"),
)
_operands = _names | _literals
_tests = st.one_of(
    st.tuples(_operands, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), _operands).map(" ".join),
    st.tuples(_operands, st.sampled_from(["in", "not in"]), st.lists(_literals, min_size=1, max_size=3)).map(
        lambda parts: f"{parts[0]} {parts[1]} ({', '.join(parts[2])})"
    ),
    st.tuples(_operands, st.sampled_from(["like '%a_%'", "not like 'a%'", "like '%!%' escape '!'"])).map(" ".join),
    _operands.map(lambda operand: f"exists {operand}"),
    st.sampled_from(["true", "false", "data.a"]),
)
_conditions = st.recursive(
    _tests,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=6,
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]) | st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
_subjects = st.builds(
    lambda message, name: Subject(message, queue(name)),
    st.builds(
        Message,
        stamp=st.integers(0, 2**53),
        body=st.binary(max_size=20) | _json.map(lambda value: json.dumps(value).encode()),
        headers=st.dictionaries(st.sampled_from(["a", "x y"]), st.text(max_size=6) | st.integers().map(str)),
        content_type=st.none() | st.text(max_size=5),
        priority=st.integers(-(2**31), 2**31),
        expires=st.integers(0, 5),
    ),
    st.sampled_from(["q", "a/b"]),
)


@given(_conditions, _subjects)
def test_a_condition_or_its_negation_holds_and_never_both(text: str, subject: Subject) -> None:
    value = compile_filter(text).matches(subject)
    assert isinstance(value, bool)
    assert compile_filter(f"not ({text})").matches(subject) is not value
    assert compile_filter(f"not not ({text})").matches(subject) is value
    assert compile_filter(f"({text}) or not ({text})").matches(subject)


@given(_conditions, _conditions, _subjects)
def test_and_and_or_are_those_of_logic(one: str, other: str, subject: Subject) -> None:
    first, second = (compile_filter(text).matches(subject) for text in (one, other))
    assert compile_filter(f"({one}) and ({other})").matches(subject) is (first and second)
    assert compile_filter(f"({one}) or ({other})").matches(subject) is (first or second)
    assert compile_filter(f"not (({one}) or ({other}))").matches(subject) is (not first and not second)


@given(_operands, _operands, _subjects)
def test_comparisons_agree_with_each_other(one: str, other: str, subject: Subject) -> None:
    def holds(symbol: str) -> bool:
        return compile_filter(f"{one} {symbol} {other}").matches(subject)

    assert not (holds("=") and holds("!="))
    assert not (holds("<") and holds(">="))
    assert not holds("<") or (holds("<=") and holds("!=") and not holds(">"))
    assert holds("=") == compile_filter(f"{other} = {one}").matches(subject)
    assert holds("<") == compile_filter(f"{other} > {one}").matches(subject)


PIECES = [
    "data",
    "header",
    ".",
    "a",
    "[",
    "]",
    "0",
    "(",
    ")",
    "'",
    '"',
    "=",
    "<",
    " in ",
    " like ",
    " not ",
    " and ",
    "%",
]


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            ["data", "header", ".", "a", "[", "]", "0", "(", ")", "'", '"', "=", "<", "in", "like", "not", "and", "%"]
        )
    ).map("".join),
    _subjects,
)
def test_any_text_compiles_or_is_refused(text: str, subject: Subject) -> None:
    try:
        compiled = compile_filter(text)
    except BadFilter as error:
        position = error.position
    else:
        position = 1
        assert compiled.text == text
        assert compiled.matches(subject) in (True, False)
    assert 1 <= position <= len(text) + 1


_letters = st.text(st.sampled_from("ab%_"), max_size=8)


@given(_letters, _letters)
def test_like_does_what_the_definition_says(text: str, pattern: str) -> None:
    def like(text: str, pattern: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "%":
            return like(text, pattern[1:]) or bool(text and like(text[1:], pattern))
        return bool(text) and pattern[0] in ("_", text[0]) and like(text[1:], pattern[1:])

    assert compile_filter(f"'{text}' like '{pattern}'").matches(SUBJECT) is like(text, pattern)


def test_every_attribute_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/filters.rst").read_text()
    assert [name for name in conditions.ATTRIBUTES if f"\n``{name}``  " not in page] == []


def test_it_knows_neither_twisted_nor_sql() -> None:
    loaded = f"import sys, {filter.__name__}; print({{'twisted', 'zope', 'sqlite3'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

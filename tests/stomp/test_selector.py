"""Selectors: what each expression is of a message, under types, NULL and escapes; and what is none."""

from __future__ import annotations

import cProfile
import pstats
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.message import Message
from broker.stomp.selector import MAX_DEPTH, MAX_TEXT, BadSelector, compile_selector
from tests.core.support import no_collection

STAMP = 1_700_000_000_123_456
MESSAGE = Message(
    stamp=STAMP,
    expires=STAMP + 1_000_000,
    priority=-3,
    content_type="text/plain",
    group="red",
    headers={
        "colour": "red",
        "size": "42",
        "weight": "2.5",
        "tiny": "1e-3",
        "signed": "-7",
        "padded": " 5 ",
        "urgent": "true",
        "old": "FALSE",
        "empty": "",
        "percent": "50%_off",
        "name_$1.x": "dotted",
        "content-encoding": "gzip",
        "quote": "it's",
        "größe": "XL",
        "type": "order",
        "correlation-id": "c1",
        "reply-to": "/queue/r",
        "persistent": "true",
        "lines": "a\nb",
        "long": "9" * 65,
    },
)

#: An expression, and what it is: true, false, or None for unknown.
TABLE: dict[str, bool | None] = {
    # equality, and the types of what is compared
    "colour = 'red'": True,
    "colour = 'RED'": False,
    "colour <> 'blue'": True,
    "colour != 'red'": False,
    "'red' = colour": True,
    "size = 42": True,
    "size = 42.0": True,
    "42 = size": True,
    "size = '42'": True,
    "size = '42.0'": False,
    "weight = 2.5": True,
    "tiny = .001": True,
    "signed = -7": True,
    "padded = 5": True,
    "size = 0x2A": True,
    "size = 42L": True,
    "weight = 2.5f": True,
    "colour = 1": False,
    "colour <> 1": False,
    "NOT colour = 1": True,
    "'42' = 42": False,
    "long = 1": False,
    "urgent = TRUE": True,
    "urgent = 'true'": True,
    "old = FALSE": True,
    "old <> TRUE": True,
    "colour = TRUE": False,
    "urgent < TRUE": False,
    "1 = 1": True,
    "TRUE = FALSE": False,
    "(size = 42) = TRUE": True,
    "empty = ''": True,
    "quote = 'it''s'": True,
    # order
    "size > 41": True,
    "size >= 42": True,
    "size < 42": False,
    "size <= 41.9": False,
    "9 < size": True,
    "colour > 'blue'": True,
    "colour > 1": False,
    "size > weight": True,
    "signed < tiny": True,
    # NULL
    "none = 1": None,
    "none <> 1": None,
    "NOT none = 1": None,
    "none = none": None,
    "none IS NULL": True,
    "none IS NOT NULL": False,
    "colour IS NULL": False,
    "empty IS NOT NULL": True,
    "none > 1 OR colour = 'red'": True,
    "none > 1 OR colour = 'blue'": None,
    "none > 1 AND colour = 'red'": None,
    "none > 1 AND colour = 'blue'": False,
    "colour = 'blue' AND none > 1": False,
    "NOT (none > 1 AND colour = 'blue')": True,
    "none": None,
    "NOT none": None,
    "none LIKE 'a%'": None,
    "none NOT LIKE 'a%'": None,
    "none IN ('a')": None,
    "none NOT IN ('a')": None,
    "none BETWEEN 1 AND 2": None,
    "size BETWEEN none AND 41": False,
    "size BETWEEN none AND 43": None,
    "none + 1 = 2": None,
    # truths by themselves
    "urgent": True,
    "old": False,
    "NOT old": True,
    "colour": None,
    "size": None,
    "TRUE": True,
    "false": False,
    # logic
    "colour = 'red' AND size = 42 AND urgent": True,
    "colour = 'blue' OR size = 1 OR old": False,
    "colour = 'blue' AND old OR urgent": True,
    "urgent OR old AND old": True,
    "(urgent OR old) AND old": False,
    "NOT NOT urgent": True,
    "NOT colour = 'red' OR urgent": True,
    "not COLOUR is null or Colour Is Null": True,
    # BETWEEN, IN
    "size BETWEEN 42 AND 42": True,
    "size NOT BETWEEN 1 AND 41": True,
    "size BETWEEN 43 AND 41": False,
    "colour BETWEEN 'a' AND 's'": True,
    "NOT size BETWEEN 1 AND 50 AND urgent": False,
    "colour IN ('red', 'green')": True,
    "colour IN ('blue')": False,
    "colour NOT IN ('blue', 'green')": True,
    "size IN (1, 42)": True,
    "size IN ('42')": True,
    # LIKE
    "colour LIKE 'r%'": True,
    "colour LIKE '%d'": True,
    "colour LIKE 'r_d'": True,
    "colour LIKE 'r_'": False,
    "colour LIKE '%e%'": True,
    "colour LIKE 'red%red'": False,
    "colour NOT LIKE 'b%'": True,
    "size LIKE '4_'": True,
    "percent LIKE '50\\%\\_%' ESCAPE '\\'": True,
    "percent LIKE '50!%!_off' ESCAPE '!'": True,
    "percent LIKE '50_x%'": False,
    "empty LIKE '%'": True,
    "empty LIKE ''": True,
    "lines LIKE 'a_b'": True,
    "colour LIKE '.*'": False,
    "size + 1 LIKE '4%'": False,
    # arithmetic
    "size + 8 = 50": True,
    "size - 2 * 10 = 22": True,
    "(size - 2) * 10 = 400": True,
    "size / 4 = 10": True,
    "signed / 2 = -3": True,
    "size / 4.0 = 10.5": True,
    "size / 0 = 1": None,
    "size / 0.0 IS NULL": True,
    "-size = -42": True,
    "+size = 42": True,
    "+colour IS NULL": True,
    "- - 3 = 3": True,
    "colour + 1 = 2": None,
    "urgent + 1 = 2": None,
    "1e308 * 10 IS NULL": True,
    "weight*2=5": True,
    # names
    "\"content-encoding\" = 'gzip'": True,
    "name_$1.x = 'dotted'": True,
    "größe = 'XL'": True,
    '"no ""such""" IS NULL': True,
    # what is no header
    "priority = 7": True,
    "JMSPriority > 6": True,
    f"JMSTimestamp = {STAMP // 1000}": True,
    "timestamp > 0": True,
    "JMSExpiration - timestamp = 1000": True,
    "JMSType = 'order'": True,
    "JMSCorrelationID = 'c1'": True,
    "JMSReplyTo LIKE '/queue/%'": True,
    "JMSXGroupID = 'red'": True,
    "JMSDeliveryMode = 'PERSISTENT'": True,
    "JMSMessageID IS NULL": True,
    "\"content-type\" = 'text/plain'": True,
}


@pytest.mark.parametrize(("text", "expected"), TABLE.items(), ids=list(TABLE))
def test_table(text: str, expected: bool | None) -> None:
    """Line 49."""
    selector = compile_selector(text)
    assert selector._condition(MESSAGE) is expected
    assert selector.accepts(MESSAGE) is (expected is True)


def test_the_table_is_large() -> None:
    assert len(TABLE) >= 80


def test_what_a_message_does_not_have_is_null() -> None:
    message = Message()
    for name in ("colour", "JMSType", "JMSXGroupID", '"content-type"', "JMSReplyTo"):
        assert compile_selector(f"{name} IS NULL").accepts(message)
    assert compile_selector("JMSDeliveryMode = 'NON_PERSISTENT' AND priority = 4 AND expires = 0").accepts(message)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 1),
        ("   ", 4),
        ("colour =", 9),
        ("colour = = 1", 10),
        ("colour 'red'", 8),
        ("colour = 'red", 10),
        ('"colour = 1', 1),
        ("colour = 1 AND", 15),
        ("(colour = 1", 12),
        ("colour = 1)", 11),
        ("colour ? 1", 8),
        ("size BETWEEN 1", 15),
        ("size BETWEEN 1 OR 2", 16),
        ("size IN 1", 9),
        ("size IN ()", 10),
        ("size IN (1,)", 12),
        ("size IN (colour)", 10),
        ("size IN (NULL)", 10),
        ("size IS 1", 9),
        ("size NOT 1", 10),
        ("colour LIKE red", 13),
        ("colour LIKE 1", 13),
        ("colour LIKE 'a' ESCAPE 'ab'", 24),
        ("colour LIKE 'a!' ESCAPE '!'", 13),
        ("colour LIKE 'a!b' ESCAPE '!'", 13),
        ("1", 1),
        ("'red'", 1),
        ("NOT 5", 5),
        ("urgent AND 'x'", 12),
        ("size + 1", 1),
        ("-size", 1),
        ("(1)", 1),
        ("NULL", 1),
        ("colour = NULL", 10),
        ("and = 1", 1),
        ("colour == 1", 9),
        ("colour = 1 2", 12),
        ("colour = " + "1" * MAX_TEXT, 1),
        ("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), MAX_DEPTH + 2),
        ("NOT " * (MAX_DEPTH + 1) + "a", 4 * (MAX_DEPTH + 1) + 1),
        ("a = " + "-" * (MAX_DEPTH + 1) + "1", MAX_DEPTH + 6),
        ("colour LIKE '_" + "x" * 64 + "%'", 13),
    ],
)
def test_a_bad_one_says_where(text: str, position: int) -> None:
    with pytest.raises(BadSelector) as raised:
        compile_selector(text)
    assert raised.value.position == position
    assert str(raised.value).startswith(f"bad selector at character {position}: ")


def test_deep_and_long_ones_work_as_far_as_they_are_allowed() -> None:
    assert compile_selector("(" * MAX_DEPTH + "urgent" + ")" * MAX_DEPTH).accepts(MESSAGE)
    assert compile_selector("size" + "+0" * 2000 + "=42").accepts(MESSAGE)
    assert compile_selector("NOT " * MAX_DEPTH + "urgent").accepts(MESSAGE)
    assert not compile_selector(" OR ".join(["size=1"] * 400)).accepts(MESSAGE)


def test_it_is_compiled_once() -> None:
    assert compile_selector("a = 1") is compile_selector("a = 1")


def test_what_many_wildcards_cost() -> None:
    selector = compile_selector("long LIKE '" + "%9" * 1000 + "%x'")
    message = Message(headers={"long": "9" * 100_000})
    began = time.process_time()
    assert not selector.accepts(message)
    assert time.process_time() - began < 1.0


def test_the_cost_of_a_selector_does_not_depend_on_what_it_does_not_name() -> None:
    def calls(headers: dict[str, str]) -> int:
        selector, profile = compile_selector("colour = 'red' AND size > 1"), cProfile.Profile()
        profile.runcall(selector.accepts, Message(headers=headers))
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    few = {"colour": "red", "size": "2"}
    with no_collection():
        assert calls(few) == calls(few | {str(n): "x" for n in range(1000)})


@given(st.text(alphabet="ab'\"%_()=<>+-*/.,0 1\\AND ORNTLIKE", max_size=40), st.dictionaries(st.text(), st.text()))
def test_nothing_but_a_bad_selector_is_raised(text: str, headers: dict[str, str]) -> None:
    try:
        selector = compile_selector(text)
    except BadSelector as error:
        position = error.position
    else:
        position = 1
        assert selector.accepts(Message(headers=headers)) in (True, False)
    assert 1 <= position <= len(text) + 1


@given(st.sampled_from(list(TABLE)), st.sampled_from(list(TABLE)))
def test_logic_has_three_values(one: str, other: str) -> None:
    """De Morgan's laws hold of unknown, too."""
    left = compile_selector(f"NOT (({one}) AND ({other}))")
    right = compile_selector(f"(NOT ({one})) OR (NOT ({other}))")
    assert left._condition(MESSAGE) is right._condition(MESSAGE)
    assert left.accepts(MESSAGE) == (TABLE[one] is False or TABLE[other] is False)

"""Patterns of topics' names."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.patterns import Patterns, examples, is_pattern, words_of
from broker.errors import BadName


def matches(pattern: str, name: str) -> bool:
    """What the index says of one pattern."""
    patterns: Patterns[str] = Patterns()
    patterns.add(pattern, pattern)
    return patterns.matching(name) == [pattern]


def naively(pattern: list[str], name: list[str]) -> bool:
    """The definition, word by word."""
    if not pattern:
        return not name
    if pattern[0] == "#" or pattern == [">"]:
        return any(naively(pattern[1:], name[taken:]) for taken in range(len(name) + 1))
    return bool(name) and pattern[0] in ("*", name[0]) and naively(pattern[1:], name[1:])


@pytest.mark.parametrize(
    ("pattern", "those", "others"),
    [
        ("prices.*", ["prices.eu", "prices."], ["prices", "prices.eu.dax", "price.eu"]),
        ("*.eu", ["prices.eu", ".eu"], ["eu", "a.prices.eu"]),
        ("prices.#", ["prices", "prices.eu", "prices.eu.dax"], ["pricesx", "news.prices"]),
        ("prices.>", ["prices", "prices.eu", "prices.eu.dax"], ["pricesx"]),
        ("#.dax", ["dax", "eu.dax", "prices.eu.dax"], ["dax.eu", "xdax"]),
        ("a.#.z", ["a.z", "a.b.z", "a.b.c.z", "a.z.z"], ["a", "z", "a.z.b"]),
        ("a.*.#.z", ["a.b.z", "a.b.c.z"], ["a.z"]),
        ("#", ["", "a", "a.b"], []),
        (">", ["a", "a.b"], []),
        ("*", ["a", ""], ["a.b"]),
        ("*.*", ["a.b"], ["a", "a.b.c"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, those: list[str], others: list[str]) -> None:
    assert [name for name in those if not matches(pattern, name)] == []
    assert [name for name in others if matches(pattern, name)] == []


def test_which_names_are_patterns() -> None:
    assert [name for name in ("a.*", "*", "#", "a.#.b", ">", "a.>", "a.>.b") if not is_pattern(name)] == []
    assert [name for name in ("a", "a*", "a.b*", "c#", "a>b", "x->y", "", "a/*") if is_pattern(name)] == []


def test_the_wildcard_of_activemq_is_the_last_word() -> None:
    with pytest.raises(BadName, match="last word"):
        words_of("a.>.b")
    assert words_of("#.#.a.#.>") == ["#", "a", "#"]


_word = st.sampled_from(["a", "b", "c", ""])
_name = st.lists(_word, min_size=1, max_size=6)
_pattern = st.lists(st.one_of(_word, st.sampled_from(["*", "#", "#"])), min_size=1, max_size=6).flatmap(
    lambda words: st.sampled_from([words, [*words, ">"]])
)


@given(patterns=st.lists(_pattern, max_size=8), gone=st.sets(st.integers(0, 7)), name=_name)
def test_the_index_agrees_with_the_definition(patterns: list[list[str]], gone: set[int], name: list[str]) -> None:
    index: Patterns[int] = Patterns()
    for number, pattern in enumerate(patterns):
        index.add(".".join(pattern), number)
    left = {number: pattern for number, pattern in enumerate(patterns) if number not in gone}
    for number in gone & set(range(len(patterns))):
        index.discard(".".join(patterns[number]), number)
        index.discard(".".join(patterns[number]), number)
    assert bool(index) == bool(left)
    found = index.matching(".".join(name))
    assert sorted(found) == [number for number, pattern in left.items() if naively(pattern, name)]


def test_a_value_under_two_patterns_is_found_once() -> None:
    index: Patterns[str] = Patterns()
    for pattern in ("a.*", "a.#", "#"):
        index.add(pattern, "x")
    assert index.matching("a.b") == ["x"]
    index.discard("a.#", "x")
    assert (index.matching("a.b.c"), index.matching("a.b")) == (["x"], ["x"])


def test_many_wildcards_cost_no_more_than_their_number() -> None:
    """To try each way of sharing out 120 words among 40 wildcards would take for ever."""
    index: Patterns[str] = Patterns()
    index.add(".".join(["#.a"] * 40 + ["b"]), "x")
    before = time.process_time()
    assert index.matching(".".join(["a"] * 120)) == []
    assert time.process_time() - before < 1


def test_unrelated_patterns_cost_nothing() -> None:
    index: Patterns[int] = Patterns()
    index.add("prices.*", -1)
    index.add("#.dax", -2)

    def steps(count: int) -> int:
        seen = 0

        class Counting(dict[str, object]):
            def get(self, key: str, default: object = None) -> object:
                nonlocal seen
                seen += 1
                return super().get(key, default)

        index._root.children = Counting(index._root.children)  # type: ignore[assignment]
        for number in range(count):
            index.add(f"other{number}.*", number)
        assert sorted(index.matching("prices.dax")) == [-2, -1]
        return seen

    assert steps(10_000) == steps(0)


@pytest.mark.parametrize("pattern", ["a", "a.*", "#", "a.#.b", "*.*.>", "*.#.*.#.*.#", "a.b.#"])
def test_examples_of_a_pattern_match_it(pattern: str) -> None:
    patterns: Patterns[None] = Patterns()
    patterns.add(pattern, None)
    names = examples(pattern)
    assert len(set(names)) > 1 or pattern == "a"
    for name in names:
        assert patterns.matching(name) == [None], name

"""Which patterns cover which names, and that no user's name is a pattern."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth.rights import EVERYTHING, NOTHING, Action, BadPattern, Rights, User, may
from broker.core.destination import queue, topic


def covers(pattern: str, destination: str, user: str = "alice") -> bool:
    kind, _, name = destination.partition(":")
    return Rights({Action.PUBLISH: [pattern]}, user).may(Action.PUBLISH, kind, name)


@pytest.mark.parametrize(
    ("pattern", "destination", "covered"),
    [
        ("queue:orders", "queue:orders", True),
        ("queue:orders", "topic:orders", False),
        ("topic:orders", "topic:orders", True),
        ("*:orders", "queue:orders", True),
        ("*:orders", "topic:orders", True),
        ("*", "queue:anything at all", True),
        ("*", "topic:a/b", True),
        ("*:*", "topic:a", True),
        ("queue:*", "queue:a.b/c", True),
        ("queue:*", "queue:line\u2028end", True),
        ("queue:orders.*", "queue:orders.new", True),
        ("queue:orders.*", "queue:orders.", True),
        ("queue:orders.*", "queue:orders", False),
        ("queue:orders.*", "queue:ordersXnew", False),
        ("queue:orders.*", "queue:my.orders.new", False),
        ("queue:*.new", "queue:orders.new", True),
        ("queue:*.new", "queue:orders.new.er", False),
        ("queue:a?c", "queue:abc", True),
        ("queue:a?c", "queue:ac", False),
        ("queue:a?c", "queue:a/c", True),
        ("queue:orders", "queue:Orders", False),
        ("queue:orders", "queue:orders\n", False),
        ("queue:a[bc]", "queue:ab", False),
        ("queue:a[bc]", "queue:a[bc]", True),
        ("queue:a[!b]", "queue:a[!b]", True),
        ("queue:a\\*", "queue:a\\b", True),
        ("queue:a+(b|c)", "queue:a+(b|c)", True),
        ("queue:a+(b|c)", "queue:ab", False),
        ("queue:x:y", "queue:x:y", True),
        ("queue:{user}", "queue:alice", True),
        ("queue:{user}", "queue:{user}", False),
        ("queue:{user}.*", "queue:alice.inbox", True),
        ("queue:{user}.*", "queue:bob.inbox", False),
        ("queue:{user}-{user}", "queue:alice-alice", True),
        ("queue:{user", "queue:{user", True),
    ],
)
def test_a_pattern_covers_a_name(pattern: str, destination: str, covered: bool) -> None:
    assert covers(pattern, destination) is covered


@pytest.mark.parametrize("pattern", ["", "orders", "queue:", "Queue:a", "stream:a", ":a", "queue", "*:", "/queue/a"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(BadPattern, match="is no pattern"):
        Rights({Action.PUBLISH: [pattern]}, "alice")


@pytest.mark.parametrize("user", ["*", "?", "[a-z]*", "a|.*", "x*y", ".*", "{user}", "[", "]", "\\", "a)|(.*"])
def test_a_users_name_is_no_pattern(user: str) -> None:
    assert covers("queue:{user}.in", f"queue:{user}.in", user)
    for other in ("bob", "x", "xzy", "abc", "alice"):
        assert not covers("queue:{user}.in", f"queue:{other}.in", user)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)
wild = st.text("*?[]!-{}user\\.|()^$+ab", min_size=1, max_size=12)


@given(user=wild | names, other=wild | names)
def test_user_stands_for_that_user_and_for_nobody_else(user: str, other: str) -> None:
    assert covers("queue:{user}", f"queue:{other}", user) is (user == other)
    assert covers("queue:in.{user}.*", f"queue:in.{other}.x", user) is (
        user == other or f"{other}.x".startswith(f"{user}.")
    )


@given(pattern=wild.filter(lambda text: "{user}" not in text), name=wild | names)
def test_a_glob_means_what_two_loops_say_it_means(pattern: str, name: str) -> None:
    def matches(glob: str, text: str) -> bool:
        reached = {0}
        for character in glob:
            if character == "*":
                reached = set(range(min(reached, default=len(text) + 1), len(text) + 1))
            else:
                reached = {at + 1 for at in reached if at < len(text) and character in ("?", text[at])}
        return len(text) in reached

    assert covers(f"queue:{pattern}", f"queue:{name}") is matches(pattern, name)


def test_many_stars_cost_no_time() -> None:
    rights = Rights({Action.PUBLISH: ["queue:" + "*a" * 60 + "b"]}, "alice")
    started = time.process_time()
    assert not rights.may(Action.PUBLISH, "queue", "a" * 250)
    assert time.process_time() - started < 0.5  # one that tries every way would need longer than anybody lives


def test_a_right_to_one_action_is_none_to_another() -> None:
    for given_right in Action:
        user = User("alice", Rights({given_right: ["queue:q"]}, "alice"))
        assert [action for action in Action if may(user, action, queue("q"))] == [given_right]
        assert not any(may(user, action, topic("q")) for action in Action)


@pytest.mark.parametrize(
    ("patterns", "all_of_it"),
    [
        (["*"], True),
        (["*:**"], True),
        (["queue:*", "topic:*"], True),
        (["queue:*"], False),
        (["*:?*"], False),  # covers every name there can be, but does not say so
        (["queue:a", "topic:*"], False),
        ([], False),
    ],
)
def test_the_whole_broker_takes_every_destination(patterns: list[str], all_of_it: bool) -> None:
    assert may(User("a", Rights({Action.BROWSE: patterns}, "a")), Action.BROWSE, None) is all_of_it


def test_everything_and_nothing() -> None:
    for action in Action:
        for destination in (queue("q"), topic("t"), None):
            assert may(User("a", EVERYTHING), action, destination)
            assert not may(User("a", NOTHING), action, destination)
        assert EVERYTHING.anywhere(action)
        assert not NOTHING.anywhere(action)

"""What a flow is, said by several at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.stages.definition import amend, read


class Topic:
    """A flow's topic, as its HTTP interface shows it; others speak when `between` is called, before each word."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self.past = list(said)
        self.kept = 1000
        self.between: list[Callable[[], None]] = []

    def ask(self, method: str, path: str, said: Any) -> Any:
        assert path.startswith("/topics/flow%2Ff")
        if method == "POST":
            if self.between:
                self.between.pop(0)()
            self.past.append(said)
            del self.past[: -self.kept]
            return None
        after = int(path.rpartition("=")[2])
        page = [{"event": {"data": one}} for one in self.past[after : after + 2]]
        return {"messages": page, "after": after + 2 if len(self.past) > after + 2 else None}

    def says(self, **said: Any) -> None:
        """One of the others amends what he found, and does not look whether anybody came between."""
        self.past.append({**self.past[-1], "change": f"another's {len(self.past)}", **said})

    @property
    def last(self) -> dict[str, Any]:
        return {key: value for key, value in read(self.ask, "f").items() if key != "change"}


def canary_stopped(said: dict[str, Any]) -> dict[str, Any] | None:
    return {**said, "wanted": "v1"} if said.get("wanted") == "v2" else None


def test_a_definition_is_amended_and_what_stays_is_not_said_again() -> None:
    topic = Topic()
    assert topic.last == {}
    amend(topic.ask, "f", lambda said: {**said, "wanted": "v2"})
    amend(topic.ask, "f", canary_stopped)
    assert topic.last == {"wanted": "v1"}
    amend(topic.ask, "f", canary_stopped)
    assert len(topic.past) == 2


def test_what_somebody_else_said_meanwhile_is_amended_too() -> None:
    topic = Topic({"wanted": "v1"})
    topic.between = [lambda: topic.says(stages=["a"]), lambda: topic.says(stages=["a", "b"])]
    amend(topic.ask, "f", lambda said: {**said, "wanted": "v2"})
    # he who said it last found what was said before
    assert topic.last == {"stages": ["a", "b"], "wanted": "v2"}


def test_what_is_amended_may_be_gone_when_it_is_looked_for() -> None:
    topic = Topic({"stages": ["a"], "wanted": "v1"})
    topic.kept = 1
    amend(topic.ask, "f", lambda said: {**said, "wanted": "v2"})
    assert topic.last == {"stages": ["a"], "wanted": "v2"}


def test_what_takes_the_place_of_what_would_be_amended_stands() -> None:
    topic = Topic({"wanted": "v2"})
    topic.between = [lambda: topic.says(wanted="v3")]
    amend(topic.ask, "f", canary_stopped)
    assert topic.last == {"wanted": "v3"}

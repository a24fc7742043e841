"""Flows without a server: what stages give back, what becomes of failures, and what a commit holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker.stages import Event, Later, Pipeline, Reject, Retry


def flow() -> Pipeline:
    return Pipeline("f", version="v1").in_memory()


def data(f: Pipeline, channel: str) -> list[Any]:
    return [event.data for event in f.waiting(channel)]


def test_a_flow_runs_to_its_end() -> None:
    f = flow()
    seen = []

    @f.stage("docs", to="words")
    def split(event: Event) -> Iterator[str]:
        yield from event.data.split()

    @f.stage("words")
    def index(event: Event) -> None:
        seen.append((event.data, event.rootid, event.codeversion))

    root = f.publish("docs", "one two")
    f.drain()
    assert seen == [("one", root, "v1"), ("two", root, "v1")]
    assert not f.waiting("docs")
    assert not f.waiting("words")


@pytest.mark.parametrize(
    ("given", "outputs"),
    [(None, []), ("a", ["a"]), ({"a": 1}, [{"a": 1}]), (["a", 2], ["a", 2]), (("a",), ["a"]), (0, [0]), ([], [])],
)
def test_what_a_stage_returns_are_its_outputs(given: Any, outputs: list[Any]) -> None:
    f = flow()
    f.stage("in", to="out", name="s")(lambda event: given)
    f.publish("in", 1)
    f.drain()
    assert data(f, "out") == outputs


def test_a_stage_may_pass_on_its_input_and_say_where_to() -> None:
    f = flow()

    @f.stage("in", to="out")
    def route(event: Event) -> list[Event]:
        return [event, event.child("b", channel="other"), event.child("late", delay=60)]

    id = f.publish("in", {"a": 1}, type="made", subject="s")
    f.drain()
    passed, late = f.waiting("out")
    assert (passed.raw, passed.type, passed.subject, passed.parentid) == (b'{"a":1}', "made", "s", id)
    assert late.data == "late"
    assert data(f, "other") == ["b"]


def test_coroutines_are_stages() -> None:
    f = flow()

    @f.stage("in", to="mid")
    async def one(event: Event) -> str:
        return str(event.data) + "!"

    @f.stage("mid", to="out")
    async def many(event: Event) -> AsyncIterator[str]:
        for letter in event.data:
            yield letter

    assert {stage.mode for stage in f.stages.values()} == {"async"}
    f.publish("in", "a")
    f.drain()
    assert data(f, "out") == ["a", "!"]


def test_a_batch_says_whose_its_outputs_are() -> None:
    f = flow()

    @f.stage("in", to="out", batch=3, retries=0)
    def pairs(events: list[Event]) -> Iterator[Event]:
        for event in events:
            if event.data == "bad":
                raise ValueError("bad")
            yield event.child(f"{event.data} of {len(events)}")

    for word in ("a", "b", "c", "d", "bad", "e"):
        f.publish("in", word)
    f.drain()
    assert data(f, "out") == ["a of 3", "b of 3", "c of 3", "d of 1", "e of 1"]
    (dead,) = f.waiting("in.dead")
    assert (dead.data, dead.attributes["deadreason"]) == ("bad", "ValueError: bad")
    assert 'raise ValueError("bad")' in dead.attributes["deadtrace"]
    assert "broker/stages" not in dead.attributes["deadtrace"]


def test_in_a_batch_a_plain_value_is_refused() -> None:
    f = flow()
    f.stage("in", to="out", name="s", batch=2, retries=0)(lambda events: [1])
    f.publish("in", 1)
    f.publish("in", 2)
    f.drain()
    # one at a time there is no doubt
    assert data(f, "out") == [1, 1]


def test_failures_come_again_and_go_to_the_dead_with_who_and_why() -> None:
    f = flow()
    tried = []

    @f.stage("in", to="out", retries=2)
    def fragile(event: Event) -> str:
        tried.append((event.data, event.attempt))
        if event.data == "reject":
            raise Reject("never")
        if event.data == "retry":
            raise Retry("busy", after=1)
        if event.data == "second" and event.attempt == 1:
            raise OSError("once")
        return str(event.data)

    for word in ("reject", "retry", "second", "good"):
        f.publish("in", word)
    f.drain()
    assert data(f, "out") == ["good", "second"]
    assert [number for word, number in tried if word == "retry"] == [1, 2, 3]
    said = {event.data: event.attributes for event in f.waiting("in.dead")}
    assert said["reject"]["deadreason"] == "never"
    assert said["retry"].items() >= {"deadreason": "busy", "attempt": "3", "deadstage": "f/fragile"}.items()
    assert (said["retry"]["deadfrom"], said["retry"]["deadversion"]) == ("in", "v1")
    assert f.waiting("in.dead")[0].headers["original-destination"] == "/queue/in"


def test_later_is_no_attempt() -> None:
    f = flow()
    tried = []

    @f.stage("in", to="out", retries=0)
    def patient(event: Event) -> str:
        tried.append(event.attempt)
        if len(tried) < 5:
            raise Later
        return "done"

    f.publish("in", 1)
    f.drain()
    assert tried == [1] * 5
    assert data(f, "out") == ["done"]


def test_what_is_given_back_for_ever_ends_the_run() -> None:
    f = flow()

    @f.stage("in")
    def never(event: Event) -> None:
        raise Later

    f.publish("in", 1)
    with pytest.raises(RuntimeError, match="was given back 1000 times"):
        f.drain()


def test_outputs_that_cannot_be_stored_are_a_failure_and_none_of_them_goes_out() -> None:
    f = flow()
    f.stage("in", to="out", name="odd", retries=0)(lambda event: ["fine", object()])
    f.stage("in2", to="out", name="many", retries=0)(lambda event: range(1000).__iter__())
    f.publish("in", 1)
    f.publish("in2", 1)
    f.drain()
    assert data(f, "out") == []
    assert "object cannot be encoded" in f.waiting("in.dead")[0].attributes["deadreason"]
    assert f.waiting("in2.dead")[0].attributes["deadreason"] == "1000 outputs of one input: a commit holds 999"


def test_filters_and_topics_are_read_as_the_broker_reads_them() -> None:
    f = flow()
    f.stage("topic:orders", to="large", name="large", match="data.total >= 100")(lambda event: event)
    f.stage(["topic:orders", "more"], to="all", name="all")(lambda event: event)
    f.in_memory()
    for total in (99, 100):
        f.publish("topic:orders", {"total": total})
    f.publish("more", {"total": 1})
    f.drain()
    assert data(f, "large") == [{"total": 100}]
    assert data(f, "all") == [{"total": 99}, {"total": 100}, {"total": 1}]


def test_dead_may_be_dropped_and_stages_chosen() -> None:
    f = flow()
    f.stage("in", name="drops", dead="", retries=0)(lambda event: 1 / 0)
    f.stage("in2", to="out", name="other")(lambda event: event)
    f.publish("in", 1)
    f.publish("in2", 1)
    f.drain("drops")
    assert not f.waiting("in.dead")
    assert data(f, "in2") == [1]


@pytest.mark.parametrize(
    "said",
    [
        {"source": []},
        {"concurrency": 0},
        {"batch": 501},
        {"retries": -1},
        {"mode": "fiber"},
        {"timeout": 1},
        {"lease": 0},
    ],
)
def test_what_no_stage_can_be_is_said_at_once(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        flow().stage(**{"source": "in", **said})(lambda event: None)


def test_names_of_stages_and_flows() -> None:
    f = flow()
    f.stage("in", name="a")(lambda event: None)
    with pytest.raises(ValueError, match="there is a stage 'a' already"):
        f.stage("in", name="a")(lambda event: None)
    with pytest.raises(ValueError, match="no stage b"):
        f.drain("b")
    with pytest.raises(ValueError, match="no stages"):
        flow().drain()
    with pytest.raises(ValueError, match="without a slash"):
        Pipeline("a/b")


def test_the_version_is_that_of_the_file() -> None:
    f = Pipeline("f")
    f.stage("in", name="a")(test_later_is_no_attempt)
    assert len(f.version) == 8
    assert Pipeline("f", version="v2").version == "v2"

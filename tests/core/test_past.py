"""Bindings that begin in the past of what they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cli import main
from broker.core.destination import queue, topic
from broker.core.policy import Policies, Policy, Rule
from tests.core.support import EPOCH, Bench, Holding, result, start, text
from tests.storage.support import inline_store

KEPT = Policies(Policy(), [Rule("kept", {"retain": 3_600_000})], topic_rules=[Rule("*", {"retain": 3_600_000})])


def filled(policy: Policies = KEPT) -> Bench:
    bench = Bench(policy=policy)
    for n in range(6):
        headers = {"odd": str(n % 2)}
        result(bench.broker.publish(topic("t"), text(str(n), headers=headers)))
        result(bench.broker.publish(topic("t.u"), text(f"u{n}", headers=headers)))
        bench.turn(10)
    return bench


def bound(bench: Bench, name: str, source: str = "t", **wishes: object) -> list[bytes]:
    result(start(bench.broker.bind(name, topic(source), **wishes)))  # type: ignore[arg-type]
    return everything(bench, name)


def everything(bench: Bench, name: str) -> list[bytes]:
    found = []
    while (body := bench.body(name)) is not None:
        found.append(body)
    return found


def test_from_the_start_from_a_time_and_from_now() -> None:
    bench = filled()
    assert bound(bench, "all", since=0) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert bound(bench, "late", since=(EPOCH + 35) * 1_000_000) == [b"4", b"5"]
    assert bound(bench, "future", since=(EPOCH + 10_000) * 1_000_000) == []
    assert bound(bench, "now") == []
    result(bench.broker.publish(topic("t"), text("new")))
    assert [everything(bench, name) for name in ("all", "late", "future", "now")] == [[b"new"]] * 4


def test_a_pattern_reads_the_past_of_all_its_topics() -> None:
    bench = filled()
    assert bound(bench, "all", "#", since=(EPOCH + 35) * 1_000_000) == [b"4", b"u4", b"5", b"u5"]


def test_a_filter_is_asked_of_the_past_too() -> None:
    bench = filled()
    assert bound(bench, "odd", match="header.odd = '1'", since=0) == [b"1", b"3", b"5"]
    assert bench.broker.queue_stats("odd").discarded == 0


def test_after_a_restart_and_with_another_filter_for_what_comes() -> None:
    bench = filled()
    result(start(bench.broker.bind("odd", topic("t"), match="header.odd = '1'", since=0)))
    result(bench.broker.publish(topic("t"), text("6", headers={"odd": "0"})))
    result(bench.broker.publish(topic("t"), text("7", headers={"odd": "1"})))
    result(start(bench.broker.bind("odd", topic("t"), match="header.odd = '0'")))
    result(bench.broker.publish(topic("t"), text("8", headers={"odd": "0"})))
    result(bench.broker.publish(topic("t"), text("9", headers={"odd": "1"})))
    bench.boot()
    assert everything(bench, "odd") == [b"1", b"3", b"5", b"7", b"8"]


def test_what_it_does_not_want_of_the_past_is_settled_on_disk() -> None:
    bench = filled()
    assert bound(bench, "none", match="header.odd = '2'", since=0) == []
    bench.turn()
    bench.boot()
    assert bench.broker.queue_stats("none").ready == 0


def test_a_binding_that_is_there_does_not_go_back() -> None:
    bench = filled()
    assert bound(bench, "q") == []
    assert bound(bench, "q", match="header.odd = '1'", since=0) == []


def test_the_past_of_a_queue_that_is_kept() -> None:
    bench = Bench(policy=KEPT)
    for n in range(3):
        result(bench.broker.publish(queue("kept"), text(str(n))))
    assert everything(bench, "kept") == [b"0", b"1", b"2"]
    bench.turn(100)
    result(start(bench.broker.bind("again", queue("kept"), since=0)))
    assert everything(bench, "again") == [b"0", b"1", b"2"]


def test_where_nothing_is_kept_there_is_no_past() -> None:
    bench = filled(Policies())
    assert bound(bench, "all", since=0) == []


def test_patterns_and_the_past_outlive_a_fold_a_dump_and_a_load(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = inline_store(tmp_path / "a.sqlite")
    bench = Bench(Holding(lambda: store), KEPT)
    for n in range(4):
        result(bench.broker.publish(topic("t.u"), text(str(n), headers={"odd": str(n % 2)})))
    result(start(bench.broker.bind("all", topic("t.*"), since=0)))
    result(start(bench.broker.bind("odd", topic("t.u"), match="header.odd = '1'", since=0)))
    result(start(bench.broker.stop()))

    def dumped(name: str) -> str:
        assert main(["dump", str(tmp_path / name)]) == 0
        return capfd.readouterr().out

    (tmp_path / "dump").write_text(dumped("a.sqlite"))
    assert main(["load", str(tmp_path / "dump"), str(tmp_path / "b.sqlite")]) == 0
    capfd.readouterr()
    assert dumped("b.sqlite") == dumped("a.sqlite")
    for name in ("a.sqlite", "b.sqlite"):
        store = inline_store(tmp_path / name)
        bench = Bench(Holding(lambda: store), KEPT)  # noqa: B023 - called at once
        assert bench.broker.sources("all") == [topic("t.*")]
        assert everything(bench, "odd") == [b"1", b"3"]
        assert result(start(bench.broker.unbind("all", topic("t.*"))))
        result(bench.broker.publish(topic("t.u"), text("new")))
        assert everything(bench, "all") == [b"0", b"1", b"2", b"3"]
        result(start(bench.broker.stop()))
